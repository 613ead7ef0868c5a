"""The dual encoder: configs, conversion and properties that no reference is needed for."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy

from llava_jax import checkpoint, clip_config, clip_text, config, parameters, testing
from llava_jax.checkpoint import huggingface, rules

CFG = testing.tiny_clip()
BOS, EOS = 98, 97


@pytest.fixture
def folder(tmp_path):
    testing.write_clip(tmp_path / "clip")
    return tmp_path / "clip"


def rewrite(folder, changed):
    safetensors.numpy.save_file(changed, folder / "model.safetensors")


def content(**changes):
    return clip_config.clip_to_hf(CFG) | changes


def test_text_is_read_at_its_end():
    params = testing.random_params(CFG)
    run = jax.jit(clip_text.embed_text, static_argnames="cfg")
    ids = np.array([[BOS, 4, 8, EOS, 0, 0], [BOS, EOS, EOS, EOS, EOS, EOS], [BOS, 4, 8, 9, 1, EOS]])
    padded = np.array([[BOS, 4, 8, EOS, 7, 91], [BOS, EOS, 5, 6, 7, 8], [BOS, 4, 8, 9, 1, EOS]])
    got = run(params, ids, cfg=CFG)
    chex.assert_shape(got, (3, 20))
    np.testing.assert_array_equal(got, run(params, padded, cfg=CFG))
    assert np.abs(got[0] - got[2]).max() > 0.1
    longer = np.zeros((1, 13), np.int32)
    with pytest.raises(ValueError, match="13 tokens; the text tower has 12"):
        clip_text.embed_text(params, longer, cfg=CFG)


def test_half_precision_stays_close_and_only_the_named_parts_are_read():
    params = testing.random_params(CFG)
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), params)
    needed = {name: half[name] for name in ("text", "text_projection")}
    run = jax.jit(clip_text.embed_text, static_argnames="cfg")
    ids = np.array([[BOS, 4, 8, 9, 1, EOS]])
    got, want = run(needed, ids, cfg=CFG), run(params, ids, cfg=CFG)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, want, atol=0.02)  # some 2⁻¹⁰ per operation on values near 1
    needed = {
        "vision": {"post_norm": half["vision"]["post_norm"]},
        "visual_projection": half["visual_projection"],
    }
    seen = clip_text.embed_visual(needed, np.ones((2, 3, 32), np.float16), cfg=CFG)
    chex.assert_shape(seen, (2, 3, 20))
    assert seen.dtype == np.float16


def test_init_has_the_converted_tree():
    cfg = dataclasses.replace(
        CFG,
        vision=dataclasses.replace(CFG.vision, num_layers=1),
        text=dataclasses.replace(CFG.text, num_layers=1),
    )
    # This generator compiles in half the time.
    made = jax.jit(parameters.init_clip, static_argnums=1)(jax.random.key(0, impl="rbg"), cfg)
    params = testing.random_params(CFG)
    first = {
        tower: params[tower] | {"layers": params[tower]["layers"][:1]}
        for tower in ("vision", "text")
    }
    chex.assert_trees_all_equal_shapes_and_dtypes(made, params | first)
    chex.assert_tree_all_finite(made)
    np.testing.assert_allclose(np.exp(-made["logit_scale"]), 0.07, rtol=1e-5)
    llava = huggingface.abstract(config.from_hf(testing.tiny_config()))["vision"]
    assert jax.tree.structure(llava | {"layers": llava["layers"][:1]}) == jax.tree.structure(
        made["vision"]
    )


def test_saved_parameters_come_back(folder):
    assert checkpoint.read_clip_config(folder) == CFG
    want = testing.random_params(CFG)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_clip(folder, np.float32), want)
    half = checkpoint.load_clip(folder, np.float16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(np.float16)}
    assert checkpoint.num_parameters(CFG) == sum(leaf.size for leaf in jax.tree.leaves(want))


def test_all_violations_are_named_together(folder):
    whole = safetensors.numpy.load_file(folder / "model.safetensors")
    whole["text_model.embeddings.position_ids"] = np.zeros((1, 12), np.int64)
    whole["vision_model.embeddings.position_ids"] = np.zeros((1, 17), np.int64)
    rewrite(folder, whole)
    checkpoint.load_clip(folder, np.float32)
    whole["text_model.pooler.weight"] = np.zeros(3, np.float32)
    whole["text_projection.weight"] = whole["text_projection.weight"].T.copy()
    del whole["logit_scale"], whole["text_model.encoder.layers.1.mlp.fc2.bias"]
    rewrite(folder, whole)
    with pytest.raises(checkpoint.ConversionError) as caught:
        checkpoint.load_clip(folder, np.float32)
    message = str(caught.value)
    assert "4 violations" in message
    assert "missing tensor logit_scale []" in message
    assert "missing tensor text_model.encoder.layers.1.mlp.fc2.bias [24]" in message
    assert "extra tensor text_model.pooler.weight [3]" in message
    assert "text_projection.weight has shape [24, 20], needs [20, 24]" in message
    whole["visual_projection.weight"] = whole["visual_projection.weight"].astype(np.int64)
    rewrite(folder, whole)
    with pytest.raises(ValueError, match=r"dtype not one of.*visual_projection\.weight"):
        checkpoint.load_clip(folder, np.float32)


def test_rules_are_a_bijection():
    paths = huggingface.flatten(huggingface.abstract(CFG))
    keys = {path: rules.CLIP.key_of(path) for path in paths}
    assert {path: rules.CLIP.path_of(key) for path, key in keys.items()} == {p: p for p in paths}
    used = {key.replace(".0.", ".{i}.").replace(".1.", ".{i}.") for key in keys.values()}
    assert {rule[0] for rule in rules.CLIP.rules} <= used, "dead rules"


def test_a_llava_folder_is_no_clip(tmp_path, folder):
    testing.write_checkpoint(tmp_path / "llava")
    with pytest.raises(ValueError, match=r"not a CLIP model: model_type='llava'"):
        checkpoint.load_clip(tmp_path / "llava", np.float32)
    with pytest.raises(ValueError, match=r"not a LLaVA-1.5 model: model_type='clip'"):
        checkpoint.read_config(folder)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        checkpoint.load_clip(tmp_path, np.float32)


def test_unsupported_fields_are_named_together():
    wrong = content(model_type="siglip")
    wrong["vision_config"] |= {"num_channels": 4, "image_size": [32, 48]}
    wrong["text_config"] |= {"hidden_act": "gelu", "eos_token_id": 99}
    with pytest.raises(ValueError, match="not a CLIP model") as caught:
        clip_config.clip_from_hf(wrong)
    for named in (
        "model_type='siglip' (supported: 'clip')",
        "vision_config.num_channels=4 (supported: 3)",
        "vision_config.image_size=[32, 48] (supported: one number)",
        "text_config.hidden_act='gelu' (supported: 'quick_gelu')",
        "text_config.eos_token_id=99 (supported: an id, 0..98, or 2 for the largest id of a text)",
    ):
        assert named in str(caught.value)
    with pytest.raises(ValueError, match=r"lacks \['text_config'\]"):
        clip_config.clip_from_hf(content(text_config=None))


def test_hub_config_with_defaults_gives_the_large_one():
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    vision |= {"num_hidden_layers": 24, "image_size": 336, "patch_size": 14}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    hub = {
        "model_type": "clip",
        "projection_dim": 768,
        "vision_config": vision,
        "text_config": text | {"eos_token_id": 2},
    }
    cfg = clip_config.clip_from_hf(hub)
    assert cfg.vision == config.llava_1_5_7b().vision
    assert cfg.text == clip_config.ClipTextConfig(49408, 768, 12, 12, 3072, 77, eos_id=None)
    assert checkpoint.num_parameters(cfg) == 427_944_193  # of OpenAI's ViT-L/14@336px
    # Old files repeat a tower as ..._dict; transformers lets it and its defaults win.
    old = clip_config.clip_from_hf(hub | {"text_config_dict": text, "vision_config_dict": None})
    assert old.text == clip_config.ClipTextConfig(49408, 768, 12, 12, 3072, 77, eos_id=49407)


@pytest.mark.parametrize("eos_id", [7, None])
def test_configs_come_back(eos_id):
    cfg = clip_config.pocket_clip(512, eos_id)
    written = json.loads(json.dumps(clip_config.clip_to_hf(cfg)))
    assert clip_config.clip_from_hf(written) == cfg
    assert cfg.vision == config.pocket().vision


def test_an_end_of_text_with_id_2_cannot_be_written():
    with pytest.raises(ValueError, match="eos_id=2 cannot be written"):
        clip_config.clip_to_hf(clip_config.pocket_clip(512, 2))
