"""The stored orders of the official selectors, driven by <golden>/pruners/manifest.json."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning

COMBINE = {"multi": "multiply", "add": "add"}


@jax.jit(static_argnames=("budget", "gamma", "combine"))
def scope_without_saliency(features, budget, gamma, combine):
    def one(image):
        return pruning.scope(image, None, budget, gamma=gamma, combine=combine)

    return jax.vmap(one)(features)


def scope_orders(features, saliency, run, budget):
    """Return the orders of a batch of images, int[B, K]."""
    gamma, combine = run["gamma"], COMBINE[run["combined"]]
    if saliency is None:
        return scope_without_saliency(features, budget, gamma, combine)
    pruner = pruning.Scope(alpha=run["alpha"], gamma=gamma, combine=combine)
    tokens = pruning.Tokens(features=jnp.asarray(features), saliency=jnp.asarray(saliency))
    return pruning.select(
        pruner, tokens, budget, jax.random.split(jax.random.key(0), len(features))
    )


@pytest.mark.golden
@pytest.mark.parametrize("file", ["scope", "scope_gamma"])
def test_scope_orders_are_accepted(golden, file):
    compared = 0
    for name, case, inputs, stored in golden.cases(file):
        batched = inputs["features"].ndim == 3
        saliency = golden.check.saliency(inputs["cls_attention"])
        features = inputs["features"] if batched else inputs["features"][None]
        if saliency is not None:
            saliency = np.asarray(saliency if batched else saliency[None], np.float32)
        orders = {}
        for tag, run in case["runs"].items():
            rows = np.asarray(scope_orders(features, saliency, run, case["K"]))
            orders[f"order_{tag}"] = rows if batched else rows[0]

        def replays(array, row, case=case, features=features, saliency=saliency):
            run = case["runs"][array.removeprefix("order_")]
            weight = None if saliency is None else saliency[row]
            settings = run["alpha"], run["gamma"], run["combined"]
            return lambda order, tol, upto: golden.check.scope_replay(
                features[row], weight, order[:upto], *settings, tol=tol
            )

        golden.assert_accepted(f"{file}/{name}", case, orders, stored, replays)
        compared += len(orders)
    assert compared, f"{file}: no case in the manifest"


@pytest.mark.golden
def test_saliency_orders_are_accepted(golden):
    compared = 0
    for name, case, inputs, stored in golden.cases("saliency"):
        rows = {
            int(key.removeprefix("cls_attention_layer")): attention[:, 1:]
            for key, attention in inputs.items()
        }
        arrays = {}
        for array in {
            rule["array"] for rule in case["accept"] if rule["array"].startswith("order_")
        }:
            several = re.fullmatch(r"order_multi(\d+)_(\d+)", array)
            if several:
                first, last = map(int, several.groups())
                saliency = sum(rows[layer].mean(0) for layer in range(first, last + 1))
            else:
                saliency = rows[max(rows)].sum(0)
            order = pruning.saliency_top_k(jnp.asarray(saliency), len(saliency))
            arrays[array] = np.asarray(order)
        golden.assert_accepted(f"saliency/{name}", case, arrays, stored, lambda *_: None)
        compared += len(arrays)
    assert compared, "saliency: no case in the manifest"
