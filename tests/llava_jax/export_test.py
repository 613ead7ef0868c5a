"""The model lowers for accelerators that are not here, and a stored program computes the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import pruning
from llava_jax import config, decoding, model, testing, text, vision
from llava_jax.checkpoint import huggingface

PLATFORMS = ("tpu", "cuda")
CFG = config.from_hf(testing.tiny_config())
G, Q, S, K, C, T = 2, 3, 5, 4, 2, 6
HALF = {"tpu": jnp.bfloat16, "cuda": jnp.float16}  # of the 7B there


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def integers(*sizes):
    return shape(*sizes, dtype=jnp.int32)


def lowered(function, platform, *args):
    """Lower for a platform and check that the program is there, and for no other."""
    found = export.export(jax.jit(function), platforms=[platform])(*args)
    assert found.platforms == (platform,)
    assert "func.func public @main" in found.mlir_module()
    return found


def encode(params, pixels):
    seen = model.encode(params, pixels, cfg=CFG, outputs=("features", "saliency"))
    return seen.features, seen.saliency


def prefill(params, prompt_ids, features, kept, common_ids):
    image, places = model.project_kept(params["projector"], features, kept)
    before = decoding.begin(params, prompt_ids, cfg=CFG)
    found = decoding.prefill(params, before, image, places, K, common_ids, cfg=CFG)
    return [tuple(kv) for kv in found.layers], found.next_position


def answer(params, layers, next_position, suffix_ids, lengths):
    prefix = decoding.Prefix(tuple(text.KeyValue(*kv) for kv in layers), next_position)
    return decoding.answer(params, prefix, suffix_ids, lengths, cfg=CFG)


SIDE, N, WIDTH = CFG.vision.image_size, CFG.vision.num_tokens, CFG.vision.width
PREFILLED = (integers(S), shape(G, N, WIDTH), integers(G, K), integers(C))


@pytest.fixture(scope="module")
def tree():
    return huggingface.abstract(CFG)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_stages_lower(tree, platform):
    features, saliency = lowered(encode, platform, tree, shape(G, SIDE, SIDE, 3)).out_avals
    assert (features.shape, saliency.shape) == ((G, N, WIDTH), (G, N))
    lowered(prefill, platform, tree, *PREFILLED)
    layers, position = jax.eval_shape(prefill, tree, *PREFILLED)
    asked = (integers(G, Q, T), integers(G, Q))
    (logits,) = lowered(answer, platform, tree, layers, position, *asked).out_avals
    assert logits.shape == (G, Q, CFG.text.vocab_size)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_selection_lowers_at_its_real_size(platform):
    select = jax.vmap(functools.partial(pruning.scope, budget=128, alpha=0.5, gamma=1.5))
    features = shape(G, 576, 1024, dtype=HALF[platform])
    (order,) = lowered(select, platform, features, shape(G, 576)).out_avals
    assert (order.shape, order.dtype) == ((G, 128), jnp.int32)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_blocks_of_the_7b_lower_in_half_precision(platform):
    cfg, half = config.llava_1_5_7b(), functools.partial(shape, dtype=HALF[platform])
    seven = huggingface.abstract(cfg, HALF[platform])
    seen = functools.partial(vision.block, cfg=cfg.vision)
    (x,) = lowered(seen, platform, seven["vision"]["layers"][0], half(8, 577, 1024)).out_avals
    assert (x.shape, x.dtype) == ((8, 577, 1024), HALF[platform])
    p, q, t = 35 + 576 + 4, 12, 28
    kv = text.KeyValue(half(8, p, 32, 128), half(8, p, 32, 128))

    def block(params, x, positions, keys, values):
        out, own = text.block(params, x, positions, text.KeyValue(keys, values), cfg=cfg.text)
        return out, *own

    args = (half(8, q, t, 4096), integers(8, 1, t), *kv)
    found = lowered(block, platform, seven["text"]["layers"][0], *args)
    assert [each.shape for each in found.out_avals] == [(8, q, t, 4096)] + [(8, q, t, 32, 128)] * 2
    last = {"norm": seven["text"]["norm"], "lm_head": seven["text"]["lm_head"]}
    head = functools.partial(decoding.logits, cfg=cfg)
    (logits,) = lowered(head, platform, last, half(8, q, 1, 4096)).out_avals
    assert (logits.shape, logits.dtype) == ((8, q, 32064), jnp.float32)


def test_what_was_exported_and_read_back_answers_the_same():
    pytest.importorskip("flatbuffers")  # what jax.export stores programs with
    rng, params = np.random.default_rng(0), testing.random_params(CFG)
    pixels = rng.standard_normal((G, SIDE, SIDE, 3), np.float32)
    prompt, common = np.arange(S, dtype=np.int32), np.array([7, 8], np.int32)
    kept = np.tile(np.arange(0, N, N // K, dtype=np.int32), (G, 1))
    suffixes = rng.integers(4, 500, (G, Q, T)).astype(np.int32)
    lengths = np.array([[6, 4, 1], [2, 6, 5]], np.int32)

    def whole(params, pixels, kept, suffixes, lengths):
        features, _ = encode(params, pixels)
        layers, position = prefill(params, prompt, features, kept, common)
        return answer(params, layers, position, suffixes, lengths)

    args = (params, pixels, kept, suffixes, lengths)
    stored = export.export(jax.jit(whole), platforms=["cpu", *PLATFORMS])(*args).serialize()
    again = export.deserialize(stored)
    assert again.platforms == ("cpu", *PLATFORMS)
    # The same program but for the order of a sum.
    np.testing.assert_allclose(again.call(*args), jax.jit(whole)(*args), rtol=1e-5, atol=1e-5)
