"""One model on eight devices: what is where, what is sent between them, and the same answers."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from llava_jax import checkpoint, config, decoding, engine, sharding, testing, text
from llava_jax.checkpoint import conversion, huggingface

CFG = config.from_hf(testing.tiny_config(num_key_value_heads=4))
PROMPT = np.array([1, 9, 200, 31, 77])
MESHES = pytest.mark.parametrize("sizes", [(2, 4), (8, 1), (1, 4)])
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, testing.random_params(CFG))


def placed(params, mesh):
    leaves = huggingface.flatten(params).items()
    put = [sharding.put(path, leaf, mesh) for path, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(params), put)


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
@pytest.mark.parametrize("cfg", [config.pocket(), config.llava_1_5_7b()])
def test_every_leaf_has_one_rule_and_every_rule_a_leaf(cfg, quantization):
    paths = huggingface.flatten(huggingface.abstract(cfg, np.float32, quantization))
    for path in paths:
        assert sharding.spec(path) is not None
    used = {p for p, _ in sharding.RULES for path in paths if re.fullmatch(p, path)}
    rest = {p for p, _ in sharding.RULES} - used
    assert rest <= {"image_newline", r"text/layers/\d+/(out|down)/weight/scale"}
    assert (quantization is None) == any("scale" in p and "values" not in p for p in rest)


def test_a_leaf_without_a_rule_is_named():
    with pytest.raises(ValueError, match="0 sharding rules match the parameter text/extra"):
        sharding.spec("text/extra")


def test_axes_are_auto_and_devices_counted():
    assert sharding.make_mesh(2, 4).axis_types == (AxisType.Auto, AxisType.Auto)
    with pytest.raises(ValueError, match=r"data:4,model:4 takes 16 devices; 8 are here"):
        sharding.make_mesh(4, 4)


def test_a_mesh_that_does_not_divide_the_decoder_is_refused():
    sharding.check(CFG, sharding.make_mesh(2, 4))
    with pytest.raises(ValueError, match="4 key-value heads") as caught:
        sharding.check(CFG, sharding.make_mesh(1, 8))
    assert "hidden units" not in str(caught.value)
    with pytest.raises(ValueError, match="4 key-value heads, 64 hidden units, 512 rows"):
        sharding.check(CFG, sharding.make_mesh(1, 3))


@pytest.mark.parametrize("text", ["", "data", "data:2,data:4", "rows:2", "data:-1", "data:0"])
def test_a_mesh_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(repr(text.split(",")[-1])) + "|" + repr(text)):
        sharding.parse(text)


def test_a_mesh_is_read():
    assert sharding.parse("model:4, data:2") == {"data": 2, "model": 4}
    assert sharding.parse("model:4") == {"data": 1, "model": 4}
    mesh = sharding.make_mesh(2, 4)
    assert sharding.parse(sharding.describe(mesh)) == dict(mesh.shape)


def count(stage, *args):
    """Count the collectives of a stage as the compiler left it."""
    program = engine._compiled(stage).lower(*args, cfg=CFG.text).compile().as_text()
    found = {
        name: len(re.findall(rf"= [^=]* {name}(?:-start)?\(", program)) for name in COLLECTIVES
    }
    return {name: times for name, times in found.items() if times}


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_a_decoder_layer_needs_two_all_reduces(tmp_path, quantization):
    testing.write_checkpoint(tmp_path, num_key_value_heads=4)
    mesh = sharding.make_mesh(2, 4)
    how = {"quantization": quantization, "mesh": mesh}
    layer, *_ = checkpoint.load(tmp_path, CFG, np.float32, **how)["text"]["layers"]
    x = sharding.spread(np.ones((2, 1, 9, CFG.text.width), np.float32), mesh)
    places = np.arange(9, dtype=np.int32)[None, None]
    nothing = text.empty_prefix(1, np.float32, cfg=CFG.text)
    assert count(decoding.prefix_block, layer, x, places, nothing) == {"all-reduce": 2}
    _, prefix = engine._compiled(decoding.prefix_block)(layer, x, places, nothing, cfg=CFG.text)
    assert prefix.keys.sharding.spec == P("data", None, "model")
    suffix = sharding.spread(np.ones((2, 3, 5, CFG.text.width), np.float32), mesh)
    behind = np.broadcast_to(9 + np.arange(5, dtype=np.int32), (2, 1, 5))
    assert count(text.block, layer, suffix, behind, prefix) == {"all-reduce": 2}
    lengths = np.full((2, 3), 5, np.int32)
    last = count(text.last_token, layer, suffix, behind, prefix, lengths)
    assert last == {"all-reduce": 2}


@pytest.mark.parametrize(
    ("sizes", "pictures"),
    [((2, 4), 4), ((2, 4), 3), ((8, 1), 8), ((1, 4), 4)],
    ids=["both axes", "pictures that do not divide", "pictures", "decoder"],
)
def test_a_mesh_gives_the_answers_of_one_device(params, sizes, pictures):
    mesh = sharding.make_mesh(*sizes)
    rng = np.random.default_rng(0)
    side = CFG.vision.image_size
    pixels = rng.standard_normal((pictures, side, side, 3), np.float32)
    ids = rng.integers(4, 300, (pictures, 5, 9)).astype(np.int32)
    lengths = rng.integers(1, 10, (pictures, 5)).astype(np.int32)
    kept = np.stack([np.sort(rng.permutation(16)[:6]) for _ in range(pictures)]).astype(np.int32)

    def answer(run):
        features = run.encode(pixels, ("features",)).require("features")
        prefix = run.prefill(run.begin(PROMPT), features, kept, np.array([7]))
        said = run.say(run.read(prefix, ids, lengths), 2, 4)
        return run.answer(prefix, ids, lengths), said

    want, words = answer(engine.Engine(jax.tree.map(jnp.asarray, params), CFG))
    got, said = answer(engine.Engine(placed(params, mesh), CFG, mesh))
    divided = sizes[0] > 1 and pictures % sizes[0] == 0
    assert (len({shard.index[0].start or 0 for shard in got.addressable_shards}) > 1) == divided
    masses = [np.asarray(jax.nn.log_softmax(x))[..., :300] for x in (got, want)]
    np.testing.assert_allclose(*masses, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(said.ids, words.ids)
    np.testing.assert_allclose(said.log_probs, words.log_probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("quantization", [None, "int8"])
@MESHES
def test_orbax_restores_into_any_mesh(tmp_path, sizes, quantization):
    testing.write_checkpoint(tmp_path / "model", num_key_value_heads=4)
    conversion.convert(tmp_path / "model", tmp_path / "new", np.float32, quantization=quantization)
    mesh, how = sharding.make_mesh(*sizes), {"quantization": quantization}
    want = checkpoint.load(tmp_path / "model", CFG, np.float32, **how)
    got = checkpoint.load(tmp_path / "new", CFG, np.float32, **how, mesh=mesh)
    again = checkpoint.load(tmp_path / "model", CFG, np.float32, **how, mesh=mesh)
    chex.assert_trees_all_equal(got, want)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(again), strict=True):
        assert ours.sharding == theirs.sharding
    gate = got["text"]["layers"][1]["gate"]["weight"]
    rows = (gate.values if quantization else gate).addressable_shards[0].data.shape[0]
    assert rows == CFG.text.mlp_width // sizes[1]


def test_a_part_of_a_mapped_tensor_is_read_for_each_device(tmp_path):
    testing.write_checkpoint(tmp_path, num_key_value_heads=4)
    mesh = sharding.make_mesh(1, 4)
    tree = checkpoint.load(tmp_path, CFG, np.float32, mesh=mesh)
    bytes_each = sum(leaf.addressable_shards[3].data.nbytes for leaf in jax.tree.leaves(tree))
    assert bytes_each == checkpoint.num_bytes(CFG, np.float32, parts=4)
