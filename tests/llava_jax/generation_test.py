"""Greedy text: what shares a batch, a prefix or a cache changes nothing."""

import itertools

import jax
import numpy as np
import pytest

from llava_jax import config, decoding, testing
from llava_jax.engine import Engine

PROMPT = np.array([1, 9, 200, 31, 77])
END, NEVER = 2, -1
CFG = config.from_hf(testing.tiny_config())
PARAMS = testing.random_params(CFG, seed=4)


@pytest.fixture(scope="module")
def run():
    return Engine(PARAMS, CFG)


def questions(count, rng):
    """Return suffixes of 1..9 tokens."""
    return [rng.integers(5, 400, rng.integers(1, 10)).astype(np.int32) for _ in range(count)]


def arrays(rows, width=None):
    """Return ids [G, Q, T] and lengths [G, Q] of rows of suffixes."""
    width = width or max(len(ids) for row in rows for ids in row)
    ids = np.full((len(rows), len(rows[0]), width), 7, np.int32)
    for g, row in enumerate(rows):
        for q, suffix in enumerate(row):
            ids[g, q, : len(suffix)] = suffix
    return ids, np.array([[len(suffix) for suffix in row] for row in rows], np.int32)


def prefix_of(run, features):
    kept = np.tile(np.arange(16, dtype=np.int32), (len(features), 1))
    return run.prefill(run.begin(PROMPT), features, kept)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return rng.standard_normal((16, 16, CFG.vision.width)).astype(np.float32)


def generate(run, prefix, ids, lengths, end, steps):
    context = run.read(prefix, ids, lengths)
    return context.logits, run.say(context, end, steps)


def say(run, features, rows, *, steps=12, end=NEVER, width=None):
    return generate(run, prefix_of(run, features), *arrays(rows, width), end, steps)


@pytest.mark.parametrize(("batch", "width"), [(4, 12), (16, 20)])
def test_batches_and_padding_change_nothing(run, features, batch, width):
    rng = np.random.default_rng(batch)
    rows = [questions(2, rng) for _ in range(batch)]
    logits, said = say(run, features[:batch], rows, width=width)
    for g, row in enumerate(rows):
        for q, suffix in enumerate(row):
            exact = len(suffix) if g == 0 else 9  # without any padding, or with less
            alone, want = say(run, features[g : g + 1], [[suffix]], width=exact)
            np.testing.assert_allclose(logits[g, q], alone[0, 0], atol=1e-5)
            assert said.ids[g, q].tolist() == want.ids[0, 0].tolist()
            np.testing.assert_allclose(said.log_probs[g, q], want.log_probs[0, 0], atol=1e-5)


@pytest.mark.parametrize("steps", [1, 9, 21])
def test_every_token_is_the_likeliest_after_those_before_it(run, features, steps):
    """A cache that is filled and doubled says what reading the whole text anew says."""
    rng = np.random.default_rng(steps)
    suffix = questions(1, rng)[0]
    _, said = say(run, features[:1], [[suffix]], steps=steps)
    assert said.ids.shape == (1, 1, steps)
    assert said.lengths.tolist() == [[steps]]
    prefix, text = prefix_of(run, features[:1]), suffix
    for step in range(steps):
        ids, lengths = arrays([[text]], width=40)
        logits = decoding.answer(PARAMS, prefix, ids, lengths, cfg=CFG, stage=run.stage)[0, 0]
        assert said.ids[0, 0, step] == logits.argmax()
        want = jax.nn.log_softmax(logits).max()
        np.testing.assert_allclose(said.log_probs[0, 0, step], want, atol=1e-5)
        text = np.append(text, logits.argmax())


def test_an_answer_ends_with_the_end_token_and_does_not_disturb_the_others(run, features):
    rng = np.random.default_rng(3)
    row = questions(6, rng)
    _, free = say(run, features[:1], [row])
    end = int(free.ids[0, 2, 4])  # what question 2 says fifth ends an answer
    _, said = say(run, features[:1], [row], end=end)
    for q in range(6):
        own = free.ids[0, q].tolist()
        length = own.index(end) + 1 if end in own else len(own)
        assert said.lengths[0, q] == length
        assert said.ids[0, q, :length].tolist() == own[:length]
    assert said.lengths[0, 2] == 5 or end in free.ids[0, 2, :4]
    assert len(set(said.lengths[0].tolist())) > 1


def test_no_step_is_run_when_all_have_ended(run, features):
    suffix = questions(1, np.random.default_rng(5))[0]
    first = int(say(run, features[:1], [[suffix]], steps=1)[1].ids[0, 0, 0])
    _, said = say(run, features[:1], [[suffix]], end=first)
    assert said.ids.shape == (1, 1, 1)
    assert said.lengths.tolist() == [[1]]


def test_questions_that_end_at_different_steps_end_the_work(run, features):
    row = questions(16, np.random.default_rng(8))
    _, free = say(run, features[:1], [row])
    told = [list(dict.fromkeys(ids)) for ids in free.ids[0].tolist()]
    end, first, second = next(
        (token, a, b)
        for a, b in itertools.permutations(range(16), 2)
        for token in set(told[a]) & set(told[b])
        if free.ids[0, a].tolist().index(token) < free.ids[0, b].tolist().index(token) < 11
    )
    _, said = say(run, features[:1], [[row[first], row[second]]], end=end, width=9)
    assert said.lengths[0, 0] < said.lengths[0, 1] == said.ids.shape[-1]


def test_a_prefix_of_its_own_for_every_question(run, features):
    """As where the question decides which tokens are kept."""
    rng = np.random.default_rng(6)
    rows = [questions(2, rng), questions(2, rng)]
    ids, lengths = arrays(rows)
    kept = np.sort(rng.permuted(np.tile(np.arange(16), (4, 1)), axis=1)[:, :6], axis=1)
    own = run.prefill(run.begin(PROMPT), features[:2], kept.reshape(2, 2, 6).astype(np.int32))
    _, said = generate(run, own, ids.reshape(4, 1, -1), lengths.reshape(4, 1), NEVER, 5)
    for index in range(4):
        g, q = divmod(index, 2)
        prefix = run.prefill(
            run.begin(PROMPT), features[g : g + 1], kept[index : index + 1].astype(np.int32)
        )
        _, want = generate(run, prefix, *arrays([[rows[g][q]]]), NEVER, 5)
        assert said.ids[index, 0].tolist() == want.ids[0, 0].tolist()
