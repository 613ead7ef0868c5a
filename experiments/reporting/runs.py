"""A run folder's finished settings, which answer the same questions and can be compared.

Axis legend: E examples, R resamples.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import calibration.report
from experiments.harness import questions, records
from experiments.harness.errors import InputError
from experiments.harness.terminal import inert
from experiments.reporting import evaluation, predictions
from experiments.reporting.evaluation import Scorer
from experiments.scoring.answer import Answer

FULL = "none"
"""The pruner that keeps everything."""
NUM_RESAMPLES = 1000
NOT_THE_METHOD = ("pruner", "budget", "seed")
"""Of what a setting is, all but its method."""
_PRUNER = re.compile(r"\w[\w.-]*")
_OF_THE_SETTING = {"setting", "clip"}  # what settings of one run may differ in
_USED = {
    "setting": dict,
    "identity.benchmark": str,
    "identity.confidence.route": str,
    "identity.data.sha256": str,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A finished setting.

    Attributes:
        folder: of the setting.
        about: pruner, budget, seed, order, positions and hyper-parameters.
        run: contents of its run.json.
        rows: what its records say, sorted by key.
        mode: how rows are resampled.
    """

    folder: pathlib.Path
    about: Mapping[str, Any]
    run: Mapping[str, Any]
    rows: predictions.Predictions
    mode: calibration.report.Mode

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @functools.cached_property
    def records(self) -> Mapping[str, records.Record]:
        """The records by key, read again: they are too large to be kept of many settings."""
        return records.read_records(self.folder)

    @functools.cached_property
    def report(self) -> calibration.Report:
        """Every metric over all rows; its samples are paired with those of other settings."""
        rows = self.rows
        how = {"prediction": rows.prediction, "valid": rows.valid, "group": rows.image}
        return evaluation.measure(
            *(rows.log_masses, rows.label, rows.answer_log_mass),
            num_resamples=NUM_RESAMPLES,
            mode=self.mode,
            **how,
        )

    @functools.cached_property
    def top(self) -> calibration.TopLabel:
        """Confidence, margin, prediction and correctness per row: arrays of [E]."""
        rows = self.rows
        with evaluation.on_host():
            masses, label, valid = map(jnp.asarray, (rows.log_masses, rows.label, rows.valid))
            given = None if rows.prediction is None else jnp.asarray(rows.prediction)
            top = calibration.top_label(masses, label, valid, prediction=given)
        return jax.tree.map(np.asarray, top)

    @functools.cached_property
    def scaled(self) -> np.ndarray:
        """The log masses after the out-of-fold temperatures of the report: float32[E, C]."""
        with evaluation.on_host():
            key, _ = jax.random.split(jax.random.key(evaluation.BOOTSTRAP_SEED))
            units = int(self.unit.max()) + 1
            unit = jnp.asarray(self.unit)
            fold = calibration.group_kfold(key, unit, units, calibration.report.NUM_FOLDS)
            temperature = jnp.asarray(self.report.fold_temperatures)[fold]
            masses = jnp.asarray(self.rows.log_masses)
            return np.asarray(calibration.apply_temperature(masses, temperature))

    @property
    def unit(self) -> np.ndarray:
        """What is resampled, the picture or in the paper's mode the row: int[E]."""
        return self.rows.image if self.mode == "default" else np.arange(len(self.rows.key))

    def samples(self, metric: str) -> np.ndarray:
        """Return a metric on the rows themselves, then on every resample: float[1+R]."""
        return np.asarray(self.report.samples[metric])


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The finished settings of a run folder.

    Attributes:
        path: the run folder.
        benchmark: its name.
        scorer: the benchmark.
        settings: full tokens first, then by name.
        asked: key → question; empty for a run that is older than the questions file.
    """

    path: pathlib.Path
    benchmark: str
    scorer: Scorer
    settings: tuple[Setting, ...]
    asked: Mapping[str, questions.Question]

    @property
    def full(self) -> Setting:
        """Full tokens."""
        return self.settings[0]

    @property
    def route(self) -> str:
        """How answers were had: ``first_token`` or ``generate``."""
        return self.full.run["identity"]["confidence"]["route"]

    @property
    def num_rows(self) -> int:
        """Questions that every setting answers."""
        return len(self.full.rows.key)

    @property
    def num_images(self) -> int:
        """Pictures they are about."""
        return int(self.full.rows.image.max()) + 1

    @property
    def heading(self) -> str:
        """Which benchmark, model and data it was, in words: the names are in the flags."""
        name = f"{inert(self.benchmark)}: {self.source}"
        return f"{name}; {self.num_rows} rows on {self.num_images} pictures"

    @property
    def source(self) -> str:
        """Which model and data it was, in words."""
        model, data = (pathlib.PurePath(self.flags.get(n, "?")).name for n in ("model", "data"))
        return inert(f"model {model}, data {data}")

    @property
    def model(self) -> str:
        """What ``--model`` was."""
        return self.flags.get("model", "?")

    @functools.cached_property
    def flags(self) -> Mapping[str, str]:
        """The flags of full tokens by name, as their folder's flags.txt has them."""
        lines = (self.full.folder / "flags.txt").read_text("utf-8", "replace").splitlines()
        pairs = (line.removeprefix("--").partition("=") for line in lines)
        return {name: value for name, _, value in pairs}

    def answers(self, setting: Setting) -> list[Answer]:
        """Return a setting's answers as scorers take them, sorted by key.

        Raises:
            InputError: a record is of no question of the run.
        """
        return [_answer(setting.records[key], self.asked) for key in setting.rows.key]

    def find(self, **about: Any) -> tuple[Setting, ...]:
        """Return the settings with these values, by seed; none if nothing was run.

        Args:
            about: such as ``pruner="scope", budget=64, alpha=0.0``.
        """
        found = [s for s in self.settings if about.items() <= s.about.items()]
        return tuple(sorted(found, key=lambda s: s.about["seed"] or 0))


def load(
    out: pathlib.Path,
    scorer: Callable[[str], Scorer],
    mode: calibration.report.Mode = "default",
) -> Run:
    """Read the sealed settings of a run folder.

    Args:
        out: the run folder.
        scorer: benchmark's name → benchmark.
        mode: how rows are resampled.

    Raises:
        InputError: no sealed setting, full tokens not among them, or a setting that differs from
            them in more than the pruner, or in the questions it answers.
    """
    folders = _sealed(out)
    runs = [_read_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        _refuse_another_run(folder, run, folders[0], runs[0])
    identity = runs[0]["identity"]
    benchmark = scorer(identity["benchmark"])
    asked = _asked(out, identity["data"]["sha256"], identity["confidence"]["route"])
    settings = tuple(
        _setting(folder, run, benchmark, asked, mode)
        for folder, run in zip(folders, runs, strict=True)
    )
    _refuse_other_questions(settings)
    return Run(out, identity["benchmark"], benchmark, settings, asked)


def _sealed(out: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders of the finished settings, full tokens first."""
    folders = [file.parent for file in sorted(out.glob(f"*/{records.SEALED}"))]
    if not folders:
        raise InputError(f"{out} holds no finished setting; name the --out of a complete run")
    full = out / FULL
    if full not in folders:
        raise InputError(f"{full} is not finished; the run's own command again completes it")
    return [full, *(folder for folder in folders if folder != full)]


def _read_run(folder: pathlib.Path) -> dict[str, Any]:
    """Return a run.json that has what is used here."""
    try:
        run = predictions.read_run(folder)
        for name, kind in _USED.items():
            if not isinstance(functools.reduce(lambda x, k: x[k], name.split("."), run), kind):
                raise TypeError(name)
        _check_setting(run["setting"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{folder / records.RUN} does not describe a setting") from None
    return run


def _check_setting(setting: Mapping[str, Any]) -> None:
    """Raise ValueError if a setting is not as the harness writes it, so that it can be shown.

    Its words go into tables, figures and CSV files: they are printable, and a pruner's name is no
    formula.
    """
    number = type(setting["budget"]) is int and type(setting["seed"]) in (int, types.NoneType)
    words = all(f"{name}={value}".isprintable() for name, value in setting.items())
    if not (number and words and _PRUNER.fullmatch(setting["pruner"])):
        raise ValueError(f"{setting} is no setting")


def _refuse_another_run(
    folder: pathlib.Path, run: Mapping[str, Any], full: pathlib.Path, of_full: Mapping[str, Any]
) -> None:
    """Raise InputError if two settings differ in more than the setting itself."""
    one, other = run["identity"], of_full["identity"]
    names = sorted((one.keys() | other.keys()) - _OF_THE_SETTING)
    if different := [name for name in names if one.get(name) != other.get(name)]:
        raise InputError(f"{folder} is another run than {full}: {', '.join(different)} differ")


def _asked(out: pathlib.Path, data: str, route: str) -> Mapping[str, questions.Question]:
    """Return the questions; a run of first tokens may be older than their file."""
    if route == "first_token" and not questions.path(out, data).is_file():
        return {}
    return questions.read(out, data)


def _setting(
    folder: pathlib.Path,
    run: Mapping[str, Any],
    benchmark: Scorer,
    asked: Mapping[str, questions.Question],
    mode: calibration.report.Mode,
) -> Setting:
    """Read one setting."""
    found = records.read_records(folder)
    if not found:
        raise InputError(f"{folder} has no record")
    rows = tuple(found.values())
    if run["identity"]["confidence"]["route"] == "first_token":
        read = predictions.of_first_token(rows, benchmark.splits)
    else:
        right = {row.key: benchmark.correct(_answer(row, asked)) for row in rows}
        read = predictions.of_text(rows, benchmark.splits, right, per_token=False)
    return Setting(folder, run["setting"], run, read, mode)


def _answer(row: records.Record, asked: Mapping[str, questions.Question]) -> Answer:
    """Return an answer as scorers take it."""
    if row.key not in asked:
        raise InputError(f"the record of {row.key!r} is of no question of the run")
    return asked[row.key].answered(evaluation.text_of(row, asked[row.key]))


def _refuse_other_questions(settings: Sequence[Setting]) -> None:
    """Raise InputError if two settings answer different questions."""
    first = settings[0]
    for other in settings[1:]:
        if different := set(first.rows.key) ^ set(other.rows.key):
            raise InputError(
                f"{other.folder} and {first.folder} answer different questions, {len(different)} "
                f"of them are in one only, such as {min(different)}; paired differences need the "
                "same"
            )


@functools.cache
def draws(num_units: int) -> np.ndarray:
    """Return how often each picture (or row) is drawn: int32[1+R, units], once each in row 0.

    The draws are those of `calibration.evaluate` with the key of results.json.
    """
    with evaluation.on_host():
        _, key = jax.random.split(jax.random.key(evaluation.BOOTSTRAP_SEED))
        drawn = calibration.resample_counts(key, num_units, NUM_RESAMPLES)
        return np.concatenate([np.ones((1, num_units), np.int32), np.asarray(drawn)])


def groups(settings: Sequence[Setting]) -> Iterator[tuple[Setting, ...]]:
    """Yield the settings in groups that differ in the seed alone."""
    found: dict[str, list[Setting]] = {}
    for setting in settings:
        found.setdefault(str({**setting.about, "seed": None}), []).append(setting)
    yield from map(tuple, found.values())


def method(about: Mapping[str, Any], abouts: Sequence[Mapping[str, Any]]) -> str:
    """Name a setting's pruner and the hyper-parameters in which its settings differ.

    Args:
        about: of the setting.
        abouts: of all settings.
    """
    others = [other for other in abouts if other["pruner"] == about["pruner"]]
    words = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in about.items()
        if name not in NOT_THE_METHOD and any(other.get(name) != value for other in others)
    ]
    return " ".join([about["pruner"], *words])
