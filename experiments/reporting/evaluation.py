"""One setting's entry of results.json: its metrics with intervals, and its tools' scores."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

import calibration.report
from experiments.harness import questions, records
from experiments.harness.errors import InputError
from experiments.reporting import predictions
from experiments.scoring import Answer, Scores

BOOTSTRAP_SEED = 0


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


def of_setting(
    folder: pathlib.Path, scorer: Scorer, mode: calibration.report.Mode
) -> dict[str, Any]:
    """Compute one setting's entry of results.json.

    Args:
        folder: of the setting.
        scorer: the benchmark.
        mode: ``default`` or ``paper`` statistics.

    Raises:
        InputError: contradicting records, records that cannot be measured, or a text's question
            is not known.
    """
    run, rows = predictions.read_run(folder), tuple(records.read_records(folder).values())
    identity = run["identity"]
    answers = _answers(folder, identity, rows)
    try:
        measured = _measured(rows, answers, scorer, identity["confidence"]["route"], mode)
    except ValueError as error:
        raise InputError(f"the records of {folder} cannot be measured: {error}") from None
    return {
        "setting": folder.name,
        **run["setting"],
        "run": _same_but_for_the_seed(run),
        "failed": run["expected"]["rows"] - len(rows),
        "mode": mode,
        **_realised(run["plan"]),
        "source": run.get("source"),
        "asked": _asked(identity),
        "route": identity["confidence"]["route"],
        "scores": scorer.score(list(answers.values())),
        **measured,
    }


def _asked(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return how questions are asked, and of which weights if they are not what they were."""
    weights = {"quantization": identity.get("quantization")}
    return {**identity.get("asked", {}), **(weights if any(weights.values()) else {})}


def _answers(
    folder: pathlib.Path, identity: Mapping[str, Any], rows: Sequence[records.Record]
) -> dict[str, Answer]:
    """Return the answers by key, in the benchmark's order.

    A run of first tokens that is older than the questions file has none, and no scores.
    """
    data = identity["data"]["sha256"]
    old = identity["confidence"]["route"] == "first_token"
    if old and not questions.path(folder.parent, data).is_file():
        return {}
    found = {row.key: row for row in rows}
    asked = questions.read(folder.parent, data)
    return {
        key: question.answered(text_of(found[key], question))
        for key, question in asked.items()
        if key in found
    }


def text_of(row: records.Record, question: questions.Question) -> str:
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
    found = measure(
        log_masses,
        label,
        answer_log_mass,
        prediction=prediction,
        valid=valid,
        group=group,
        split=split,
        num_splits=len(splits),
        mode=mode,
    ).to_dict(splits)
    return {
        "n": len(label),
        "images": int(group.max()) + 1,
        "metrics": found["metrics"],
        "splits": found["splits"],
    }


def measure(
    log_masses: np.ndarray, label: np.ndarray, answer_log_mass: np.ndarray | None, **how: Any
) -> calibration.Report:
    """Return `calibration.evaluate` on the host, every setting resampled alike.

    Args:
        log_masses: float32[E, C].
        label: int32[E].
        answer_log_mass: float32[E], None if unknown.
        how: further arguments of `calibration.evaluate`, but the key.
    """
    with on_host():
        key = jax.random.key(BOOTSTRAP_SEED)
        found = calibration.evaluate(log_masses, label, answer_log_mass, key=key, **how)
        return jax.tree.map(np.asarray, found)


def _same_but_for_the_seed(run: Mapping[str, Any]) -> str:
    """Return a hash of a run's identity without its seed."""
    setting = run["identity"]["setting"] | {"seed": None}
    content = records.canonical(run["identity"] | {"setting": setting})
    return hashlib.sha256(content).hexdigest()[:16]


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
