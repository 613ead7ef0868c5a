"""The package against the folder calibration/ of --golden: every entry that is ours.

A metric key is compared by the pattern of METRICS that matches it whole. Cases are padded to one
number of rows and choices, with weight 0 and valid False, so that each function compiles once
per precision.
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
    if isinstance(expected, str):  # "inf", "nan", "undefined (nan)"
        expected = float(expected.removeprefix("undefined (").removesuffix(")"))
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


def mass(case, bins, **static):
    return of_rows("expected_calibration_error", num_bins=int(bins), **static)(case)


def of_probabilities(name, **static):
    """Apply a function of (probabilities, label, weights)."""

    def applied(case):
        probabilities = jitted("choice_probabilities")(case.log_masses, case.valid)
        counted = (case.weights != 0)[:, None]
        probabilities = jnp.where(counted, probabilities, 0)
        return jitted(name, **static)(probabilities, case.label, case.weights)

    return applied


def classwise(case, bins, closed):
    """Average over the choices of the case, not over those it is padded with."""
    shown = case.valid.any(axis=0)
    static = {"num_bins": int(bins), "closed": closed}
    whole = of_probabilities("classwise_calibration_error", **static)(case)
    return whole * shown.size / shown.sum()


def yes_rows(case):
    """Return log-odds and truth of the first of two choices."""
    logit = jnp.where(case.weights != 0, case.log_masses[:, 0] - case.log_masses[:, 1], 0)
    return logit, case.label == 0, case.weights


def fitted_to_yes(name, case, fields):
    fit = jitted(name)(*yes_rows(case))
    assert bool(fit.converged)
    return {key: getattr(fit, field) for key, field in fields.items()}


def beta(case):
    """Return a, b and the midpoint m with c = b ln(1 − m) − a ln m, by bisection."""
    fit = fitted_to_yes("fit_beta", case, {"a": "a", "b": "b", "c": "c"})
    a, b, c = (float(fit[name]) for name in "abc")
    low, high = 1e-9, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        too_low = b * np.log1p(-middle) - a * np.log(middle) > c
        low, high = (middle, high) if too_low else (low, middle)
    return {"a": a, "b": b, "m": middle}


def vector_scaling(case):
    fit = of_choices("fit_vector_scaling")(case)
    assert bool(fit.converged)
    shown = np.asarray(case.valid.any(axis=0))
    offset = np.asarray(fit.offset)[shown]
    return {
        "nll": fit.nll,
        "weights": np.asarray(fit.scale)[shown],
        "bias_centred": offset - offset.mean(),
    }


def least_ambiguous_sets(case, alpha):
    """Calibrate on the folds 0 and 1, count on the others."""
    fold = case.fields["fold_iid"]
    calibrating = case.weights * (fold < 2)
    probabilities = jitted("choice_probabilities")(case.log_masses, case.valid)
    probabilities = jnp.where((case.weights != 0)[:, None], probabilities, 0)
    rows = (probabilities, case.label, calibrating)
    threshold = jitted("lac_threshold", alpha=float(alpha))(*rows)
    sets = np.asarray(calibration.prediction_set(probabilities, threshold, case.valid))
    tested = np.asarray(case.weights * (fold >= 2)) != 0
    held = sets[np.arange(len(sets)), np.asarray(case.label)]
    return {
        "qhat": threshold,
        "qhat_torchcp": threshold,
        "coverage": held[tested].mean(),
        "mean_set_size": sets[tested].sum(axis=1).mean(),
    }


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
    r"ece(\d+)_equal_mass_kumar": functools.partial(mass, binning="mass"),
    r"ece(\d+)_equal_mass_torch_uncertainty": functools.partial(mass, binning="rank"),
    r"ce_l2_plugin_em(\d+)": functools.partial(mass, binning="mass", norm="l2"),
    r"ce_l2_debiased_em(\d+)": functools.partial(mass, binning="mass", norm="l2", debiased=True),
    r"ce_l2_debiased_ew(\d+)": functools.partial(mass, binning="width", norm="l2", debiased=True),
    r"classwise_ece(\d+)_(left)_closed": classwise,
    r"marginal_ce_l1_ew(\d+)_kumar": functools.partial(classwise, closed="right"),
    r"smece_exact": of_rows("smooth_calibration_error"),
    r"smece_exact_sigma([\d.]+)": (
        lambda c, sigma: of_rows("smooth_calibration_error", sigma=float(sigma))(c)
    ),
    r"ks_calibration_error(?:_ties_collapsed)?": of_rows("ks_calibration_error"),
    r"spiegelhalter_z": of_rows("spiegelhalter_z"),
    r"ece15_pyes_left_closed": of_yes("expected_calibration_error", closed="left"),
    r"mce(\d+)_(right|left)(?:_closed)?": functools.partial(ece, norm="max"),
    r"rmsce(\d+)_torchmetrics": functools.partial(ece, norm="l2"),
    r"average_ce15_left_closed": of_rows("average_calibration_error", closed="left"),
    r"reliability_bins(\d+)_(right|left)_closed": reliability,
    r"counts(\d+)_(right|left)": lambda c, *bins: reliability(c, *bins)["count"],
    r"brier(?:_top_label|_top_class_tu)?": of_rows("brier_score"),
    r"brier_pyes": of_yes("brier_score"),
    r"brier_(?:two_class_sum|multiclass_sum|probmetrics|multiclass_probmetrics)": (
        of_probabilities("brier_score_multiclass")
    ),
    r"brier_decomposition(\d+)": (
        lambda c, bins: vars(of_rows("brier_decomposition", num_bins=int(bins))(c))
    ),
    r"corp_brier": lambda c: vars(of_rows("corp_decomposition")(c)),
    r"nll(?:_unclipped)?": of_choices("negative_log_likelihood"),
    r"aurc_mean(?:_expected_ties)?": of_scores("aurc"),
    r"aurc_(fd_shifts|torch_uncertainty)": (
        lambda c, convention: of_scores("aurc", convention=convention)(c)
    ),
    r"e_aurc_(?:mean|analytic)": of_scores("e_aurc"),
    r"e_aurc_mean_finite": of_scores("e_aurc", optimum="finite"),
    r"e_aurc_fd_shifts": of_scores("e_aurc", convention="fd_shifts"),
    r"augrc(?:_fd_shifts)?": of_scores("augrc"),
    r"e_augrc_fd_shifts": of_scores("e_augrc"),
    r"auroc(?:_confidence)?": of_scores("confidence_auroc"),
    r"risk_at_cov([\d.]+)": (
        lambda c, coverage: of_scores("selective_risk", coverage=float(coverage))(c)
    ),
    r"cov_at_risk([\d.]+)": lambda c, risk: of_scores("coverage_at_risk", risk=float(risk))(c),
    r"temperature_(?:nll|probmetrics)": (
        lambda c: of_choices("fit_temperature", bounds=BOUNDS)(c).temperature
    ),
    r"temperature_grid0.05_nll": of_choices("temperature_grid"),
    r"cv5_temperature_fold_(iid|group)": cross_validated,
    r"vector_scaling_nll": vector_scaling,
    r"platt_pyes": lambda c: fitted_to_yes("fit_platt", c, {"a": "slope", "b": "intercept"}),
    r"beta_abm_pyes": beta,
    r"conformal_lac_alpha([\d.]+)": least_ambiguous_sets,
}


def isotonic(case, points):
    fit = of_rows("fit_isotonic")(case)
    return {"x": points["x"], "y": calibration.apply_isotonic(fit, jnp.asarray(points["x"]))}


def histogram(case, points):
    fit = of_rows("fit_histogram_binning", num_bins=15)(case)
    found = calibration.apply_histogram_binning(fit, jnp.asarray(points["x"]))
    return {"x": points["x"], "y": found}


MAPS = {"isotonic_conf": isotonic, "histogram_binning15_conf": histogram}


def within(entry, x64):
    """Return the value, of a map only the points that float32 can tell apart."""
    value, largest = entry["value"], entry["accept"].get("float32_max_x")
    if x64 or largest is None:
        return value
    kept = np.asarray(value["x"]) <= largest
    return {name: np.asarray(points)[kept] for name, points in value.items()}


def find(key):
    """Return the function of a metric key with its parameters bound, or None."""
    if key in MAPS:
        return MAPS[key]
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
                if not entry["ours"] or case not in CASES:
                    continue
                function = find(key)
                assert function, f"{case} {key}: no function is compared with it"
                if rows is None:
                    file, build = CASES[case]
                    rows = build(largest(golden_dir), arrays(golden_dir, file))
                expected = within(entry, x64)
                actual = function(rows, expected) if key in MAPS else function(rows)
                if not isinstance(expected, dict):
                    actual, expected = {"": actual}, {"": expected}
                for part, value in expected.items():
                    atol = tolerance(entry["accept"], x64)
                    assert_close(actual[part], value, atol, f"{case} {key} {part}")
                    compared += 1
    assert compared


def paired(name, pope):
    """Return what the key of the paired case names: {part: value}, or a number."""
    image = jnp.asarray(pope["image"], jnp.int32)
    label = jnp.asarray(pope["label"], jnp.int32)
    tops = [
        jitted("top_label")(jnp.asarray(pope[f"logits_{setting}"], float), label)
        for setting in ("full", "pruned")
    ]
    correct = [jnp.asarray(top.correct, float) for top in tops]
    brier = [jnp.square(top.confidence - right) for top, right in zip(tops, correct, strict=True)]
    error, test = calibration.clustered_standard_error, calibration.paired_difference_test
    if name == "mcnemar_exact":
        found = calibration.mcnemar_exact(*correct)
        return {
            "full_only": found.first_only,
            "pruned_only": found.second_only,
            "p_value": found.p_value,
        }
    if match := re.fullmatch(r"iid_stderr_brier_(full|pruned)", name):
        return error(brier[match[1] == "pruned"])
    if match := re.fullmatch(r"clustered_stderr_accuracy_inspect_(full|pruned)", name):
        return error(correct[match[1] == "pruned"], image)
    kinds = {"brier": brier, "correct": correct}
    if match := re.fullmatch(r"paired_ttest_(brier|correct)_pruned_minus_full", name):
        names = ("mean_diff", "se_diff", "t_stat", "p_value")
        return dict(zip(names, vars(test(*kinds[match[1]])).values(), strict=True))
    if match := re.fullmatch(r"paired_clustered_se_(brier|correct)", name):
        return test(*kinds[match[1]], image).standard_error
    raise AssertionError(f"{name}: no function is compared with it")


@X64
def test_pairs(golden_dir, x64):
    compared, pope = 0, arrays(golden_dir, "pope")
    with precision(x64):
        for key, entry in load(golden_dir, "expected.json")["cases"]["pope_paired"].items():
            if entry["ours"]:
                actual, expected = paired(key, pope), entry["value"]
                if not isinstance(expected, dict):
                    actual, expected = {"": actual}, {"": expected}
                for part, value in expected.items():
                    atol = tolerance(entry["accept"], x64)
                    assert_close(actual[part], value, atol, f"{key} {part}")
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
            columns = dict.fromkeys(entry["columns"])
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
                atol = tolerance(entry["accept"], x64)
                assert_close(find(key)(rows), expected[key], atol, f"{entry['name']} {key}")
                compared += 1
    assert compared


CONFIDENCE_FUNCTIONS = (
    "accuracy",
    "mean_confidence",
    "overconfidence",
    "brier_score",
    "expected_calibration_error",
    "average_calibration_error",
    "ks_calibration_error",
    "spiegelhalter_z",
    "smooth_calibration_error",
    "brier_decomposition",
    "corp_decomposition",
)
RANK_FUNCTIONS = (
    "aurc",
    "e_aurc",
    "augrc",
    "e_augrc",
    "confidence_auroc",
    "selective_accuracy",
    "selective_risk",
)


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
                for value in jax.tree.leaves(core(confidence, correct)):
                    assert np.isnan(value), (entry["name"], name)
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


OPTIMISED = {"xla_backend_optimization_level": 2}
"""Of programs that compute for longer than they are compiled; see conftest."""


@functools.partial(jax.jit, compiler_options=OPTIMISED)
def resampled(settings, counts):
    """Evaluate columns, row 0 on the rows as given, and the settings' difference."""
    draws = jnp.concatenate([jnp.ones_like(counts[:1]), counts])
    values = {name: replicates(columns, rows, draws) for name, (columns, rows) in settings.items()}
    difference = jax.tree.map(jnp.subtract, values["pruned"], values["full"])
    return values | {"pruned_minus_full": difference}


@functools.partial(jax.jit, static_argnames="num_groups", compiler_options=OPTIMISED)
def left_out(settings, group, num_groups):
    """Evaluate columns without each group, and the settings' difference."""

    def values(weights):
        found = {
            name: {
                column: find(column)(dataclasses.replace(rows, weights=weights))
                for column in columns
            }
            for name, (columns, rows) in settings.items()
        }
        difference = jax.tree.map(jnp.subtract, found["pruned"], found["full"])
        return found | {"pruned_minus_full": difference}

    return calibration.jackknife(values, group, num_groups)


def intervals(samples, without):
    """Return each kind of interval of replicates whose row 0 is the rows as given."""
    return {
        "percentile95": calibration.percentile_interval(samples[1:]),
        "basic95": calibration.basic_interval(samples[1:], samples[0]),
        "bca95": calibration.bca_interval(samples[1:], samples[0], without),
    }


def test_bootstrap(golden_dir):
    pope = arrays(golden_dir, "pope")
    expected = load(golden_dir, "bootstrap.json")
    columns = dict.fromkeys(expected["columns"])
    settings = {
        name: (columns, pope_case(f"logits_{name}")(pope["logits_full"].shape, pope))
        for name in ("full", "pruned")
    }
    image = jnp.asarray(pope["image"], jnp.int32)
    num_images = int(image.max()) + 1
    keys = jax.random.split(jax.random.key(2))
    counts = {
        "iid": calibration.resample_counts(keys[0], image.size, 1000),
        "cluster_image": calibration.cluster_resample_counts(keys[1], image, num_images, 1000),
    }
    without = {
        "iid": left_out(settings, jnp.arange(image.size), image.size),
        "cluster_image": left_out(settings, image, num_images),
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
                found = intervals(values, without[kind][setting][column])
                for method in found.keys() & entry.keys():
                    bands = (found[method], entry[method], entry["atol_B1000"])
                    for end, value, band in zip(*bands, strict=True):
                        assert_close(end, value, band, f"{name} {method}")
                        compared += 1
    assert compared
