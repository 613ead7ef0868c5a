"""The registry, the view of an image and selection over a batch."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning import base


@pytest.fixture
def registry(monkeypatch):
    """Forget what a test registers."""
    monkeypatch.setattr(base, "_PRUNERS", dict(base._PRUNERS))


def make_class(**overrides):
    variables = {
        "stage": pruning.Stage.VISION,
        "needs": ("saliency",),
        "nested": True,
        "stochastic": False,
        "__call__": lambda self, tokens, budget, key: jnp.arange(budget, dtype=jnp.int32),
    }
    return type("Mine", (), variables | overrides)


def test_the_methods_are_registered():
    baselines = {"none", "random", "saliency"}
    methods = {"agilepruner", "divprune", "floc", "otprune", "scope", "vispruner"}
    assert baselines | methods <= set(pruning.names())
    assert list(pruning.names()) == sorted(pruning.names())
    assert pruning.get("scope") is pruning.Scope


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'scoop'; known: .*saliency, scope"):
        pruning.get("scoop")


def test_a_name_is_taken_once(registry):
    with pytest.raises(ValueError, match="'scope' is taken by Scope"):
        pruning.register("scope")(make_class())


def test_hyperparameters_are_the_fields_in_order():
    assert list(pruning.hyperparameters(pruning.Scope).items()) == [
        ("alpha", 1.0),
        ("gamma", 1.0),
        ("combine", "multiply"),
        ("select_dtype", "float32"),
        ("saliency_layers", None),
    ]
    assert pruning.hyperparameters(pruning.Scope(alpha=0.5, gamma=2.0))["gamma"] == 2.0
    assert pruning.hyperparameters(pruning.Random) == {}


def test_a_pruner_is_a_frozen_pytree_of_its_float_fields():
    pruner = pruning.Scope(alpha=0.5, gamma=2.0)
    assert jax.tree.leaves(pruner) == [0.5]
    with pytest.raises(dataclasses.FrozenInstanceError):
        pruner.alpha = 1.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stage": "vision"}, r"Mine.stage must be a Stage, got 'vision'"),
        ({"needs": "saliency"}, r"Mine.needs must be a tuple, got 'saliency'"),
        ({"needs": ("salience",)}, r"got 'salience'"),
        ({"nested": None}, r"Mine.nested must be a bool, got None"),
        ({"__annotations__": {"size": int}, "size": 3}, r"Mine.size must be a float .* got 3"),
        ({"__annotations__": {"size": float}}, r"Mine.size must have a default"),
    ],
)
def test_an_incomplete_class_is_refused(registry, overrides, message):
    with pytest.raises(TypeError, match=message):
        pruning.register("mine")(make_class(**overrides))
    assert "mine" not in pruning.names()


def test_a_sweep_traces_no_second_time(registry):
    traces = []

    @pruning.register("mine")
    class Mine:
        stage: ClassVar = pruning.Stage.VISION
        needs: ClassVar = ("saliency",)
        nested: ClassVar = True
        stochastic: ClassVar = False
        slope: float = 1.0
        size: int = dataclasses.field(default=1, metadata={"static": True})

        def __call__(self, tokens, budget, key):
            traces.append(budget)
            return pruning.saliency_top_k(self.slope * tokens.saliency, budget)

    tokens = pruning.Tokens(saliency=jnp.asarray([[1.0, 3.0, 2.0]]))
    keys = jax.random.split(jax.random.key(0), 1)
    up, down = (pruning.select(Mine(slope=slope), tokens, 3, keys) for slope in (1.0, -1.0))
    np.testing.assert_array_equal(up, [[1, 2, 0]])
    np.testing.assert_array_equal(down, [[0, 2, 1]])
    assert traces == [3]
    pruning.select(Mine(size=2), tokens, 3, keys)
    assert traces == [3, 3]


def test_tokens_know_their_number():
    assert pruning.Tokens(hidden=jnp.ones((5, 2))).num_tokens == 4
    assert pruning.Tokens(saliency=jnp.ones((7, 4)), keys=jnp.ones((7, 5, 2))).num_tokens == 4
    with pytest.raises(ValueError, match=r"every field of Tokens is None"):
        _ = pruning.Tokens().num_tokens
    with pytest.raises(ValueError, match="'features': 4, 'saliency': 5"):
        _ = pruning.Tokens(features=jnp.ones((4, 2)), saliency=jnp.ones(5)).num_tokens


def test_none_keeps_everything_or_refuses():
    tokens = pruning.Tokens(saliency=jnp.ones((2, 4)))
    keys = jax.random.split(jax.random.key(0), 2)
    everything = pruning.select(pruning.KeepAll(), tokens, 4, keys)
    np.testing.assert_array_equal(everything, [[0, 1, 2, 3]] * 2)
    with pytest.raises(ValueError, match="budget must be 4, got 3"):
        pruning.select(pruning.KeepAll(), tokens, 3, keys)


def test_saliency_takes_the_largest_and_of_equals_the_first():
    assert pruning.saliency_top_k(jnp.asarray([1.0, 3.0, 0.0, 3.0, 1.0]), 4).tolist() == [
        1,
        3,
        0,
        4,
    ]
    assert pruning.saliency_top_k(jnp.zeros(4), 4).tolist() == [0, 1, 2, 3]


def test_an_image_has_its_own_random_order_whatever_the_batch():
    images = ["a.jpg", "b.jpg", "c.jpg"]
    keys = {image: pruning.image_key(0, image) for image in images}

    def orders(batch):
        tokens = pruning.Tokens(saliency=jnp.ones((len(batch), 30)))
        stacked = jnp.stack([keys[image] for image in batch])
        picks = pruning.select(pruning.Random(), tokens, 30, stacked)
        return {image: row.tolist() for image, row in zip(batch, picks, strict=True)}

    together = orders(images)
    assert orders(images[::-1]) == together
    assert orders(images[1:2])["b.jpg"] == together["b.jpg"]
    assert len({tuple(row) for row in together.values()}) == len(images)
    other_seed = pruning.random_subset(pruning.image_key(1, "a.jpg"), 30, 30)
    assert other_seed.tolist() != together["a.jpg"]


def test_image_keys_do_not_depend_on_the_default_generator():
    expected = jax.random.key_data(pruning.image_key(3, "ü.jpg"))
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(jax.random.key_data(pruning.image_key(3, "ü.jpg")), expected)


def test_a_random_subset_is_uniform():
    keys = jax.random.split(jax.random.key(0), 2000)
    tokens = pruning.Tokens(saliency=jnp.ones((2000, 10)))
    picks = pruning.select(pruning.Random(), tokens, 3, keys)
    counts = np.bincount(np.asarray(picks).ravel(), minlength=10)
    # 600 ± 20.5 expected: five standard deviations.
    assert np.abs(counts - 600).max() < 103


def test_no_two_pruners_share_a_structure():
    """Where they did, `jax.jit` ran one pruner's program for another, now and then."""
    structures = [jax.tree.structure(pruning.get(name)()) for name in pruning.names()]
    for i, one in enumerate(structures):
        assert all(one != other for other in structures[:i])


def test_a_pruner_survives_a_transformation():
    scope = pruning.get("scope")(alpha=0.5, gamma=2.0)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, scope)
    assert doubled == pruning.get("scope")(alpha=1.0, gamma=2.0)
    ((path, _),) = jax.tree_util.tree_leaves_with_path(scope)
    assert jax.tree_util.keystr(path) == ".alpha"
