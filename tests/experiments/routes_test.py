"""First tokens and generated text: the same answers however questions are put together."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

import llava_jax
from experiments import gqa, mmbench, mme, pope, scienceqa, seed, textvqa
from experiments.harness import batching, command, records, shards
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError, UsageError
from experiments.harness.stopwatch import Stopwatch
from experiments.reading import opening
from experiments.reporting import aggregate, evaluation, predictions
from llava_jax import checkpoint, prompts
from llava_jax.engine import Engine

BENCHMARKS = [m.BENCHMARK for m in (pope, scienceqa, mme, mmbench, textvqa, seed, gqa)]
PICTURES, QUESTIONS, STEPS = 16, 4, 3


@pytest.fixture(scope="module")
def model(tiny):
    """The tiny model, asked in the embedded model's tokens, of which it has as many."""
    cfg = checkpoint.read_config(tiny)
    pocket = pathlib.Path(llava_jax.__file__).parent / "pocket"
    tokenizer = prompts.Tokenizer.from_folder(pocket)
    return Engine(checkpoint.load(tiny, cfg, np.float32), cfg), tokenizer


def answers(model, groups, suffixes, features, shape=None):
    """Return key → (log masses of the choices, texts' tokens and log probabilities)."""
    engine, tokenizer = model
    batch = batching.collate(groups, suffixes)
    ids, lengths = batch.suffix_ids, batch.lengths
    if shape:
        more = [(0, 0), *((0, wanted - n) for wanted, n in zip(shape, ids.shape[1:], strict=True))]
        ids, lengths = np.pad(ids, more), np.pad(lengths, more[:2], constant_values=1)
    kept = np.tile(np.arange(16, dtype=np.int32), (len(groups), 1))
    prompt = np.array(tokenizer.first(prompts.vicuna_v1("")[0]), np.int32)
    prefix = engine.prefill(engine.begin(prompt), features, kept)
    context = engine.read(prefix, ids, lengths)
    log_probs = np.asarray(jax.nn.log_softmax(context.logits))
    said = engine.say(context, tokenizer.end_id, STEPS)
    found = {}
    for g, group in enumerate(groups):
        for q, question in enumerate(group.questions):
            choices = [tokenizer.answer_ids(spellings) for spellings in question[0].choices]
            masses = [log_probs[g, q, list(c)].max() for c in choices]
            found[question[0].key] = masses, said.ids[g, q], said.log_probs[g, q]
    return found


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_batches_and_padding_change_no_answer(model, benchmark):
    dataset = opening.load(benchmark, Request(data="scenes", limit=PICTURES))
    groups = [
        dataclasses.replace(group, questions=group.questions[:QUESTIONS])
        for group in batching.group_by_image(dataset.examples)
    ]
    texts = {question[0].user_text for group in groups for question in group.questions}
    suffixes = {text: model[1].rest(prompts.vicuna_v1(text)[1]) for text in texts}
    features = np.random.default_rng(0).standard_normal((PICTURES, 16, 32)).astype(np.float32)
    found = []
    for size in (1, 4, 16):
        got = {}
        for start in range(0, PICTURES, size):
            part = slice(start, start + size)
            shape = None if size == 1 and start == 0 else (QUESTIONS, 64)  # one as a run has it
            got |= answers(model, tuple(groups[part]), suffixes, features[part], shape)
        found.append(got)
    want, *others = found
    assert len(want) >= PICTURES
    for got in others:
        assert got.keys() == want.keys()
        for key, (masses, ids, log_probs) in got.items():
            np.testing.assert_allclose(masses, want[key][0], atol=1e-5)
            assert ids.tolist() == want[key][1].tolist()
            np.testing.assert_allclose(log_probs, want[key][2], atol=1e-5)


def prepare(config, benchmark=pope.BENCHMARK, **change):
    config = dataclasses.replace(config, **change)
    return command.prepare(benchmark, config, Stopwatch(exact=False))


def folder_of(config):
    return pathlib.Path(config.out)


def test_texts_are_recorded_and_scored(config):
    change = {"route": "generate", "max_new_tokens": 3, "hyperparameters": {}}
    work = prepare(config, pruners=("random",), seeds=(0, 1), **change)
    outcome = command.answer(work)
    rows = records.read_records(outcome.folders[0])
    tokenizer = work.inputs.source.tokenizer
    for row in rows.values():
        assert 1 <= len(row.text_log_probs) <= 3
        assert max(row.text_log_probs) <= 0
        assert row.text.startswith(tokenizer.text([row.token]))
    found = aggregate.results(folder_of(config), outcome.folders, pope.BENCHMARK, "default")
    (seeds,) = found["over_seeds"]
    assert "per_token" not in seeds  # which is one seed's
    entry = found["settings"][0]
    assert entry["route"] == "generate"
    assert entry["correct_by"] == "lmms_eval"
    right = sum(row.text.lower().strip() == ("yes", "no")[row.label] for row in rows.values())
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(right / len(rows))
    assert entry["scores"]["lmms_eval"]["accuracy"] == pytest.approx(right / len(rows))
    whole = np.exp([sum(row.text_log_probs) for row in rows.values()]).mean()
    each = np.exp([np.mean(row.text_log_probs) for row in rows.values()]).mean()
    confidences = (e["metrics"]["mean_confidence"]["value"] for e in (entry, entry["per_token"]))
    np.testing.assert_allclose(list(confidences), [whole, each], rtol=1e-4)


def test_scores_are_those_of_the_likeliest_choice(config):
    (folder,) = command.answer(prepare(config, pruners=("none",), hyperparameters={})).folders
    rows = list(records.read_records(folder).values())
    (shard,) = folder.glob("records-*.jsonl")
    shard.unlink()
    writer = shards.Shard(folder)
    turned = [dataclasses.replace(row, log_masses=row.log_masses[::-1]) for row in rows[::3]]
    writer.append([*turned, *(row for i, row in enumerate(rows) if i % 3)])
    writer.close()
    entry = evaluation.of_setting(folder, pope.BENCHMARK, "default")
    accuracy = entry["metrics"]["accuracy"]["value"]
    assert 0 < accuracy < 1
    assert entry["scores"]["lmms_eval"]["accuracy"] == pytest.approx(accuracy)
    assert 0 < entry["scores"]["llava"]["yes_ratio"] < 1
    next(folder.parent.glob("questions-*")).unlink()
    old = evaluation.of_setting(folder, pope.BENCHMARK, "default")
    assert old == entry | {"scores": {}}  # of a run from before there were scores


def test_both_routes_have_the_same_first_token_and_folders_do_not_mix(config):
    change = {"pruners": ("none",), "hyperparameters": {}}
    first = records.read_records(command.answer(prepare(config, **change)).folders[0])
    with pytest.raises(InputError, match=r"identity\.confidence\.route: first_token → generate"):
        prepare(config, route="generate", **change)
    out = config.out + "-said"
    work = prepare(config, route="generate", max_new_tokens=2, out=out, **change)
    said = records.read_records(command.answer(work).folders[0])
    assert said.keys() == first.keys()
    for key, row in said.items():
        assert row.token == first[key].token
        np.testing.assert_allclose(row.log_masses, first[key].log_masses, atol=1e-5)
        assert (first[key].text, first[key].text_log_probs) == (None, None)


def test_every_question_has_a_text_of_its_own_and_of_its_own_length(config, monkeypatch):
    change = {"route": "generate", "max_new_tokens": 3, "pruners": ("none",), "hyperparameters": {}}
    free = records.read_records(command.answer(prepare(config, **change)).folders[0])
    tokens = sorted({row.token for row in free.values()})
    assert len(tokens) > 1
    monkeypatch.setattr(prompts.Tokenizer, "end_id", property(lambda _: tokens[0]))
    work = prepare(config, **change, out=config.out + "-short")
    rows = records.read_records(command.answer(work).folders[0])
    assert len({len(row.text_log_probs) for row in rows.values()}) > 1
    for key, row in rows.items():
        length = len(row.text_log_probs)
        assert (length == 1) == (row.token == tokens[0])
        np.testing.assert_allclose(row.text_log_probs, free[key].text_log_probs[:length], atol=1e-6)
    for group in work.inputs.plan.groups:
        asked = [question[0].key for question in group.questions]
        assert len({free[key].text_log_probs for key in asked}) == len(asked)


def test_the_line_of_a_first_token_has_no_field_more():
    row = records.Record("a", "b", "c", 0, (-0.5, -1.0), -0.1, 7, None, 4, "8A==", "0" * 16)
    line = json.loads(records.to_line(row))
    assert "text_log_probs" not in line
    said = dataclasses.replace(row, text="Yes", text_log_probs=(-0.25, -0.5))
    assert json.loads(records.to_line(said))["text_log_probs"] == [-0.25, -0.5]


def test_open_answers_have_no_choices(tiny, config):
    work = prepare(
        config, gqa.BENCHMARK, data="scenes", limit=2, pruners=("none",), hyperparameters={}
    )
    assert work.inputs.plan.max_new_tokens == gqa.BENCHMARK.max_new_tokens
    rows = records.read_records(command.answer(work).folders[0])
    for row in rows.values():
        assert (row.label, row.log_masses, row.answer_log_mass) == (None, (), None)
        assert row.text is not None


@pytest.mark.parametrize(
    ("benchmark", "change", "message"),
    [
        (gqa, {"route": "first_token"}, "the answers of gqa are open"),
        (pope, {"max_new_tokens": 3}, "--max_new_tokens is of --route=generate"),
        (pope, {"options": "abcd", "mode": "paper"}, "pope has no lettered options"),
        (scienceqa, {"options": "abcd"}, "--mode=paper"),
    ],
)
def test_flags_that_do_not_go_together(config, benchmark, change, message):
    with pytest.raises(UsageError, match=message):
        prepare(config, benchmark.BENCHMARK, data="scenes", **change)


def test_a_right_answer_beyond_the_options_is_wrong_in_the_papers_mode(config, fixtures_dir):
    change = {"pruners": ("none",), "hyperparameters": {}, "options": "abcd", "mode": "paper"}
    data = str(fixtures_dir / "raw" / "scienceqa")
    work = prepare(config, scienceqa.BENCHMARK, data=data, **change)
    labels = [example.label for example in work.inputs.dataset.examples]
    assert max(labels) == 4
    outcome = command.answer(work)
    rows = predictions.load(outcome.folders[0], scienceqa.BENCHMARK.splits)
    assert rows.log_masses.shape == (len(labels), 5)
    assert not rows.valid[:, 4].any()
    found = aggregate.results(folder_of(config), outcome.folders, scienceqa.BENCHMARK, "paper")
    (entry,) = found["settings"]
    best = rows.log_masses.argmax(1)
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(best == rows.label))
    assert entry["metrics"]["nll"]["value"] is None  # infinite
    assert entry["scores"]["lmms_eval"]["exact_match"] == pytest.approx(np.mean(best == rows.label))
    assert "invalid_choice_rate" in entry["scores"]["llava_jax"]


def test_confidence_of_a_text():
    base = records.Record("a", "b", "c", None, (), None, 7, "x", 4, "8A==", "0" * 16, (-0.5, -1.5))
    sure = dataclasses.replace(base, key="b", text_log_probs=(0.0,))
    lost = dataclasses.replace(base, key="c", text_log_probs=(-200.0, -1.0))
    right = {"a": True, "b": False, "c": True}
    rows = [base, sure, lost]
    whole = predictions.of_text(rows, ["c"], right, per_token=False)
    np.testing.assert_allclose(whole.log_masses[0], [-2.0, np.log1p(-np.exp(-2.0))], rtol=1e-6)
    assert whole.label.tolist() == [0, 1, 0]
    assert np.isfinite(whole.log_masses).all()
    assert whole.log_masses[1, 1] < -15  # certain and wrong: a large loss, not an infinite one
    per_token = predictions.of_text(rows, ["c"], right, per_token=True)
    np.testing.assert_allclose(per_token.log_masses[0, 0], -1.0, rtol=1e-6)
