"""Quantised weights: their error, their bytes, and the model that runs on them unchanged."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llava_jax import checkpoint, config, layers, model, quantize, testing
from llava_jax.checkpoint import conversion, huggingface

WIDE = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8}  # multiples of int4's groups
BOTH = pytest.mark.parametrize("how", ["int8", "int4"])


def matrix(o=6, i=64, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(o, i)).astype(dtype)


@BOTH
def test_every_weight_is_within_half_a_step(how):
    weight = matrix()
    found = quantize.quantize(weight, how)
    step = np.repeat(found.scale, weight.shape[1] // found.scale.shape[1], axis=1)
    assert np.all(np.abs(found.dequantize() - weight) <= step / 2 * (1 + 1e-5))
    assert np.abs(found.values.astype(int)).max() == 2 ** (quantize.BITS[how] - 1) - 1
    assert found.scale.shape == (6, {"int8": 1, "int4": 2}[how])


@BOTH
def test_zeros_stay_zeros(how):
    found = quantize.quantize(np.zeros((2, 32), np.float32), how)
    np.testing.assert_array_equal(found.dequantize(), 0)


def test_a_scale_belongs_to_its_own_channel_and_group():
    weight = matrix(2, 64)
    weight[0, :32] *= 1000
    alone = quantize.quantize(matrix(2, 64), "int4")
    found = quantize.quantize(weight, "int4")
    np.testing.assert_array_equal(found.scale[0, 1], alone.scale[0, 1])
    np.testing.assert_array_equal(found.scale[1], alone.scale[1])
    np.testing.assert_allclose(found.scale[0, 0], 1000 * alone.scale[0, 0], rtol=1e-6)


def test_int4_refuses_a_width_that_its_groups_do_not_divide():
    with pytest.raises(ValueError, match="48 do not divide"):
        quantize.quantize(matrix(i=48), "int4")
    assert quantize.quantize(matrix(i=48), "int8").shape == (6, 48)


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_product_is_that_of_the_matrix_it_stands_for(how, dtype):
    found = jax.tree.map(jnp.asarray, quantize.quantize(matrix(), how))
    x = jnp.asarray(matrix(3), dtype)
    got = jax.jit(layers.dense)(x, found)
    want = np.asarray(x, np.float32) @ np.asarray(found.dequantize()).T
    chex.assert_shape(got, (3, 6))
    assert got.dtype == dtype
    tolerance = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(
        np.asarray(got, np.float32), want, rtol=tolerance, atol=8 * tolerance
    )


@BOTH
def test_a_tree_is_quantised_where_the_decoder_multiplies(how, tmp_path):
    cfg = config.pocket()
    tree = huggingface.abstract(cfg, np.float16, how)
    found = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, quantize.Quantized))
    assert sum(isinstance(leaf, quantize.Quantized) for leaf in found) == 7 * cfg.text.num_layers
    assert not isinstance(tree["text"]["lm_head"], quantize.Quantized)
    bits = {"int8": 8, "int4": 4, "float16": 16, "float32": 32}
    packed = sum(leaf.size * bits[leaf.dtype.name] // 8 for leaf in jax.tree.leaves(tree))
    assert checkpoint.num_bytes(cfg, np.float16, how) == packed
    assert packed < checkpoint.num_bytes(cfg, np.float16)


@BOTH
def test_loading_quantises_and_the_model_runs(how, tmp_path):
    cfg = testing.write_checkpoint(tmp_path, **WIDE)
    plain = checkpoint.load(tmp_path, cfg, np.float32)
    found = checkpoint.load(tmp_path, cfg, np.float32, quantization=how)
    weight = found["text"]["layers"][0]["gate"]["weight"]
    want = quantize.quantize(np.asarray(plain["text"]["layers"][0]["gate"]["weight"]), how)
    assert weight.values.dtype == how
    np.testing.assert_array_equal(weight.values, want.values)
    np.testing.assert_array_equal(weight.scale, want.scale)
    pixels = np.random.default_rng(0).normal(size=(1, *[cfg.vision.image_size] * 2, 3))
    asked = np.array([1, 9, 31]), np.array([[[5, 8, 13]]]), np.array([[3]])
    exact, logits = (
        model.apply(params, pixels.astype(np.float32), *asked, cfg=cfg)[..., :300]
        for params in (plain, found)
    )
    difference = np.abs(jax.nn.softmax(exact) - jax.nn.softmax(logits)).max()
    assert 0 < difference < {"int8": 1e-3, "int4": 2e-2}[how]


@BOTH
def test_a_converted_tree_comes_back(how, tmp_path):
    cfg = testing.write_checkpoint(tmp_path / "model", **WIDE)
    record = conversion.convert(
        tmp_path / "model", tmp_path / "small", np.float16, quantization=how
    )
    assert record["quantization"] == checkpoint.quantization_of(tmp_path / "small") == how
    want = checkpoint.load(tmp_path / "model", cfg, np.float16, quantization=how)
    got = checkpoint.load(tmp_path / "small", cfg, np.float16, quantization=how)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    with pytest.raises(ValueError, match=f"converted with quantization {how}, not None"):
        checkpoint.load(tmp_path / "small", cfg, np.float16)


def test_safetensors_hold_no_integers(tmp_path):
    testing.write_checkpoint(tmp_path / "model")
    with pytest.raises(ValueError, match="orbax does"):
        conversion.convert(tmp_path / "model", tmp_path / "new", np.float16, "safetensors", "int8")
