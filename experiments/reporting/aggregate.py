"""From the record folders of a run to results.json."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

import calibration.report
from experiments.harness import questions, records
from experiments.reporting import predictions
from experiments.scoring import Answer, Scores

RESULTS = "results.json"
METRICS = {*calibration.COLUMNS, *calibration.VALUE_ONLY}
_BOOTSTRAP_SEED = 0
_REALISED = {"visual_tokens", "tflop"}
_ENTRY = {"setting", "run", "records", "mode", "n", "images", "failed", "seed", "splits"}
_SCORED = {"source", "asked", "route", "scores"}


class Scorer(Protocol):
    """A benchmark's tools."""

    @property
    def splits(self) -> Sequence[str]:
        """Names, in the order of the tables."""

    @property
    def correct_by(self) -> str:
        """The tool that ``correct`` follows."""

    @property
    def score(self) -> Callable[[Sequence[Answer]], Scores]:
        """Each tool's numbers."""

    @property
    def correct(self) -> Callable[[Answer], bool]:
        """Whether a generated answer is right."""


def results(
    out: pathlib.Path,
    folders: Sequence[pathlib.Path],
    scorer: Scorer,
    mode: calibration.report.Mode,
) -> dict[str, Any]:
    """Evaluate the settings of a run folder and write results.json.

    Settings that are sealed and were evaluated before with the same records and mode are taken
    from the last results.json.

    Args:
        out: the run folder.
        folders: settings to report even if rows failed.
        scorer: the benchmark.
        mode: ``default`` or ``paper`` statistics.

    Returns:
        Contents of results.json: ``settings`` and ``over_seeds``.
    """
    sealed = [file.parent for file in sorted(out.glob(f"*/{records.SEALED}"))]
    known = {(e["setting"], e["records"], e["mode"]): e for e in _previous(out)}
    entries = []
    for folder in dict.fromkeys([*folders, *sealed]):
        if records.read_records(folder):
            state = _state(folder)
            entry = known.get((folder.name, state, mode)) if state else None
            entries.append(entry or _evaluate(folder, state, scorer, mode))
    content = {"settings": entries, "over_seeds": over_seeds(entries)}
    records.write_atomically(out / RESULTS, content)
    return content


def compile_ahead(
    num_rows: int,
    num_choices: int,
    num_images: int,
    num_splits: int,
    mode: calibration.report.Mode,
    *,
    generated: bool = False,
) -> None:
    """Compile what ``results`` will run, into the persistent cache.

    Args:
        num_rows: answers of a setting.
        num_choices: choices of the question that has most.
        num_images: pictures.
        num_splits: parts of the benchmark.
        mode: ``default`` or ``paper`` statistics.
        generated: whether answers are texts.
    """
    with on_host():
        calibration.report.lower(
            num_rows,
            2 if generated else num_choices,
            num_groups=num_images,
            num_splits=num_splits,
            mode=mode,
            predicted=generated,
        ).compile()


def on_host() -> contextlib.AbstractContextManager[Any]:
    """Compute on the CPU: a table needs no accelerator, and must not depend on there being one."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        host = None
    return jax.default_device(host)


def _previous(out: pathlib.Path) -> list[dict[str, Any]]:
    """Return the settings of the last results.json that have today's metrics."""
    try:
        entries = json.loads((out / RESULTS).read_text())["settings"]
        needed = _ENTRY | _REALISED | _SCORED
        return [e for e in entries if set(e["metrics"]) == METRICS and set(e) >= needed]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _state(folder: pathlib.Path) -> str | None:
    """Return the hash of a sealed folder's records, None if it is not sealed."""
    file = folder / records.SEALED
    return json.loads(file.read_text())["sha256"] if file.is_file() else None


def _evaluate(
    folder: pathlib.Path, state: str | None, scorer: Scorer, mode: calibration.report.Mode
) -> dict[str, Any]:
    """Compute one setting's entry of results.json."""
    run, rows = predictions.read_run(folder), tuple(records.read_records(folder).values())
    identity = run["identity"]
    asked = questions.read(folder.parent, identity["data"]["sha256"])
    answers = {row.key: asked[row.key].answered(_text(row, asked[row.key])) for row in rows}
    return {
        "setting": folder.name,
        **run["setting"],
        "run": _same_but_for_the_seed(run),
        "failed": run["expected"]["rows"] - len(rows),
        "mode": mode,
        "records": state,
        **_realised(run["plan"]),
        "source": run.get("source"),
        "asked": identity.get("asked", {}),
        "route": identity["confidence"]["route"],
        "scores": scorer.score([answers[key] for key in asked if key in answers]),
        **_measured(rows, answers, scorer, identity["confidence"]["route"], mode),
    }


def _text(row: records.Record, question: questions.Question) -> str:
    """Return what was said; on the first-token route the likeliest choice."""
    if row.text is not None:
        return row.text
    return question.choices[int(np.argmax(row.log_masses))]


def _measured(
    rows: Sequence[records.Record],
    answers: Mapping[str, Answer],
    scorer: Scorer,
    route: str,
    mode: calibration.report.Mode,
) -> dict[str, Any]:
    """Return metrics: of the choices, or of the texts by each of their two confidences."""
    splits = scorer.splits
    if route == "first_token":
        return _entry(predictions.of_first_token(rows, splits), splits, mode)
    right = {key: scorer.correct(answer) for key, answer in answers.items()}
    whole, per_token = (
        _entry(predictions.of_text(rows, splits, right, per_token=each), splits, mode)
        for each in (False, True)
    )
    found = {"metrics": per_token["metrics"], "splits": per_token["splits"]}
    return {"correct_by": scorer.correct_by, **whole, "per_token": found}


def _entry(
    rows: predictions.Predictions, splits: Sequence[str], mode: calibration.report.Mode
) -> dict[str, Any]:
    return entry(
        rows.log_masses,
        rows.label,
        rows.answer_log_mass,
        prediction=rows.prediction,
        valid=rows.valid,
        group=rows.image,
        split=rows.split,
        splits=splits,
        mode=mode,
    )


def _realised(plan: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the mean of the visual tokens over decoder layers, and the operations in TFLOP."""
    counts, flop = plan.get("visual_tokens_per_layer"), plan.get("flop")
    return {
        "visual_tokens": statistics.fmean(counts) if counts else None,
        "tflop": flop / 1e12 if flop else None,
    }


def entry(
    log_masses: np.ndarray,
    label: np.ndarray,
    answer_log_mass: np.ndarray | None,
    *,
    valid: np.ndarray,
    group: np.ndarray,
    split: np.ndarray | None,
    splits: Sequence[str],
    mode: calibration.report.Mode,
    prediction: np.ndarray | None = None,
) -> dict[str, Any]:
    """Evaluate rows as the entries of results.json and the tables have them.

    Args:
        log_masses: float32[E, C].
        label: int32[E].
        answer_log_mass: float32[E], None if unknown.
        valid: bool[E, C], choices that a row has.
        group: int32[E], 0 … number of groups − 1, the unit of resampling.
        split: int32[E], index into splits; None is allowed if there are none.
        splits: names.
        mode: ``default`` or ``paper`` statistics.
        prediction: int32[E], the choice taken for the answer; None is the likeliest.

    Returns:
        ``n``, ``images`` (the number of groups), ``metrics`` and ``splits``.

    Raises:
        ValueError: an input is invalid.
    """
    with on_host():
        report = calibration.report.evaluate(
            log_masses,
            label,
            answer_log_mass,
            prediction=prediction,
            valid=valid,
            group=group,
            split=split,
            num_splits=len(splits),
            key=jax.random.key(_BOOTSTRAP_SEED),
            mode=mode,
        )
        found = report.to_dict(splits)
    return {
        "n": len(label),
        "images": int(group.max()) + 1,
        "metrics": found["metrics"],
        "splits": found["splits"],
    }


def _same_but_for_the_seed(run: Mapping[str, Any]) -> str:
    """Return a hash of a run's identity without its seed."""
    setting = run["identity"]["setting"] | {"seed": None}
    content = records.canonical(run["identity"] | {"setting": setting})
    return hashlib.sha256(content).hexdigest()[:16]


def over_seeds(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation (ddof = 1) of runs that differ in the seed alone."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["seed"] is not None:
            groups.setdefault((entry["run"], entry["mode"]), []).append(entry)
    own = _ENTRY | {"metrics"}
    return [
        {name: value for name, value in group[0].items() if name not in own}
        | {
            "mode": group[0]["mode"],
            "settings": [entry["setting"] for entry in group],
            "seeds": [entry["seed"] for entry in group],
            "metrics": {name: _spread(group, name) for name in group[0]["metrics"]},
        }
        for group in groups.values()
        if len(group) > 1
    ]


def _spread(group: Sequence[Mapping[str, Any]], name: str) -> dict[str, float | None]:
    values = [entry["metrics"][name]["value"] for entry in group]
    if None in values:
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values)}
