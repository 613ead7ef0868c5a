"""From a run to what the page shows of it. Axis letters: E examples, S settings."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.reporting.page import diagrams, escaping, examples, naming, overlays, tables
from experiments.reporting.page.examples import Example
from experiments.reporting.page.naming import Named
from experiments.reporting.page.pictures import thumbnail
from experiments.reporting.page.tables import Table
from experiments.reporting.runs import Run

MOST_MARGINS = 240_000
"""Rows times settings whose confidence goes into a page of 5 MB."""
_POCKET = "pocket"
_SMALL_MODEL = (
    "The model is the small one that comes with this package, trained on drawn scenes: "
    "these numbers are no result of LLaVA-1.5-7B."
)


@dataclasses.dataclass(frozen=True)
class Diagram:
    """A setting's diagrams.

    Attributes:
        label: of the setting.
        says: accuracy, confidence and ECE in words.
        reliability: SVG.
        coverage: SVG.
    """

    label: str
    says: str
    reliability: str
    coverage: str


@dataclasses.dataclass(frozen=True)
class Section:
    """What the page shows of a run.

    Attributes:
        title: the benchmark.
        facts: name and value, in words.
        notes: what a reader must know.
        tables: of the run.
        diagrams: one per setting, full tokens first.
        examples: the questions listed.
        pictures: picture → data: URI, of the examples whose pictures were to be had.
        methods: method → places of its settings.
        side: tokens along a picture's side, None if no overlay can be drawn.
        data: what the scripts read.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    diagrams: tuple[Diagram, ...]
    examples: tuple[Example, ...]
    pictures: Mapping[str, str]
    methods: Mapping[str, Sequence[int]]
    side: int | None
    data: Mapping[str, Any]


def section(
    run: Run,
    pictures: Callable[[str], Image.Image | None],
    *,
    count: int = examples.NUM_EXAMPLES,
    notes: Sequence[str] = (),
    extra: Sequence[Table] = (),
    most_margins: int = MOST_MARGINS,
) -> Section:
    """Take from a run what the page shows of it.

    Args:
        run: the run.
        pictures: id → the square picture as the model saw it, None if it cannot be had.
        count: questions listed, at most.
        notes: more that a reader must know.
        extra: more tables, behind those of the run.
        most_margins: rows times settings that the scripts can draw anew; settings beyond have
            their diagrams in 15 bins only.
    """
    named = naming.ordered(run.settings)
    listed = examples.of(run, named, count)
    seen = {image: pictures(image) for image in dict.fromkeys(one.image for one in listed)}
    thumbnails = {image: thumbnail(found) for image, found in seen.items() if found is not None}
    notes = [*([_SMALL_MODEL] if run.model == _POCKET else []), *notes]
    missing = len(seen) - len(thumbnails)
    if missing and thumbnails:
        notes.append(f"{missing} of {len(seen)} pictures could not be had and are left out.")
    alive = _alive(named, run.num_rows, most_margins)
    if left := len(named) - len(alive):
        notes.append(
            f"{left} settings have their diagrams in 15 bins only, to keep the page small."
        )
    compared = [tables.against_full(named), tables.over_seeds(named)]
    methods = naming.by_method(named)
    side = None if _in_tiles(run) else overlays.side(int(run.full.about["budget"]))
    return Section(
        title=" in ".join(dict.fromkeys((run.benchmark, run.path.name))),
        facts=_facts(run),
        notes=tuple(notes),
        tables=(tables.metrics(named), *(t for t in compared if t.rows), *extra),
        diagrams=tuple(_diagram(one) for one in named),
        examples=listed,
        pictures=thumbnails,
        methods=methods,
        side=side,
        data=_data(run, named, methods, listed, alive, side),
    )


def _in_tiles(run: Run) -> bool:
    """Return whether the model is a LLaVA-NeXT: then tokens lie on no single grid."""
    model = run.full.run["identity"].get("model")
    return isinstance(model, dict) and "grid_pinpoints" in model


def _given(identity: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how questions are asked."""
    asked = identity.get("asked")
    return [(n, str(value)) for n, value in asked.items()] if isinstance(asked, dict) else []


def _facts(run: Run) -> tuple[tuple[str, str], ...]:
    """Return what the run is."""
    identity = run.full.run["identity"]
    names, _, counts = run.heading.partition("; ")
    return (
        ("run", names),
        ("rows", counts),
        ("route", run.route),
        ("statistics", run.full.mode),
        ("dtype", " ".join(str(identity.get(n) or "") for n in ("dtype", "quantization")).strip()),
        ("asked", ", ".join(f"{n} {value}" for n, value in _given(identity))),
        ("weights", str(identity.get("weights", "?"))[:16]),
        ("data", identity["data"]["sha256"][:16]),
    )


def _diagram(one: Named) -> Diagram:
    """Draw a setting."""
    label, report, top = escaping.line(one.label), one.setting.report, one.setting.top
    accuracy, confidence, ece = (
        float(report.metrics[name].value) for name in ("accuracy", "mean_confidence", "ece")
    )
    says = f"accuracy {accuracy:.3f}, mean confidence {confidence:.3f}, ECE {ece:.3f}"
    margin, correct = np.asarray(top.margin), np.asarray(top.correct)
    return Diagram(
        label=one.label,
        says=says,
        reliability=diagrams.reliability(report.bins, f"Reliability of {label}: {says}"),
        coverage=diagrams.coverage(margin, correct, f"Risk against coverage of {label}"),
    )


def _alive(named: Sequence[Named], num_rows: int, most: int) -> set[int]:
    """Return the places of the settings that can be drawn anew: other seeds come last."""
    seeds: dict[str, int] = {}
    ranks = []
    for place, one in enumerate(named):
        group = str({**one.setting.about, "seed": None})
        seeds[group] = seeds.get(group, -1) + 1
        ranks.append((seeds[group], place))
    return {place for _, place in sorted(ranks)[: max(most // num_rows, 1)]}


def _data(
    run: Run,
    named: Sequence[Named],
    methods: Mapping[str, Sequence[int]],
    listed: Sequence[Example],
    alive: set[int],
    side: int | None,
) -> dict[str, Any]:
    """Return what the scripts read; texts are inert already or words of this package."""
    masks: dict[str, int] = {}
    return {
        "rows": run.num_rows,
        "images": _base64(run.full.rows.image, "<u4"),
        "side": side,
        "settings": [
            {
                "label": one.label,
                "budget": one.setting.about["budget"],
                "correct": overlays.packed(np.asarray(one.setting.top.correct)),
                "margin": _base64(one.setting.top.margin, "<f4") if place in alive else None,
            }
            for place, one in enumerate(named)
        ],
        "methods": [{"name": name, "settings": places} for name, places in methods.items()],
        "colours": overlays.COLOURS,
        "examples": [
            {
                "row": one.row,
                "shown": one.shown,
                "parts": one.probabilities.tolist(),
                "said": [escaping.short(said) for said in one.said],
                "masks": [_place(mask, masks) for mask in one.masks] if side else [],
            }
            for one in listed
        ],
        "masks": list(masks),
        "whole": examples.WHOLE,
    }


def _place(mask: np.ndarray | None, masks: dict[str, int]) -> int | None:
    """Return a mask's place among those that are written once."""
    return None if mask is None else masks.setdefault(overlays.packed(mask), len(masks))


def _base64(values: Any, dtype: str) -> str:
    """Return numbers as the scripts' typed arrays have them."""
    return base64.b64encode(np.asarray(values, dtype).tobytes()).decode("ascii")
