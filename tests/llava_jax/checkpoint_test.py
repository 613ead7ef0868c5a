"""Conversion is total, and what it writes comes back."""

import json
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import llava_jax
from llava_jax import checkpoint, config, testing
from llava_jax.checkpoint import conversion, huggingface, rules, tensors


@pytest.fixture
def folder(tmp_path):
    testing.write_checkpoint(tmp_path / "model")
    return tmp_path / "model"


def weights(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def rewrite(folder, changed):
    safetensors.numpy.save_file(changed, folder / "model.safetensors")


def load(folder, dtype=np.float32):
    return checkpoint.load(folder, checkpoint.read_config(folder), dtype)


def test_saved_parameters_come_back(folder):
    want = testing.random_params(config.from_hf(testing.tiny_config()))
    jax.tree.map(np.testing.assert_array_equal, load(folder), want)
    half = load(folder, np.dtype(jnp.bfloat16))
    chex.assert_trees_all_equal_dtypes(half, jax.tree.map(lambda x: x.astype(jnp.bfloat16), want))


def test_a_sharded_index_loads(folder):
    whole = weights(folder)
    want = load(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    parts = {"model-00001-of-00002.safetensors": names[::2]}
    parts["model-00002-of-00002.safetensors"] = names[1::2]
    for file, keys in parts.items():
        safetensors.numpy.save_file({key: whole[key] for key in keys}, folder / file)
    index = {key: file for file, keys in parts.items() for key in keys}
    (folder / tensors.INDEX).write_text(json.dumps({"weight_map": index}))
    jax.tree.map(np.testing.assert_array_equal, load(folder), want)
    first = checkpoint.digest(folder)
    index[names[0]] = "model-00002-of-00002.safetensors"
    (folder / tensors.INDEX).write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ValueError, match=names[0]):
        load(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="00002-of-00002"):
        load(folder)
    assert len(first) == 64


@pytest.mark.parametrize("leaf", ["multi_modal_projector.linear_1.bias", "vision_tower"])
def test_all_violations_are_named_together(folder, leaf):
    whole = weights(folder)
    key = next(k for k in whole if k.startswith(leaf))
    whole["surprise.weight"] = np.zeros(3, np.float32)
    whole["language_model.model.norm.weight"] = np.zeros(7, np.float32)
    del whole[key]
    rewrite(folder, whole)
    with pytest.raises(checkpoint.ConversionError) as caught:
        load(folder)
    message = str(caught.value)
    assert "3 violations" in message
    assert f"missing tensor {key}" in message
    assert "extra tensor surprise.weight [3]" in message
    assert "language_model.model.norm.weight has shape [7], needs [48]" in message


def test_old_buffers_are_ignored_by_name(folder):
    whole = weights(folder)
    whole["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(6, np.float32)
    whole["vision_tower.vision_model.embeddings.position_ids"] = np.zeros((1, 17), np.int64)
    rewrite(folder, whole)
    load(folder)


def test_two_spellings_of_one_parameter_are_refused(folder):
    whole = weights(folder)
    whole["lm_head.weight"] = whole["language_model.lm_head.weight"]
    rewrite(folder, whole)
    with pytest.raises(checkpoint.ConversionError, match=r"two tensors.*lm_head"):
        load(folder)


def test_rules_are_a_bijection(folder):
    paths = huggingface.flatten(huggingface.abstract(checkpoint.read_config(folder)))
    keys = rules.LLAVA
    assert {keys.path_of(keys.key_of(path)) for path in paths} == set(paths)
    used = {rule for path in paths for rule in keys.rules if _matches(rule, path)}
    assert used == set(keys.rules), "dead rules"


def _matches(rule, path):
    parts = rule[1].split("{i}")
    return path.startswith(parts[0]) and path.endswith(parts[-1])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "safetensors is empty: the download did not finish"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "is a web page that was saved in its place"),
        (b"a poem", "not a valid safetensors file: "),
    ],
)
def test_files_that_are_no_weights_are_refused(folder, content, named):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=named):
        load(folder)


def test_a_pickle_is_refused_with_a_hint(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin is a pickle"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "llava_onevision"}, "llava_onevision"),
        ({"vision_feature_select_strategy": "full"}, "full"),
        ({"vision_feature_layer": [-2, -5]}, "vision_feature_layer"),
        ({"vision_feature_layer": 3}, "vision_feature_layer=3"),
        ({"projector_hidden_act": "relu"}, "relu"),
    ],
)
def test_configs_of_other_models_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        config.from_hf(testing.tiny_config() | change)
    with pytest.raises(ValueError, match="gelu_new"):
        config.from_hf(testing.tiny_config(hidden_act="gelu_new"))
    with pytest.raises(ValueError, match="linear"):
        config.from_hf(testing.tiny_config(rope_scaling={"type": "linear", "factor": 4}))
    with pytest.raises(ValueError, match="text_config"):
        config.from_hf({"vision_config": {}})


def test_hub_config_with_defaults_gives_the_7b():
    hub = {
        "model_type": "llava",
        "image_token_index": 32000,
        "projector_hidden_act": "gelu",
        "text_config": {"model_type": "llama", "vocab_size": 32064, "rms_norm_eps": 1e-5},
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    }
    cfg = config.from_hf(hub)
    assert cfg == config.llava_1_5_7b()
    assert checkpoint.num_parameters(cfg) == 7_063_427_072
    assert len(huggingface.flatten(huggingface.abstract(cfg))) == 686
    assert cfg.vision.num_tokens == 576


def test_orbax_checkpoint_comes_back(folder, tmp_path):
    want = load(folder)
    record = conversion.convert(folder, tmp_path / "converted", np.float32)
    assert record["parameters"] == sum(x.size for x in jax.tree.leaves(want))
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "converted"), want)
    assert isinstance(load(tmp_path / "converted")["text"]["layers"], list)
    half = load(tmp_path / "converted", np.float16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(np.float16)}
    with pytest.raises(FileExistsError, match="already"):
        conversion.convert(folder, tmp_path / "converted", np.float32)
    (tmp_path / "killed" / "params.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "killed" / ".config.json.01234567").write_text("cut sho")
    with pytest.raises(FileNotFoundError, match="its conversion did not finish"):
        tensors.files(tmp_path / "killed")
    conversion.convert(folder, tmp_path / "killed", np.float32)
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    assert left == {"SHA256SUMS", "config.json", "conversion.json", "params", "tokenizer.json"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="other files"):
        conversion.convert(folder, tmp_path / "other", np.float32)


def run_cli(*arguments):
    command = [sys.executable, "-m", "llava_jax.checkpoint", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)


def test_command_line(folder, tmp_path):
    dry = run_cli(f"--src={folder}", "--dry_run")
    assert dry.returncode == 0
    assert "fill the model exactly" in dry.stdout
    for form in ("orbax", "safetensors"):
        done = run_cli(f"--src={folder}", f"--dst={tmp_path / form}", f"--form={form}")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("\n") == 1
    whole = weights(folder)
    del whole["language_model.model.norm.weight"]
    rewrite(folder, whole)
    refused = run_cli(f"--src={folder}", f"--dst={tmp_path / 'out'}")
    assert refused.returncode == 2
    assert refused.stderr.strip().count("\n") == 0
    assert "missing tensor language_model.model.norm.weight" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_the_preset_is_the_shipped_model():
    folder = pathlib.Path(llava_jax.__file__).parent / "pocket"
    assert checkpoint.read_config(folder) == config.pocket()
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size <= 12e6
