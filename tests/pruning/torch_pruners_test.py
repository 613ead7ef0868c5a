"""The torch functions that benchmarks/pruners.py times compute what `pruning` does."""

import dataclasses
import importlib.util
import pathlib

import jax
import numpy as np
import pytest

import pruning
from pruning import testing

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.reference

FILE = pathlib.Path(__file__).parents[2] / "benchmarks" / "torch_pruners.py"
N, K, IMAGES = 48, 12, 3


def load():
    """Import the module by its path, for benchmarks are not installed."""
    spec = importlib.util.spec_from_file_location("torch_pruners", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


METHODS = load().METHODS
DECODER = [n for n in METHODS if pruning.get(n).stage is pruning.Stage.DECODER]
DETERMINISTIC = [n for n in METHODS if n not in DECODER and n != "random"]


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only wait for each other on tensors as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tensors(tokens, num_text=None):
    """Return the fields of one image as tensors, text without its padding."""
    found = {}
    for field in dataclasses.fields(tokens):
        value = getattr(tokens, field.name)
        if isinstance(value, jax.Array):
            value = torch.tensor(np.asarray(value))
            if field.name.startswith("text_"):
                value = value[:num_text]
            found[field.name] = value[:, :num_text] if field.name == "rows" else value
    return found


def assert_same(got, features, index):
    """Compare tokens and their features, in any order."""
    got_features, got_index = (x.numpy() for x in got)
    mine, theirs = np.argsort(index), np.argsort(got_index)
    np.testing.assert_array_equal(got_index[theirs], index[mine])
    np.testing.assert_allclose(got_features[theirs], features[mine], rtol=1e-5, atol=1e-5)


def test_every_method_of_the_package_is_there():
    own = [n for n in pruning.names() if pruning.get(n).__module__.startswith("pruning.")]
    assert sorted(METHODS) == [name for name in own if name != "none"]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_before_the_decoder(name):
    pruner = pruning.get(name)()
    images = [testing.made_up_tokens(seed, N) for seed in range(IMAGES)]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *images)
    batch = dataclasses.replace(batch, relevance=batch.relevance[:, None])
    answer = pruning.select(pruner, batch, K, jax.random.split(jax.random.key(0), IMAGES))
    for image, tokens in enumerate(images):
        want = jax.tree.map(lambda leaf, image=image: np.asarray(leaf)[image], answer)
        if pruner.stage is pruning.Stage.QUESTION:
            want = jax.tree.map(lambda leaf: leaf[0], want)
        got = METHODS[name](tensors(tokens), K)
        if isinstance(want, pruning.Merged):
            assert_same(got, *want)
        else:
            assert sorted(got.tolist()) == sorted(want.tolist())
            if pruner.nested:
                assert got.tolist() == want.tolist()


def test_random_tokens_are_distinct():
    picks = METHODS["random"]({"saliency": torch.zeros(N)}, K).tolist()
    assert len(set(picks)) == K
    assert set(picks) <= set(range(N))


@pytest.mark.parametrize("name", DECODER)
def test_inside_the_decoder(name):
    pruner = pruning.get(name)()
    cut = pruner.cuts(K, N, 32)[0]
    run = jax.jit(lambda tokens: pruner(tokens, cut, jax.random.key(0)))
    for seed in range(IMAGES):
        tokens = testing.made_up_decoder_tokens(seed, N, num_tokens=N, num_text=20)
        want = run(tokens)
        got = METHODS[name](tensors(tokens, 20), cut.keep)
        if want.merged is not None:
            merged, got = got
            assert len(merged) == cut.merged
            np.testing.assert_allclose(merged.numpy(), want.merged, rtol=1e-5, atol=1e-5)
        assert got.tolist() == want.index.tolist()
