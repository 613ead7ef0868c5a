"""What every registered pruner promises, whatever its method: a new one is covered by its name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning import testing

PRUNERS = [pruning.get(name)() for name in pruning.names()]
# Pruner by pruner: a worker, which compiles each program once, gets most of one's promises.
CASES = [(pruner, promise) for pruner in PRUNERS for promise in testing.promises(pruner)]
# The kit compares the start of an order, where no coverage has ties yet; these have none at all.
WITHOUT_TIES = ("agilepruner", "cdpruner", "divprune", "otprune", "saliency", "scope")


@pytest.mark.parametrize(
    ("pruner", "promise"),
    CASES,
    ids=[f"{pruner.name}-{promise.name.replace(' ', '_')}" for pruner, promise in CASES],
)
def test_it_keeps_its_promises(pruner, promise):
    promise(pruner)


@pytest.mark.parametrize("name", WITHOUT_TIES)
def test_relabelled_tokens_give_a_relabelled_order(name):
    pruner, key = pruning.get(name)(), pruning.image_key(0, "image")
    images, relabel = [testing.made_up_tokens(seed) for seed in (6, 7)], []
    for seed, image in enumerate(images[:2]):
        relabel.append(np.random.default_rng(seed).permutation(image.num_tokens))
        images.append(testing.relabelled(image, relabel[-1]))
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *images)
    orders = jax.jit(jax.vmap(lambda image: pruner(image, image.num_tokens, key)))(batch)
    for order, moved, names in zip(orders[:2], orders[2:], relabel, strict=True):
        np.testing.assert_array_equal(names[np.asarray(moved)], order)
