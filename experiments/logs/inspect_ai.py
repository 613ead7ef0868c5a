"""Logs of inspect: probabilities of the answer's letter, or a confidence that a scorer noted.

The letter's token is the one after ``ANSWER:``, as inspect's own multiple-choice prompts ask for
it, and the first one of the output where there is none.
"""

from __future__ import annotations

import pathlib
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from experiments.harness.errors import InputError
from experiments.logs import archive, json_files, values
from experiments.logs.rows import Rated, Rows, Scored, stack, stack_rated

_ASKED = re.compile(r"ANSWER\s*:[\s*($]*$", re.IGNORECASE)  # inspect takes **A**, (A), $A$ too
_REACH = 32  # characters before a token, more than _ASKED matches in earnest
_SPACES = str.maketrans("▁Ġ", "  ")  # how SentencePiece and byte-level BPE write a space
_Sample = dict[str, Any]


def read(path: str) -> Rows:
    """Read a log in the ``.eval`` or the ``.json`` format.

    A letter that the tokens listed for the answer do not spell has at most the probability of the
    least of them, and is given that; a warning says how often. Samples that ended in an error are
    left out, with a warning. Epochs of a sample are resampled together, and samples whose metadata
    name the same ``image``.

    Args:
        path: of the file.

    Raises:
        InputError: a damaged log, or a sample without evidence.
    """
    file = pathlib.Path(path)
    source, samples = f"inspect:{path}", list(_samples(file))
    answered = [(where, sample) for where, sample in samples if not sample.get("error")]
    if left_out := len(samples) - len(answered):
        logging.warning("%s: samples that ended in an error, left out: %d", source, left_out)
    if any(_has_letters(sample, where) for where, sample in answered):
        return _stack_letters(source, answered)
    rows = []
    for where, sample in answered:
        with json_files.reading(where, "a sample as inspect writes it"):
            rows.append(_rated(sample, where))
    return stack_rated(source, rows)


def _samples(file: pathlib.Path) -> Iterator[tuple[str, _Sample]]:
    """Yield where a sample is and what it says."""
    if file.suffix == ".json":
        content = json_files.parse(file.read_bytes(), str(file))
        with json_files.reading(str(file), "a log as inspect writes it"):
            found = list(content["samples"])
    else:
        parts = archive.members(file, "samples/")
        found = [json_files.parse(content, f"{file}, {name}") for name, content in parts]
    for sample in found:
        with json_files.reading(str(file), "a sample as inspect writes it"):
            yield f"{file}, sample {sample['id']}", sample


def _has_letters(sample: _Sample, where: str) -> bool:
    """Return whether a sample has choices and probabilities of tokens."""
    with json_files.reading(where, "a sample as inspect writes it"):
        return bool(sample.get("choices") and _tokens(sample))


def _tokens(sample: _Sample) -> Sequence[Mapping[str, Any]]:
    """Return the generated tokens with their probabilities, none if they were not asked for."""
    choices = sample["output"].get("choices") or [{}]
    return (choices[0].get("logprobs") or {}).get("content") or []


def _stack_letters(source: str, samples: Sequence[tuple[str, _Sample]]) -> Rows:
    """Join samples that have probabilities of tokens."""
    rows, unlisted = [], 0
    for where, sample in samples:
        with json_files.reading(where, "a sample as inspect writes it"):
            row, missing = _scored(sample, where)
        rows.append(row)
        unlisted += missing
    if unlisted:
        logging.warning(
            "%s: letters that no listed token spells: %d; each is given the least listed "
            "probability, an upper bound",
            source,
            unlisted,
        )
    unread = sum(row.prediction is None for row in rows)
    if 0 < unread < len(rows):
        logging.warning(
            "%s: answers that inspect took no letter from: %d; the likeliest letter is taken",
            source,
            unread,
        )
    return stack(source, rows)


def _scored(sample: _Sample, where: str) -> tuple[Scored, int]:
    """Return a sample's row and how many of its letters no listed token spells."""
    letters = _letters(len(sample["choices"] or ()))
    token = _answer_token(_tokens(sample), where)
    listed = _listed(token, where)
    spellings = {a: [mass for text, mass in listed if _letter(text) == a] for a in letters}
    masses = {a: float(np.logaddexp.reduce(found)) for a, found in spellings.items() if found}
    if not masses:
        shown = ", ".join(repr(text) for text, _ in listed[:5])
        raise InputError(
            f"{where}: no token listed for the answer is one of {', '.join(letters)} but {shown}; "
            "a single letter, or ANSWER: and a letter, is needed, and top_logprobs"
        )
    least = min(mass for _, mass in listed)
    label = _target(sample["target"], letters, where)
    row = Scored(
        key=f"{sample['id']}/{sample['epoch']}",
        log_masses=tuple(masses.get(a, least) for a in letters),
        label=label,
        prediction=_prediction(sample, letters, label, _letter(token["token"]), where),
        answer_log_mass=min(0.0, float(np.logaddexp.reduce(list(masses.values())))),
        group=_group(sample),
    )
    return row, len(letters) - len(masses)


def _group(sample: _Sample) -> str:
    """Return what a sample is resampled with: its picture if it names one, else its epochs."""
    image = (sample.get("metadata") or {}).get("image")
    return image if isinstance(image, str) else str(sample["id"])


def _letters(count: int) -> tuple[str, ...]:
    """Return what inspect calls choices: A to Z, then numbers from 1."""
    if count < 2:
        raise ValueError(f"{count} choices")
    return (*string.ascii_uppercase, *map(str, range(1, count)))[:count]


def _letter(token: str) -> str:
    """Return a token without its spaces, in upper case."""
    return token.translate(_SPACES).strip().upper()


def _answer_token(tokens: Sequence[Mapping[str, Any]], where: str) -> Mapping[str, Any]:
    """Return the token after the last ``ANSWER:``, the first of all if there is none."""
    if not tokens:
        raise InputError(f"{where}: no logprobs, other samples have them; all are needed")
    found, text = tokens[0], ""
    for token in tokens:
        if _ASKED.search(text) and _letter(token["token"]):
            found = token
        text = (text + token["token"].translate(_SPACES))[-_REACH:]
    return found


def _listed(token: Mapping[str, Any], where: str) -> list[tuple[str, float]]:
    """Return text and log probability of the likeliest tokens and of the one written."""
    entries = list(token.get("top_logprobs") or ())
    if token["token"] not in [entry["token"] for entry in entries]:
        entries.append(token)
    name = f"{where}: logprob"
    possible = [entry for entry in entries if entry["logprob"] != -np.inf]
    return [(entry["token"], values.number(entry["logprob"], name)) for entry in possible]


def _target(target: str | Sequence[str], letters: Sequence[str], where: str) -> int:
    """Return the index of the right letter."""
    right = [target] if isinstance(target, str) else list(target)
    if len(right) != 1 or right[0].strip().upper() not in letters:
        raise InputError(f"{where}: target {target!r} is not one of {', '.join(letters)}")
    return letters.index(right[0].strip().upper())


def _prediction(
    sample: _Sample, letters: Sequence[str], label: int, written: str, where: str
) -> int | None:
    """Return the index of the letter that a scorer took for the answer, None if none did."""
    for score in (sample.get("scores") or {}).values():
        answer = str(score.get("answer") or "").strip().upper()
        if answer not in letters:
            continue
        if written in letters and written != answer:
            raise InputError(
                f"{where}: {written} was written and {answer} scored, as if the solver shuffled "
                "the choices; shuffle them in the dataset (shuffle_choices) instead"
            )
        right = values.correctness(score["value"], f"{where}: score")
        if right != (letters.index(answer) == label):
            verdict = "right" if right else "wrong"
            raise InputError(f"{where}: {answer} was scored as {verdict}; target {letters[label]}")
        return letters.index(answer)
    return None


def _rated(sample: _Sample, where: str) -> Rated:
    """Return a sample's row from the confidence that a scorer noted."""
    for score in (sample.get("scores") or {}).values():
        noted = score.get("metadata") or {}
        if "confidence" in noted:
            return Rated(
                key=f"{sample['id']}/{sample['epoch']}",
                confidence=values.probability(noted["confidence"], f"{where}: confidence"),
                correct=values.correctness(score["value"], f"{where}: score"),
                group=_group(sample),
            )
    raise InputError(
        f"{where}: neither logprobs of a choice's letter (run with --logprobs --top-logprobs=20) "
        "nor a confidence in a score's metadata"
    )
