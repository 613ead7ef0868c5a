"""Numbers that are not finite, too small or too few: the row fails alone, no table has a nan."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

import calibration
from experiments import application, gqa, pope, scienceqa
from experiments.harness import answering, command, errors, evidence, memory, questions, records
from experiments.harness.stopwatch import Stopwatch
from experiments.reporting import aggregate, evaluation, predictions, tables

FLOAT32 = 2e-6  # relative: sums of a dozen float32 terms
TEMPERATURE = 1e-3  # relative: where a flat minimum lies
DATA = "0" * 64


# A number that is not finite


def answered(config, benchmark=pope.BENCHMARK):
    return command.answer(command.prepare(benchmark, config, Stopwatch(exact=False)))


def lines(outcome):
    """Return the bytes of every record by its key."""
    (folder,) = outcome.folders
    (file,) = folder.glob("records-*.jsonl")
    return {records.from_line(line)["key"]: line for line in file.read_bytes().splitlines()}


# Where in a batch's logits [G, Q, V], and which of its pictures and questions lose their rows.
PLACES = (
    ((0, 0), np.nan, slice(1), slice(1)),
    ((1,), np.inf, slice(1, 2), slice(None)),
    ((), -np.inf, slice(None), slice(None)),
)


@pytest.mark.times(3, 9)
def test_what_is_not_finite_fails_alone(config, monkeypatch, capsys, times, passed):
    """A row, a picture, a batch: all other rows are those of the clean run, bit for bit."""
    monkeypatch.setattr(memory, "images_per_batch", lambda *_: 2)
    config = dataclasses.replace(config, pruners=("none",), hyperparameters={}, limit=4)
    clean, answer, kept = lines(answered(config)), answering.answer, 0
    for number in range(times):
        index, value, pictures, asked = PLACES[number % 3]
        value = (value, np.nan, np.inf)[number // 3]
        calls = []

        def spoilt(*args, index=index, value=value, calls=calls):
            calls.append(args[3].groups)
            found = answer(*args)
            logits = found.logits.at[index].set(value) if len(calls) == 2 else found.logits
            return found._replace(logits=logits)

        monkeypatch.setattr(answering, "answer", spoilt)
        here = dataclasses.replace(config, out=f"{config.out}-{number}")
        outcome = answered(here)
        questions_lost = [q for g in calls[1][pictures] for q in g.questions[asked]]
        lost = {row.key for question in questions_lost for row in question}
        assert (outcome.failed, outcome.answered) == (len(lost), len(clean) - len(lost))
        assert lines(outcome) == {key: clean[key] for key in clean if key not in lost}
        kept += outcome.answered
        assert application.report(pope.BENCHMARK, here, outcome) == errors.FAILED_ROWS
        said = capsys.readouterr()
        assert said.out == "", "no metric is printed"
        assert f"{len(lost)} rows failed" in said.err
        assert not (here.folder / aggregate.RESULTS).exists()
    passed("N1", f"{times} of {times}: the rows fail alone, {kept} neighbours bit for bit")


@pytest.mark.full
def test_a_table_without_failed_rows_says_so(config, monkeypatch, capsys):
    """Their number is printed, the exit code stays 3; once the cause is gone, the run completes."""
    config = dataclasses.replace(config, pruners=("none",), hyperparameters={}, allow_failed=True)
    answer = answering.answer

    def spoilt(*args):
        found = answer(*args)
        return found._replace(logits=found.logits.at[0, 0].set(np.nan))

    monkeypatch.setattr(answering, "answer", spoilt)
    outcome = answered(config)
    assert application.report(pope.BENCHMARK, config, outcome) == errors.FAILED_ROWS
    said = capsys.readouterr().out
    assert f"pope: {outcome.answered} rows on" in said
    assert f"{outcome.failed} ROWS FAILED and are left out" in said
    entry = json.loads((config.folder / aggregate.RESULTS).read_text())["settings"][0]
    assert (entry["n"], entry["failed"]) == (outcome.answered, outcome.failed)
    monkeypatch.setattr(answering, "answer", answer)
    again = answered(config)
    assert (again.failed, again.answered) == (0, outcome.failed)
    assert (again.folders[0] / records.SEALED).is_file()


@pytest.mark.full
def test_a_text_that_is_not_finite_fails_alone(config, fixtures_dir, monkeypatch):
    """The probability of one word is enough."""
    data = str(fixtures_dir / "raw" / "gqa")
    config = dataclasses.replace(
        config, data=data, pruners=("none",), hyperparameters={}, max_new_tokens=2, limit=2
    )
    answer = answering.answer

    def spoilt(*args):
        found = answer(*args)
        log_probs = np.array(found.said.log_probs)
        log_probs[0, 0, 0] = np.nan
        return found._replace(said=dataclasses.replace(found.said, log_probs=log_probs))

    monkeypatch.setattr(answering, "answer", spoilt)
    outcome = answered(config, gqa.BENCHMARK)
    rows = records.read_records(outcome.folders[0]).values()
    assert outcome.failed == len({row.image for row in rows})
    assert outcome.answered == len(rows) > 0
    assert application.report(gqa.BENCHMARK, config, outcome) == errors.FAILED_ROWS


# Numbers at the edge of float32, against numpy in float64


def oracle(log_masses, label, mass, prediction=None):
    """Return the columns by their definitions, in float64; ties in expectation."""
    z = np.asarray(log_masses, np.float64)
    z = z - z.max(axis=1, keepdims=True)
    n, rows = len(z), np.arange(len(z))
    chosen = z.argmax(axis=1) if prediction is None else prediction  # the first of equals
    total = np.logaddexp.reduce(z, axis=1)
    p = np.exp(z - total[:, None])
    others = np.where(np.arange(z.shape[1]) == chosen[:, None], -np.inf, z)
    margin = z[rows, chosen] - np.logaddexp.reduce(others, axis=1)
    with np.errstate(over="ignore"):
        confidence = 1 / (1 + np.exp(-margin))
    correct = (chosen == label).astype(float)
    bins = np.clip(np.ceil(confidence * 15) - 1, 0, 14)
    gaps = [abs((confidence - correct)[bins == b].sum()) / n for b in range(15)]
    errors_at = np.array([0.0, *expected_errors(margin, correct)])
    k = np.arange(1, n + 1)
    pairs = [(a > b) + (a == b) / 2 for a in margin[correct == 1] for b in margin[correct == 0]]
    kept = int(np.ceil(0.8 * n))
    nll = total - z[rows, label]
    temperatures = np.arange(10, 201) / 20
    return {
        "accuracy": correct.mean(),
        "mean_confidence": confidence.mean(),
        "overconfidence": (confidence - correct).mean(),
        "ece": sum(gaps),
        "brier": np.square(confidence - correct).mean(),
        "brier_multiclass": np.square(p - np.eye(z.shape[1])[label]).sum(axis=1).mean(),
        "nll": nll.mean(),
        "aurc": (errors_at[1:] / k).mean(),
        "augrc": (errors_at[1:] + errors_at[:-1]).sum() / 2 / n**2,
        "confidence_auroc": np.mean(pairs),
        "accuracy_at_80": 1 - errors_at[kept] / kept,
        "answer_mass": np.exp(np.asarray(mass, np.float64)).mean(),
        "temperature": best_temperature(z, label, np.geomspace(1e-3, 1e3, 60_001)),
        "temperature_grid": best_temperature(z, label, temperatures),
    }


def expected_errors(margin, correct):
    """Return the expected number of errors among the k most confident, k = 1 … n."""
    order = np.argsort(-margin, kind="stable")
    margin, wrong = margin[order], 1 - correct[order]
    rate = np.array([wrong[margin == m].mean() for m in margin])
    return np.cumsum(rate)


def best_temperature(z, label, temperatures):
    scaled = z / temperatures[:, None, None]
    chosen = scaled[:, np.arange(len(z)), label]
    losses = (np.logaddexp.reduce(scaled, axis=2) - chosen).mean(axis=1)
    return temperatures[np.flatnonzero(losses <= losses.min() + 1e-12)[0]]  # the first of equals


FAR = -1e4  # float32 is 2⁻¹⁰ wide there, and so are the differences below
EDGES = {
    "underflow": [(FAR, FAR - 1), (FAR - 2.5, FAR), (FAR, FAR - 0.25), (FAR - 9, FAR)],
    "ties": [(-0.5, -0.5), (FAR, FAR), (-0.5, -0.5), (FAR, FAR)],
    "certain": [(0.0, -200.0), (-200.0, 0.0), (0.0, -200.0), (FAR, 2 * FAR)],
    "in one run": [(-0.5, -0.5), (FAR, FAR - 1), (0.0, -200.0), (-1.0, -3.0)],
}
EXACTLY = {"ties": 0.5, "certain": 1.0}
SIX = np.arange(6) % 4


def test_edges_equal_a_float64_oracle(passed):
    """From a record's line to the column of the table."""
    mass, label = np.array([-0.01, FAR, -3.0, FAR])[SIX], np.array([0, 0, 1, 1])[SIX]
    compared = 0
    for name, choices in EDGES.items():
        masses = [choices[i] for i in SIX]
        rows = [row(i, "random", int(label[i]), masses[i], mass=mass[i]) for i in range(6)]
        again = [parsed(records.to_line(one)) for one in rows]
        assert again == rows
        found = predictions.of_first_token(again, pope.SPLITS)
        entry = evaluation._entry(found, pope.SPLITS, "default")
        compared += compare(entry["metrics"], oracle(masses, label, mass), name)
        top = jax.jit(calibration.top_label)(found.log_masses, found.label, found.valid)
        assert name not in EXACTLY or set(np.asarray(top.confidence)) == {EXACTLY[name]}
    passed("N2", f"{compared} columns of {len(EDGES)} kinds of rows equal a float64 oracle")


@pytest.mark.full
def test_a_confidence_of_exactly_zero_equals_the_oracle():
    """The answer that was given may have no chance."""
    z = np.array([(-200.0, 0.0), (-200.0, 0.0)], np.float32)
    label, given, two = np.array([0, 1], np.int32), np.zeros(2, np.int32), np.arange(2, dtype="i4")
    how = {"valid": np.ones(z.shape, bool), "group": two, "split": 0 * two, "splits": gqa.SPLITS}
    entry = evaluation.entry(z, label, None, prediction=given, **how, mode="default")
    want = oracle(z, label, np.zeros(2), given)
    del want["answer_mass"]
    assert compare(entry["metrics"], want, "zero") == len(want)
    top = jax.jit(calibration.top_label)(z, label, prediction=given)
    np.testing.assert_array_equal(top.confidence, [0, 0])


def test_far_below_zero_three_choices_keep_their_digits():
    """What float32 can tell apart there is not lost in a sum."""
    z = np.array([(FAR, FAR - 1, FAR - 0.5), (FAR, FAR, FAR), (FAR - 3, FAR, FAR - 1)], np.float32)
    label = np.array([0, 1, 2])
    top_label = jax.jit(calibration.top_label)
    top, near = top_label(z, label), top_label(z - np.float32(FAR), label)
    jax.tree.map(np.testing.assert_array_equal, top, near)
    exact = z.astype(np.float64)
    want = exact[np.arange(3), label] - np.logaddexp.reduce(exact, axis=1)
    found = jax.jit(calibration.label_log_prob)(z, label)
    np.testing.assert_allclose(found, want, rtol=FLOAT32)


def compare(metrics, want, case):
    """Compare columns with an oracle's; return how many there were."""
    for name, value in want.items():
        rtol = TEMPERATURE if name.startswith("temperature") else FLOAT32
        found, where = metrics[name]["value"], f"{case}: {name}"
        np.testing.assert_allclose(found, value, rtol=rtol, atol=FLOAT32, err_msg=where)
    return len(want)


def test_log_masses_of_candidates_without_a_chance():
    """Candidates 10,000 below another token: logs to two roundings, never −inf or nan."""
    logits = np.full((2, 2, 11), -3.0, np.float32)
    logits[..., 9] = 0.0
    logits[0, 0, [1, 4, 7]] = FAR, FAR - 1, FAR - 2.5
    logits[0, 1, [1, 4, 7]] = FAR
    logits[1, 0] = FAR
    logits[1, 1] = 0.0
    ids = ((1, 4), (7,))
    (((masses, total),), tokens) = jax.device_get(evidence._read_answers(logits, (ids,)))
    exact = logits.astype(np.float64)
    exact -= np.logaddexp.reduce(exact, axis=-1, keepdims=True)
    want = [np.logaddexp.reduce(exact[..., list(some)], axis=-1) for some in ids]
    rounding = float(np.spacing(np.float32(-FAR)))
    np.testing.assert_allclose(masses, np.stack(want, axis=-1), rtol=0, atol=2 * rounding)
    np.testing.assert_allclose(total, np.logaddexp(*want), rtol=0, atol=2 * rounding)
    assert (total <= 0).all()
    np.testing.assert_array_equal(tokens, [[9, 9], [0, 0]])  # the first of equals


# Too few rows, or all alike


def row(number, split, label, masses, *, image=None, mass=-0.125, **said):
    picture = image or f"{number}.jpg"
    known = records.Record(
        f"{split}/{number}", picture, split, label, masses, mass, 1, None, 16, "//8=", "0" * 16
    )
    return dataclasses.replace(known, **said)


def parsed(line):
    fields = records.from_line(line.removesuffix(b"\n"))
    return records.Record(**fields | {"log_masses": tuple(fields["log_masses"])})


def report(folder, rows, benchmark, mode):
    """Return the entries of a run folder with these records, results.json and the tables."""
    setting = folder / "none"
    setting.mkdir()
    route = "generate" if rows and rows[0].label is None else "first_token"
    content = {
        "identity": {"data": {"sha256": DATA}, "confidence": {"route": route}, "setting": {}},
        "setting": {"pruner": "none", "budget": 16, "seed": None},
        "expected": {"rows": len(rows)},
        "plan": {},
    }
    (setting / records.RUN).write_text(json.dumps(content))
    file = setting / "records-00000-of-00001.jsonl"
    file.write_bytes(b"".join(map(records.to_line, rows)))
    names = ("yes", "no") if benchmark is pope.BENCHMARK else tuple("ABC")
    asked = [
        questions.Question(
            r.key,
            r.image,
            "?",
            r.split,
            "",
            "",
            names,
            "" if r.label is None else names[r.label],
            (),
            ("cat",),
        )
        for r in rows
    ]
    questions.write(folder, DATA, asked)
    entries = aggregate.results(folder, [setting], benchmark, mode)["settings"]
    scores = tables.render_scores([(e["setting"], e["scores"]) for e in entries])
    said = [{**e, **e["per_token"]} for e in entries if "per_token" in e]
    text = [tables.render(entries, benchmark.splits), scores, tables.render(said, ())]
    return entries, (folder / aggregate.RESULTS).read_text(), "\n".join(text)


def six(labels, masses, split="random"):
    return [
        row(i, split, label, z) for i, (label, z) in enumerate(zip(labels, masses, strict=True))
    ]


YES, NO, EVEN = (-0.25, -1.5), (-1.5, -0.25), (-0.75, -0.75)
SURE = (0.0, -200.0)
NOTHING = None  # what is undefined, and a dash in the table
TABLE = {
    "no row": ([], {}),
    "one row, right": (
        [row(0, "random", 0, YES)],
        {"accuracy": 1, "aurc": 0, "confidence_auroc": NOTHING, "cross_validated_ece": NOTHING},
    ),
    "one row, wrong": (
        [row(0, "random", 1, YES)],
        {"accuracy": 0, "aurc": 1, "accuracy_at_80": 0, "cross_validated_ece": NOTHING},
    ),
    "all right": (
        six([0, 1] * 3, [YES, NO] * 3),
        {"accuracy": 1, "aurc": 0, "augrc": 0, "confidence_auroc": NOTHING, "temperature": 1e-3},
    ),
    "all wrong": (
        six([1, 0] * 3, [YES, NO] * 3),
        {"accuracy": 0, "aurc": 1, "augrc": 0.5, "confidence_auroc": NOTHING, "temperature": 1e3},
    ),
    "one class only": (
        six([0] * 6, [YES, NO] * 3),
        {"accuracy": 0.5, "aurc": 0.5, "confidence_auroc": 0.5},
    ),
    "ties": (
        six([0, 1] * 3, [EVEN] * 6),
        {"accuracy": 0.5, "mean_confidence": 0.5, "ece": 0, "brier": 0.25, "aurc": 0.5},
    ),
    "certain, right": (
        six([0] * 6, [SURE] * 6),
        {"accuracy": 1, "mean_confidence": 1, "ece": 0, "brier": 0, "nll": 0},
    ),
    "certain, wrong": (
        six([1] * 6, [SURE] * 6),
        {"accuracy": 0, "mean_confidence": 1, "ece": 1, "brier": 1, "nll": 200},
    ),
    "one bin filled": (
        six([0, 1] * 3, [YES] * 6),
        {"accuracy": 0.5, "ece": 1 / (1 + np.exp(-1.25)) - 0.5},
    ),
}


@pytest.mark.times(1, 2)
def test_what_is_undefined_is_a_dash(tmp_path, times, passed):
    """Every number that a table of expectations names, and no nan anywhere."""
    compared = 0
    modes = ("default", "paper")[:times]
    for (name, (rows, want)), mode in itertools.product(TABLE.items(), modes):
        folder = tmp_path / mode / name
        folder.mkdir(parents=True)
        entries, content, text = report(folder, rows, pope.BENCHMARK, mode)
        refuse_nan(content, text)
        assert len(entries) == bool(rows), name
        for entry in entries:
            assert (entry["n"], list(entry["splits"])) == (len(rows), ["random"])
            for metric, value in want.items():
                found = entry["metrics"][metric]["value"]
                near = value if value is NOTHING else pytest.approx(value, rel=1e-5, abs=FLOAT32)
                assert found == near, (name, metric)
                compared += 1
            alone = len(rows) == 1
            assert (entry["metrics"]["accuracy"]["low"] is None) == alone
    passed("N3", f"modes {modes}: {len(TABLE)} cases, {compared} numbers as expected, 0 nan")


def refuse_nan(content, text):
    """Raise unless JSON has standard numbers alone, and a table has digits and dashes."""
    json.loads(content, parse_constant=lambda word: pytest.fail(f"results.json has {word}"))
    words = {word.strip("[],") for word in text.split()}
    assert not words & {"nan", "inf", "-inf", "None"}


@pytest.mark.full
def test_an_answer_that_is_none_of_the_choices_has_an_infinite_loss(tmp_path):
    """As a dash; only the paper's mode admits it, and the flags ask for that mode."""
    rows = [row(i, "other", label, EVEN) for i, label in enumerate([0, 1, 2])]
    (entry,), content, text = report(tmp_path, rows, scienceqa.BENCHMARK, "paper")
    refuse_nan(content, text)
    assert entry["metrics"]["nll"]["value"] is None
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(1 / 3)


@pytest.mark.full
def test_texts_of_no_and_of_full_confidence_and_no_text_at_all(tmp_path):
    """Their losses are large, and none is infinite."""
    certain = 24 * np.log(2) / 2  # of one row of two, that is wrong
    for name, log_probs, said, loss in (
        ("full", (0.0, 0.0), "dog", certain),
        ("none", (FAR, FAR), "dog", -np.log(np.finfo(np.float32).tiny) / 2),
        ("empty", (), "", certain),
    ):
        (tmp_path / name).mkdir()
        how = {"mass": None, "text_log_probs": log_probs}
        rows = [row(i, "query", None, (), text=t, **how) for i, t in enumerate(("cat", said))]
        (entry,), content, text = report(tmp_path / name, rows, gqa.BENCHMARK, "default")
        refuse_nan(content, text)
        assert entry["metrics"]["accuracy"]["value"] == 0.5
        assert entry["metrics"]["answer_mass"]["value"] is None
        assert entry["metrics"]["nll"]["value"] == pytest.approx(loss, rel=1e-3)


def test_seeds_of_which_one_has_no_number_have_no_mean():
    """A mean over the others would be another quantity."""
    names = ("accuracy", "confidence_auroc")
    found = [{"accuracy": 0.5, "confidence_auroc": None}, {"accuracy": 1.0, "confidence_auroc": 1}]
    entries = [
        {"seed": seed, "run": "r", "mode": "default", "setting": str(seed), "scores": {}}
        | {"metrics": {name: {"value": values[name]} for name in names}}
        for seed, values in enumerate(found)
    ]
    (over,) = aggregate.over_seeds(entries)
    assert over["metrics"]["accuracy"]["mean"] == 0.75
    assert over["metrics"]["confidence_auroc"] == {"mean": None, "sd": None}
