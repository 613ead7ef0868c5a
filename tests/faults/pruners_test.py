"""Pruners that misbehave are named, and a pruner that was asked for cannot be left out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from experiments import pope
from experiments.harness import answering, command, records, selection
from experiments.harness.stopwatch import Stopwatch
from llava_jax import cutting
from pruning import base, testing

N = 25  # of the kit's made-up tokens
FULL = pytest.mark.full
OF_EACH_STAGE = ("none", "random", "saliency", "scope", "trim", "visionzip", "fastv")
KEY = pruning.image_key(0, "image")


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    """Forget what a test registers."""
    monkeypatch.setattr(base, "_PRUNERS", dict(base._PRUNERS))


def make(call, **variables):
    """Register a pruner, by saliency before the decoder unless it is said otherwise."""
    usual = {
        "stage": pruning.Stage.VISION,
        "needs": ("saliency",),
        "nested": False,
        "stochastic": False,
        "__call__": call,
    }
    return pruning.register("toy")(type("Toy", (), usual | variables))


# Every registered pruner, given what no model should give


def at(place, value):
    def change(leaf):
        changed = np.array(leaf)
        changed[place] = value
        return changed

    return change


DEGENERATE = {
    "all nan": lambda leaf: np.full_like(leaf, np.nan),
    "a nan token": at(2, np.nan),
    "an infinite token": at(2, np.inf),
    "a token of −inf": at(2, -np.inf),
    "all infinite": lambda leaf: np.full_like(leaf, np.inf),
    "all zero": np.zeros_like,
    "constant": np.ones_like,
    "all negative": lambda leaf: -np.abs(leaf),
}


def changed(tokens, change):
    """Change every array of floats."""
    fields = {field.name: getattr(tokens, field.name) for field in dataclasses.fields(tokens)}
    floats = {n: x for n, x in fields.items() if isinstance(x, jax.Array) and x.dtype == "float32"}
    return dataclasses.replace(
        tokens, **{name: jnp.asarray(change(np.asarray(x))) for name, x in floats.items()}
    )


def picks(pruner, tokens, budget):
    """Return the chosen tokens of one image and the least number that stands for one."""
    batch = jax.tree.map(lambda leaf: leaf[None], tokens)
    if pruner.stage is pruning.Stage.QUESTION:
        batch = dataclasses.replace(batch, relevance=batch.relevance[:, None])
    found = pruning.select(pruner, batch, budget, KEY[None])
    made = isinstance(found, pruning.Merged)
    return np.asarray(found.index if made else found).ravel(), -1 if made else 0


def survivors(pruner, change):
    """Yield the kept tokens at every cut, how many there may be, and of how many."""
    left = N
    for cut in pruner.cuts(8, N, 32):
        tokens = changed(testing.made_up_decoder_tokens(0, left), change)
        batch = jax.tree.map(lambda leaf: leaf[None, None], tokens)
        found = pruning.select_inside(pruner, batch, cut, KEY[None, None])
        index = np.asarray(found.index).ravel()
        yield (index[: cut.keep] if cut.at_most else index), cut.keep, left
        left = left if cut.how == "mask" else min(cut.keep + cut.merged, left)


@pytest.mark.parametrize(
    "name", [n if n in OF_EACH_STAGE else pytest.param(n, marks=FULL) for n in pruning.names()]
)
def test_a_registered_pruner_survives_what_no_model_should_give(name, passed):
    """K distinct tokens in range, whatever it is given: a NaN ranks a token, and no more."""
    pruner, tried = pruning.get(name)(), 0
    for kind, change in DEGENERATE.items():
        if pruner.stage is pruning.Stage.DECODER:
            for index, keep, left in survivors(pruner, change):
                require_distinct(index, keep, 0, left, f"{name}, {kind}")
                tried += 1
            continue
        tokens = changed(testing.made_up_tokens(0), change)
        for budget in (8,) if name != "none" else (N,):
            index, least = picks(pruner, tokens, budget)
            require_distinct(index, budget, least, N, f"{name}, {kind}, K = {budget}")
            tried += 1
    passed("P1 inputs", f"{name}: {tried} of {tried} give K distinct tokens in range")


def require_distinct(index, count, least, below, where):
    values = index.tolist()
    assert len(set(values)) == len(values) == count, f"{where}: {values}"
    assert min(values) >= least, f"{where}: {values}"
    assert max(values) < below, f"{where}: {values}"


# Pruners of one's own that answer what they should not


def repeated(self, tokens, budget, key):
    return jnp.zeros(budget, jnp.int32)


def one_less(self, tokens, budget, key):
    return jnp.arange(budget - 1, dtype=jnp.int32)


def one_more(self, tokens, budget, key):
    return jnp.arange(budget + 1, dtype=jnp.int32)


def too_high(self, tokens, budget, key):
    return tokens.num_tokens + jnp.arange(budget, dtype=jnp.int32)


def too_low(self, tokens, budget, key):
    return -2 - jnp.arange(budget, dtype=jnp.int32)


def cls(self, tokens, budget, key):
    """CLS is for tokens that are made; this one makes none."""
    return jnp.arange(budget, dtype=jnp.int32) - 1


def floats(self, tokens, budget, key):
    return jnp.arange(budget, dtype=jnp.float32)


def by_argmax(self, tokens, budget, key):
    """A sort of NaN is in order; a loop over argmax picks the first NaN again and again."""
    score, found = tokens.saliency * jnp.nan, []
    for _ in range(budget):
        found.append(jnp.argmax(score).astype(jnp.int32))
        score = score.at[found[-1]].set(-jnp.inf)
        score = score * jnp.nan
    return jnp.stack(found)


def features_less(self, tokens, budget, key):
    index = pruning.saliency_top_k(tokens.saliency, budget)
    return pruning.Merged(tokens.features[index[1:]], index)


BAD = {
    "repeated": (repeated, {}),
    "one less": (one_less, {}),
    "one more": (one_more, {}),
    "too high": (too_high, {}),
    "too low": (too_low, {}),
    "cls": (cls, {}),
    "floats": (floats, {}),
    "nan scores": (by_argmax, {}),
    "features less": (features_less, {"needs": ("features", "saliency")}),
}


def question(call):
    """Return the same answer in another stage."""
    return call, {"stage": pruning.Stage.QUESTION, "needs": ("saliency", "relevance")}


BAD_BY_QUESTION = {
    f"{name}, by question": question(BAD[name][0]) for name in ("repeated", "too high")
}


def inside(answer, cuts=None):
    def call(self, tokens, cut, key):
        return pruning.Survivors(answer(tokens, cut.keep))

    def one_cut(self, budget, num_tokens, num_layers):
        return (pruning.Cut(1, 0, budget),)

    return call, {
        "stage": pruning.Stage.DECODER,
        "needs": ("row", "hidden"),
        "cuts": cuts or one_cut,
    }


BAD_INSIDE = {
    "repeated, inside": inside(lambda tokens, k: jnp.zeros(k, jnp.int32)),
    "one less, inside": inside(lambda tokens, k: jnp.arange(k - 1, dtype=jnp.int32)),
    "one more, inside": inside(lambda tokens, k: jnp.arange(k + 1, dtype=jnp.int32)),
    "too high, inside": inside(lambda tokens, k: 16 + jnp.arange(k, dtype=jnp.int32)),
    "too low, inside": inside(lambda tokens, k: -20 - jnp.arange(k, dtype=jnp.int32)),
    "no cut, inside": inside(None, lambda self, budget, num_tokens, num_layers: ()),
}
EVERY_BAD = BAD | BAD_BY_QUESTION | BAD_INSIDE
IN_EVERY_RUN = (
    *("one less", "one more", "too high", "cls"),
    *("too high, inside", "no cut, inside"),
)


def run(config, **changes):
    config = dataclasses.replace(config, hyperparameters={}, limit=1, **changes)
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    return command.answer(work)


@pytest.mark.parametrize(
    "name", [n if n in IN_EVERY_RUN else pytest.param(n, marks=FULL) for n in EVERY_BAD]
)
def test_a_run_names_the_pruner_that_misbehaves(config, name, passed):
    """The promise is checked on every batch, also of a pruner that the kit never saw."""
    call, variables = EVERY_BAD[name]
    make(call, **variables)
    with pytest.raises(Exception, match="toy") as caught:
        run(config, pruners=("toy",))
    assert not isinstance(caught.value, AssertionError)
    folder = next(f for f in config.folder.glob("toy_*"))
    assert records.read_records(folder) == {}, "no row was recorded"
    passed("P1 runs", f"{name}: {type(caught.value).__name__}, no row recorded")


# Runs that leave the pruner out


def every_token(chosen, setting, features):
    every = np.broadcast_to(np.arange(16, dtype=np.int32), (*chosen.index.shape[:-1], 16))
    return selection.Handed(features, every, every)


def no_cuts(self, num_tokens, num_layers):
    return ()


MUTATIONS = {
    "every token is handed over": ("saliency", selection, "handed_over", every_token),
    "every question sees all": ("cdpruner", selection, "handed_over", every_token),
    "nothing is dropped": ("fastv", cutting, "_take", lambda tokens, index, merged: tokens),
    "nothing is dropped in stages": (
        "pyramiddrop",
        cutting,
        "_take",
        lambda tokens, index, merged: tokens,
    ),
    "no cut is made": ("fastv", answering.Setting, "cuts", no_cuts),
}


@pytest.mark.parametrize(
    "name", [n if "sees" not in n else pytest.param(n, marks=FULL) for n in MUTATIONS]
)
def test_a_run_that_leaves_the_pruner_out_fails(config, monkeypatch, name, passed):
    """The tokens that the decoder saw are counted, whatever the pruner says."""
    pruner, holder, attribute, mutation = MUTATIONS[name]
    monkeypatch.setattr(holder, attribute, mutation)
    with pytest.raises(RuntimeError, match=r"4|fastv"):
        run(config, pruners=(pruner,))
    passed("P2", f"{name}: the run fails")
