"""A section in HTML. All that is static; the scripts add to it what moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.reporting.page import overlays
from experiments.reporting.page.escaping import json_text, line, lines, short
from experiments.reporting.page.examples import WHOLE, Example
from experiments.reporting.page.sections import Diagram, Section
from experiments.reporting.page.tables import Table

_FIRST_FEW = 2
"""Diagrams that stand open."""


def section(found: Section, name: str) -> str:
    """Return a section.

    Args:
        found: what it shows.
        name: its id, unique in the page.
    """
    parts = [
        f'<section class="run" id="{name}">',
        f"<h2>{line(found.title)}</h2>",
        _facts(found.facts),
        *(f'<p class="note">{line(note)}</p>' for note in found.notes),
        *map(table, found.tables),
        "<h3>Reliability, risk against coverage, and flips</h3>",
        '<div class="live" data-live="compare" hidden></div>',
        _diagrams(found.diagrams),
        *_examples(found, name),
        f'<script type="application/json" class="data">{json_text(found.data)}</script>',
        "</section>",
    ]
    return "\n".join(parts)


def table(found: Table) -> str:
    """Return a table with its title and note."""
    heading = "".join(f'<th scope="col">{line(column)}</th>' for column in found.columns)
    rows = [
        f'<tr><th scope="row">{line(first)}</th>{"".join(map(_cell, others))}</tr>'
        for first, *others in found.rows
    ]
    note = f'<p class="about">{line(found.note)}</p>\n' if found.note else ""
    return (
        f'<h3>{line(found.title)}</h3>\n{note}<div class="wide"><table>\n'
        f"<thead><tr>{heading}</tr></thead>\n<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """Return a cell, what stands behind a line end small."""
    value, _, below = text.partition("\n")
    small = f"<small>{lines(below)}</small>" if below else ""
    return f"<td>{line(value)}{small}</td>"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    pairs = "".join(f"<div><dt>{line(n)}</dt><dd>{line(v)}</dd></div>" for n, v in facts)
    return f'<dl class="facts">{pairs}</dl>'


def _diagrams(found: Sequence[Diagram]) -> str:
    """Return every setting's diagrams, the first few in sight."""
    cards = [
        f'<figure class="still"><figcaption><b>{line(one.label)}</b><br>{line(one.says)}'
        f"</figcaption>{one.reliability}{one.coverage}</figure>"
        for one in found
    ]
    about = (
        "In 15 bins of equal width. Dots are at a bin's mean confidence, whiskers are Wilson's "
        "95 % intervals, which take rows for independent; the strip below has the counts."
    )
    rest = cards[_FIRST_FEW:]
    more = (
        f"<details><summary>The other {len(rest)} settings</summary>"
        f'<div class="stills">{"".join(rest)}</div></details>'
    )
    return (
        f'<div class="all"><p class="about">{about}</p>'
        f'<div class="stills">{"".join(cards[:_FIRST_FEW])}</div>{more if rest else ""}</div>'
    )


def _examples(found: Section, name: str) -> Iterator[str]:
    """Yield the questions listed; each picture is written once."""
    if not found.examples:
        return
    places = {image: f"{name}-p{place}" for place, image in enumerate(found.pictures)}
    images = "".join(
        f'<image id="{places[image]}" width="24" height="24" href="{line(uri)}"/>'
        for image, uri in found.pictures.items()
    )
    yield f"<h3>{len(found.examples)} questions</h3>"
    yield (
        '<p class="about">Those that pruning changed most are first: answers that became right or '
        "wrong, then those whose probability moved most. Dark patches were dropped; a patch has "
        "the colour of the budget at which it came.</p>"
    )
    yield f'<svg class="store" width="0" height="0" aria-hidden="true"><defs>{images}</defs></svg>'
    yield '<div class="live" data-live="examples" hidden></div>'
    for place, example in enumerate(found.examples):
        yield _example(found, example, f"{name}-q{place}", places.get(example.image))


def _example(found: Section, one: Example, name: str, picture: str | None) -> str:
    """Return a question: its picture and tokens, and the answers beside each other."""
    label = found.diagrams[one.shown].label
    image = line(one.image)
    heading = f'<h4><a href="#{name}">{line(one.key)}</a> <span>picture {image}</span></h4>'
    text = f'<p class="asked" dir="auto">{lines(one.text)}</p>' if one.text else ""
    right = f'<p>Right: <b dir="auto">{line(one.right)}</b></p>'
    drawn, chips = _picture(found, one, picture)
    return (
        f'<article class="question" id="{name}">{heading}<div class="pair">'
        f'<div class="seen">{drawn}<p class="chips">{chips}</p></div>'
        f'<div class="answers">{text}{right}{_choices(one, label)}</div></div></article>'
    )


def _picture(found: Section, one: Example, picture: str | None) -> tuple[str, str]:
    """Return the picture below the tokens that the setting shown kept, and the colours' budgets."""
    places = next((p for p in found.methods.values() if one.shown in p), ())
    shown = [place for place in places if place <= one.shown]
    masks = [mask for place in shown if (mask := one.masks[place]) is not None]
    parts = [
        f'<use href="#{picture}"/>' if picture else '<rect class="blank" width="24" height="24"/>'
    ]
    chips = ""
    if found.side and masks:
        drawn = overlays.png(overlays.steps(masks))
        parts.append(f'<image class="tokens" width="24" height="24" href="{drawn}"/>')
        budgets = [found.data["settings"][place]["budget"] for place in shown]
        chips = "".join(chip(step, budget) for step, budget in enumerate(budgets, 1))
    said = f"picture {line(one.image)}" + ("" if picture else ", which is not at hand")
    opening = f'<svg class="picture" viewBox="0 0 24 24" role="img" aria-label="{said}">'
    return f"{opening}{''.join(parts)}</svg>", chips


def chip(step: int, budget: int) -> str:
    """Return the colour of a step with its budget."""
    red, green, blue, opacity = overlays.COLOURS[overlays.colour(step)]
    fill = f'fill="rgb({red},{green},{blue})" fill-opacity="{opacity / 255:.2f}"'
    square = f'<svg viewBox="0 0 10 10"><rect width="10" height="10" {fill}/></svg>'
    return f'<span class="chip">{square}K = {budget}</span>'


def _choices(one: Example, label: str) -> str:
    """Return the choices' probabilities, full tokens against the setting shown."""
    settings = [0, one.shown] if one.shown else [0]
    heads = "".join(
        f'<th scope="col"><b>{line(head)}</b><span class="said" dir="auto">'
        f"{line(short(one.said[place]))}</span>{_verdict(one, place)}</th>"
        for place, head in zip(settings, ("full tokens", label), strict=False)
    )
    rows = []
    for choice, name in enumerate(one.choices):
        mark = ' class="right"' if choice == one.label else ""
        cells = "".join(_bar(int(one.probabilities[place, choice])) for place in settings)
        rows.append(f'<tr{mark}><th scope="row" dir="auto">{line(short(name))}</th>{cells}</tr>')
    return (
        f'<table class="choices"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _verdict(one: Example, place: int) -> str:
    word = "right" if one.correct[place] else "wrong"
    return f'<span class="verdict {word}">{word}</span>'


def _bar(parts: int) -> str:
    """Return a probability as a bar and a number."""
    percent = 100 * parts / WHOLE
    bar = f'<rect width="{percent:.2f}" height="8"/>'
    drawn = f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none">{bar}</svg>'
    return f"<td>{drawn}<span>{percent:.1f} %</span></td>"
