"""The package against the folder calibration/ of --golden: every entry that is built.

A metric key is compared if a pattern of METRICS matches it whole; the other keys belong
to functions that are not built yet. Cases are padded to one number of rows and choices,
with weight 0 and valid False, so that each function compiles once per precision.
"""

import contextlib
import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
from calibration import checked

pytestmark = pytest.mark.golden

X64 = pytest.mark.parametrize("x64", [False, True], ids=["float32", "x64"])
BOUNDS = (1e-3, 1e3)
UNSATURATED_MARGIN = 30  # the case keeps 1 − confidence above about 1e-13


@functools.cache
def jitted(name, **static):
    return jax.jit(functools.partial(getattr(calibration, name), **static))


def precision(x64):
    return jax.enable_x64(True) if x64 else contextlib.nullcontext()


def load(folder, name):
    return json.loads((folder / "calibration" / name).read_text())


def arrays(folder, name):
    with np.load(folder / "calibration" / f"{name}.npz") as stored:
        return dict(stored)


def tolerance(accept, x64):
    return accept["x64_atol" if x64 else "float32_atol"]


def assert_close(actual, expected, atol, name):
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=name)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Case:
    """Rows of one case; log_masses, label and valid only where the case has logits."""

    confidence: jax.Array
    score: jax.Array
    correct: jax.Array
    weights: jax.Array
    log_masses: jax.Array | None = None
    label: jax.Array | None = None
    valid: jax.Array | None = None
    fields: dict = dataclasses.field(default_factory=dict)


def padded(array, shape, value):
    array = np.asarray(array)
    widths = [(0, size - have) for size, have in zip(shape, array.shape, strict=True)]
    return np.pad(array, widths, constant_values=value)


def logits_case(shape, logits, label, valid=None, **fields):
    """Pad logits to shape and take confidences from them."""
    rows = shape[:1]
    valid = np.ones(logits.shape, bool) if valid is None else valid
    weights = jnp.asarray(padded(np.ones(len(label)), rows, 0), int)
    logits = jnp.asarray(padded(logits, shape, np.nan), float)
    label = jnp.asarray(padded(label, rows, 0), jnp.int32)
    valid = jnp.asarray(padded(valid, shape, False))
    fields = {k: jnp.asarray(padded(v, rows, 0), int) for k, v in fields.items()}
    top = jitted("top_label")(logits, label, valid)
    return Case(
        *(top.confidence, top.margin, top.correct),
        *(weights, logits, label, valid, fields),
    )


def confidence_case(num_rows, confidence, score, correct):
    rows = (num_rows,)
    return Case(
        jnp.asarray(padded(confidence, rows, np.nan), float),
        jnp.asarray(padded(score, rows, np.nan), float),
        jnp.asarray(padded(correct, rows, 0), int),
        jnp.asarray(padded(np.ones(len(correct)), rows, 0), int),
    )


def pope_case(name):
    def build(shape, pope):
        names = ("label", "split", "fold_iid", "fold_group")
        return logits_case(shape, pope[name], **{k: pope[k] for k in names})

    return build


def unsaturated_split(shape, pope):
    margin = np.abs(np.subtract(*pope["logits_full"].T))
    kept = (pope["split"] == 0) & (margin < UNSATURATED_MARGIN)
    return logits_case(shape, pope["logits_full"][kept], pope["label"][kept])


def half_precision(shape, pope):
    yes = pope["p_yes_fp16"].astype(np.float64)
    other = np.minimum(yes, 1 - yes)  # exact in float32, where 1 − other rounds to 1
    correct = (yes >= 0.5) == (pope["label"] == 0)
    return confidence_case(shape[0], np.maximum(yes, 1 - yes), -other, correct)


def options_offered(shape, sqa):
    choice = np.arange(sqa["logits"].shape[1])
    valid = choice[None, :] < sqa["n_options"][:, None]
    fields = {"label": sqa["label"], "fold_iid": sqa["fold_iid"]}
    return logits_case(shape, sqa["logits"], valid=valid, **fields)


def always_four(shape, sqa):
    kept = sqa["n_options"] <= 4
    fields = {k: sqa[k][kept] for k in ("label", "fold_iid")}
    return logits_case(shape, sqa["logits"][kept, :4], **fields)


CASES = {
    "pope_full": ("pope", pope_case("logits_full")),
    "pope_pruned": ("pope", pope_case("logits_pruned")),
    "pope_full_split0_unsaturated": ("pope", unsaturated_split),
    "pope_full_fp16probs": ("pope", half_precision),
    "sqa_masked": ("sqa", options_offered),
    "sqa_abcd_fixed": ("sqa", always_four),
}


def of_rows(name, **static):
    """Apply a function of (confidence, correct, weights)."""
    return lambda c: jitted(name, **static)(c.confidence, c.correct, c.weights)


def of_split(function):
    """Restrict the function's rows to the split that the key names last."""

    def restricted(case, *parameters):
        *parameters, split = parameters
        in_split = case.fields["split"] == int(split)
        rows = dataclasses.replace(case, weights=case.weights * in_split)
        return function(rows, *parameters)

    return restricted


def ece(case, bins, closed="left", norm="l1"):
    static = {"num_bins": int(bins), "closed": closed, "norm": norm}
    return of_rows("expected_calibration_error", **static)(case)


def of_yes(name, **static):
    """Apply a function to probability and truth of the first choice."""

    def positive(case):
        scores = jnp.where(case.valid, case.log_masses, -jnp.inf)
        yes = jax.nn.softmax(scores, axis=-1)[:, 0]
        return jitted(name, **static)(yes, case.label == 0, case.weights)

    return positive


def reliability(case, bins, closed):
    stats = of_rows("bin_stats", num_bins=int(bins), closed=closed)(case)
    return {
        "count": stats.count,
        "sum_conf": stats.sum_confidence,
        "sum_correct": stats.sum_correct,
    }


def of_choices(name, **static):
    """Apply a function of (log_masses, label, weights, valid)."""
    return lambda c: jitted(name, **static)(c.log_masses, c.label, c.weights, valid=c.valid)


def of_scores(name, **static):
    """Apply a function of (margin, correct, weights)."""
    return lambda c: jitted(name, **static)(c.score, c.correct, c.weights)


def selective_risk(case, coverage):
    return 1 - of_scores("selective_accuracy", coverage=float(coverage))(case)


def cross_validated(case, kind):
    fold = case.fields[f"fold_{kind}"]
    num_folds = int(fold.max()) + 1
    scale = jitted("cross_validated_temperature", num_folds=num_folds)
    temperatures, scaled = scale(case.log_masses, case.label, fold, case.weights, valid=case.valid)
    top = jitted("top_label")(scaled, case.label, case.valid)
    pooled = dataclasses.replace(
        case, confidence=top.confidence, correct=top.correct, log_masses=scaled
    )
    folds = [
        dataclasses.replace(pooled, weights=case.weights * (fold == f)) for f in range(num_folds)
    ]
    return {
        "temperatures": temperatures,
        "mean": temperatures.mean(),
        "ece15_pooled": ece(pooled, 15, "right"),
        "ece15_mean_of_folds": np.mean([ece(rows, 15, "right") for rows in folds]),
        "nll_pooled": of_choices("negative_log_likelihood")(pooled),
        "brier_pooled": of_rows("brier_score")(pooled),
    }


METRICS = {
    r"accuracy": of_rows("accuracy"),
    r"accuracy_split(\d+)": of_split(of_rows("accuracy")),
    r"mean_confidence": of_rows("mean_confidence"),
    r"overconfidence": of_rows("overconfidence"),
    r"ece(\d+)_(right|left)(?:_closed)?": ece,
    r"ece(\d+)_(right|left)_closed_split(\d+)": of_split(ece),
    r"ece(\d+)_netcal_multiclass": ece,
    r"ece15_pyes_left_closed": of_yes("expected_calibration_error", closed="left"),
    r"mce(\d+)_(right|left)(?:_closed)?": functools.partial(ece, norm="max"),
    r"rmsce(\d+)_torchmetrics": functools.partial(ece, norm="l2"),
    r"average_ce15_left_closed": of_rows("average_calibration_error", closed="left"),
    r"reliability_bins(\d+)_(right|left)_closed": reliability,
    r"counts(\d+)_(right|left)": lambda c, *bins: reliability(c, *bins)["count"],
    r"brier(?:_top_label|_top_class_tu)?": of_rows("brier_score"),
    r"brier_pyes": of_yes("brier_score"),
    r"nll(?:_unclipped)?": of_choices("negative_log_likelihood"),
    r"aurc_mean(?:_expected_ties)?": of_scores("aurc"),
    r"risk_at_cov([\d.]+)": selective_risk,
    r"temperature_(?:nll|probmetrics)": (
        lambda c: of_choices("fit_temperature", bounds=BOUNDS)(c).temperature
    ),
    r"temperature_grid0.05_nll": of_choices("temperature_grid"),
    r"cv5_temperature_fold_(iid|group)": cross_validated,
}


def find(key):
    """Return the function of a metric key with its parameters bound, or None."""
    for pattern, function in METRICS.items():
        if match := re.fullmatch(pattern, key):
            return lambda case: function(case, *match.groups())
    return None


def largest(golden_dir):
    """Return the number of rows and choices that every case fits in."""
    edges = load(golden_dir, "edges.json")
    shapes = [
        value.shape
        for file in {file for file, _ in CASES.values()}
        for key, value in arrays(golden_dir, file).items()
        if key.startswith("logits")
    ]
    shapes += [(len(entry["conf"]), 2) for entry in edges["metrics"]]
    shapes += [np.shape(entry["logits"]) for entry in edges["temperature"]]
    return tuple(np.max(shapes, axis=0))


@X64
def test_cases(golden_dir, x64):
    compared = 0
    with precision(x64):
        for case, metrics in load(golden_dir, "expected.json")["cases"].items():
            rows = None
            for key, entry in metrics.items():
                function = find(key)
                if not entry["ours"] or function is None:
                    continue
                if rows is None:
                    file, build = CASES[case]
                    rows = build(largest(golden_dir), arrays(golden_dir, file))
                actual, expected = function(rows), entry["value"]
                if not isinstance(expected, dict):
                    actual, expected = {"": actual}, {"": expected}
                for part, value in expected.items():
                    atol = tolerance(entry["accept"], x64)
                    assert_close(actual[part], value, atol, f"{case} {key} {part}")
                    compared += 1
    assert compared


@jax.jit
def replicates(columns, rows, counts):
    """Evaluate the columns named by the dictionary's keys on every resample."""

    def statistic(weights):
        weighted = dataclasses.replace(rows, weights=weights)
        return {column: find(column)(weighted) for column in columns}

    return calibration.bootstrap(statistic, counts)


@X64
def test_tiny_replicates(golden_dir, x64):
    tiny = arrays(golden_dir, "tiny")
    entries = load(golden_dir, "expected.json")["cases"]["tiny_replicates"]
    num_rows, num_clusters = tiny["conf"].size, tiny["cluster_index"].shape[1]
    compared = 0
    with precision(x64):
        rows = confidence_case(num_rows, tiny["conf"], tiny["conf"], tiny["correct"])
        for kind, entry in entries.items():
            draws = tiny["index"] if kind == "iid" else tiny["cluster_index"]
            size = num_rows if kind == "iid" else num_clusters
            counts = np.stack([np.bincount(draw, minlength=size) for draw in draws])
            counts = counts if kind == "iid" else counts[:, tiny["cluster"]]
            columns = dict.fromkeys(key for key in entry["columns"] if find(key))
            samples = replicates(columns, rows, jnp.asarray(counts))
            values = dict(zip(entry["columns"], zip(*entry["value"], strict=True), strict=True))
            for column in columns:
                atol = tolerance(entry["accept"], x64)
                assert_close(samples[column], values[column], atol, f"{kind} {column}")
                compared += 1
    assert compared


def edge_case(shape, entry, dtype):
    """Take log masses from the confidences; a choice of probability 0 is not valid."""
    confidence = np.asarray(entry["conf"], dtype).astype(np.float64)
    correct = np.asarray(entry["correct"])
    probability = np.stack([confidence, 1 - confidence], axis=1)
    valid = probability > 0
    log_masses = np.log(np.where(valid, probability, 1))
    choices = logits_case(shape, log_masses, 1 - correct, valid)
    rows = confidence_case(shape[0], confidence, confidence, correct)
    names = ("log_masses", "label", "valid")
    return dataclasses.replace(rows, **{k: getattr(choices, k) for k in names})


@X64
def test_edges(golden_dir, x64):
    compared = 0
    shape, dtype = largest(golden_dir), np.float64 if x64 else np.float32
    with precision(x64):
        for entry in load(golden_dir, "edges.json")["metrics"]:
            rows = edge_case(shape, entry, dtype)
            expected = dict(entry["recommended"])
            expected |= {} if x64 else entry.get("recommended_float32", {})
            for key in expected.keys() - set(entry["not_ours"]):
                if function := find(key):
                    atol = tolerance(entry["accept"], x64)
                    name = f"{entry['name']} {key}"
                    assert_close(function(rows), expected[key], atol, name)
                    compared += 1
    assert compared


CONFIDENCE_FUNCTIONS = (
    "accuracy",
    "mean_confidence",
    "overconfidence",
    "brier_score",
    "expected_calibration_error",
    "average_calibration_error",
)
RANK_FUNCTIONS = ("aurc", "selective_accuracy")


def test_invalid(golden_dir):
    compared = 0
    for entry in load(golden_dir, "edges.json")["invalid"]:
        confidence = np.asarray([float(c) for c in entry["conf"]], np.float32)
        correct = np.asarray(entry["correct"], np.int32)
        is_score = not np.isnan(confidence).any() and (
            ((confidence < 0) | (confidence > 1)).any()
        )  # no confidence, but a legal margin
        for name in CONFIDENCE_FUNCTIONS + (() if is_score else RANK_FUNCTIONS):
            with pytest.raises(ValueError, match=r"confidence|margin|correct"):
                getattr(checked, name)(confidence, correct)
            core = jitted(name)
            if len(confidence) != len(correct):
                with pytest.raises(AssertionError):
                    core(confidence, correct)
            else:
                assert np.isnan(core(confidence, correct)), (entry["name"], name)
            compared += 1
    assert compared


@X64
def test_temperatures(golden_dir, x64):
    compared = 0
    shape, prefix = largest(golden_dir), "x64" if x64 else "float32"
    with precision(x64):
        for entry in load(golden_dir, "edges.json")["temperature"]:
            rows = logits_case(shape, np.asarray(entry["logits"]), entry["label"])
            bounds = tuple(entry["bounds"])
            fit = of_choices("fit_temperature", bounds=bounds)(rows)
            accept, name, expected = entry["accept"], entry["name"], entry["temperature"]
            atol = accept[f"{prefix}_rtol"] * expected
            assert_close(fit.temperature, expected, atol, name)
            atol = accept[f"nll_{prefix}_atol"]
            assert_close(fit.nll, entry["nll_at_temperature"], atol, name)
            assert bool(fit.at_bound) == (expected in bounds), name
            assert bool(fit.converged), name
            compared += 1
    assert compared


@jax.jit
def resampled(settings, counts):
    """Evaluate columns, row 0 on the rows as given, and the settings' difference."""
    draws = jnp.concatenate([jnp.ones_like(counts[:1]), counts])
    values = {name: replicates(columns, rows, draws) for name, (columns, rows) in settings.items()}
    difference = jax.tree.map(jnp.subtract, values["pruned"], values["full"])
    return values | {"pruned_minus_full": difference}


def test_bootstrap(golden_dir):
    pope = arrays(golden_dir, "pope")
    expected = load(golden_dir, "bootstrap.json")
    columns = dict.fromkeys(column for column in expected["columns"] if find(column))
    settings = {
        name: (columns, pope_case(f"logits_{name}")(pope["logits_full"].shape, pope))
        for name in ("full", "pruned")
    }
    image = jnp.asarray(pope["image"], jnp.int32)
    iid_key, cluster_key = jax.random.split(jax.random.key(0))
    counts = {
        "iid": calibration.resample_counts(iid_key, image.size, 1000),
        "cluster_image": calibration.cluster_resample_counts(
            cluster_key, image, int(image.max()) + 1, 1000
        ),
    }
    compared = 0
    for kind, draws in counts.items():
        samples = resampled(settings, draws)
        for setting, entries in expected[kind].items():
            for column in columns:
                entry, values = entries[column], samples[setting][column]
                if not entry["ours"]:
                    continue
                name = f"{kind} {setting} {column}"
                atol = tolerance(entry["accept"]["point"], False)
                assert_close(values[0], entry["point"], atol, name)
                ends = calibration.percentile_interval(values[1:])
                bands = (entry["percentile95"], entry["atol_B1000"])
                for end, value, band in zip(ends, *bands, strict=True):
                    assert_close(end, value, band, name)
                    compared += 1
    assert compared
