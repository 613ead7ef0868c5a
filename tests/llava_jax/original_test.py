"""Checkpoints of LLaVA's own code are the models that Hugging Face has of them."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import safetensors.numpy

from llava_jax import checkpoint, config, model, prompts, testing
from llava_jax.checkpoint import conversion, huggingface, original, rules, tensors
from llava_jax.clip_config import ClipConfig, clip_to_hf

SPELLINGS = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("vision_tower.vision_model.", "vision_model."),
)
FILES = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
INDEX = "pytorch_model.bin.index.json"


def own_config(content, **changed):
    """What LLaVA's own code writes of the model that Hugging Face describes so."""
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "hidden_act": "silu",
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "image_aspect_ratio": "pad",
        "mm_hidden_size": content["vision_config"]["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-tiny-patch8-32",
        **{k: v for k, v in content["text_config"].items() if k != "model_type"},
        **changed,
    }


def own_name(key):
    for theirs, ours in SPELLINGS:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    raise KeyError(key)


def write_sharded(folder, weights, archive, index=lambda names: names):
    """Write weights as two archives of torch and their index."""
    keys = sorted(weights)
    halves = dict(zip(FILES, (keys[::2], keys[1::2]), strict=True))
    for file, half in halves.items():
        archive.write(folder / file, {key: weights[key] for key in half})
    names = index({key: file for file, half in halves.items() for key in half})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def clip_weights(cfg, vision, seed=5):
    """A dual encoder's tensors around a vision tower, with the buffers of old files."""
    made = huggingface.flatten(testing.random_params(cfg, seed))
    whole = {rules.CLIP.key_of(path): np.asarray(x) for path, x in made.items()}
    ids = {f"{x}_model.embeddings.position_ids": np.arange(9)[None] for x in ("text", "vision")}
    return whole | ids | vision


@dataclasses.dataclass
class Folders:
    """One model: as the hub's Hugging Face folder, as LLaVA's own and CLIP's beside it."""

    hub: object
    llava: object
    clip: object
    archive: object

    def describe(self):
        return original.describe(self.llava, self.clip)

    def refused(self):
        with pytest.raises((ValueError, OSError)) as caught:
            self.describe()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def weights(self):
        """LLaVA's and CLIP's tensors in their own spelling."""
        whole = safetensors.numpy.load_file(self.hub / tensors.SINGLE)
        whole = {own_name(key): value for key, value in whole.items()}
        vision = {key: x for key, x in whole.items() if key.startswith("vision_model.")}
        return {key: x for key, x in whole.items() if key not in vision}, vision

    def configure(self, **changed):
        content = json.loads((self.hub / "config.json").read_text())
        (self.llava / "config.json").write_text(json.dumps(own_config(content, **changed)))


@pytest.fixture
def folders(tmp_path, torch_archive):
    found = Folders(*(tmp_path / name for name in ("hub", "llava", "clip")), torch_archive)
    cfg = testing.write_checkpoint(found.hub)
    found.llava.mkdir()
    found.clip.mkdir()
    found.configure()
    clip = ClipConfig(cfg.vision, testing.tiny_clip().text, projection=20)
    (found.clip / "config.json").write_text(json.dumps(clip_to_hf(clip)))
    llava, vision = found.weights()
    frequencies = {"model.layers.1.self_attn.rotary_emb.inv_freq": np.zeros(6, np.float32)}
    write_sharded(found.llava, llava | frequencies, torch_archive)
    torch_archive.write(found.clip / "pytorch_model.bin", clip_weights(clip, vision))
    return found


def check_same(folders):
    """The description is the hub's folder, tensor for tensor, in the tree's order."""
    content, sources, files = folders.describe()
    cfg = checkpoint.read_config(folders.hub)
    assert config.from_hf(content) == dataclasses.replace(cfg, image_token_id=32000)
    want = huggingface.flatten(checkpoint.load(folders.hub, cfg, np.float32))
    assert list(sources) == list(want)
    for path, tensor in sources.items():
        np.testing.assert_array_equal(tensor.read(), want[path], strict=False)
    assert {tensor.file for tensor in sources.values()} == set(files)
    return files


def test_shards_of_torch_and_a_clip_are_the_hubs_model(folders):
    files = check_same(folders)
    places = [folders.llava / FILES[0], folders.llava / FILES[1]]
    assert files == [*places, folders.clip / "pytorch_model.bin"]


def test_safetensors_are_preferred_and_the_same(folders):
    llava, vision = folders.weights()
    safetensors.numpy.save_file(llava, folders.llava / tensors.SINGLE)
    safetensors.numpy.save_file(vision, folders.clip / tensors.SINGLE)
    assert {file.name for file in check_same(folders)} == {tensors.SINGLE}


def test_a_tower_within_the_model_is_taken(folders):
    llava, vision = folders.weights()
    within = {f"model.vision_tower.vision_tower.{key}": x for key, x in vision.items()}
    write_sharded(folders.llava, llava | within, folders.archive)
    (folders.clip / "pytorch_model.bin").unlink()
    assert all(file.parent == folders.llava for file in check_same(folders))


def test_the_description_is_a_config_that_reads_back(folders):
    content, *_ = folders.describe()
    assert json.loads(json.dumps(content)) == content
    assert content["image_seq_length"] == 16
    folders.configure(vocab_size=512, rope_theta=5000.0, mm_vision_select_layer=-3)
    content, *_ = folders.describe()
    cfg = config.from_hf(content)
    assert (cfg.text.rope_theta, cfg.vision.feature_layer) == (5000.0, -3)


FIELDS = {
    "mm_projector_type": "linear",
    "mm_vision_select_feature": "cls_patch",
    "mm_vision_select_layer": -5,
    "image_aspect_ratio": "square",
    "mm_use_im_start_end": True,
    "mm_use_im_patch_token": True,
    "mm_resampler_type": "masked_drop",
    "s2": True,
    "mm_hidden_size": 1024,
    "hidden_act": "gelu",
    "tie_word_embeddings": True,
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "model_type": "llava_mpt",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
}


def test_other_models_are_refused_by_field_and_value(folders):
    for name, value in FIELDS.items():
        folders.configure(**{name: value})
        assert f"{name}={value!r}" in folders.refused()
    folders.configure(**FIELDS)
    said = folders.refused()
    assert sum(f"{name}=" in said for name in FIELDS) == len(FIELDS) - 2
    assert "and 2 more" in said
    folders.configure(hidden_size=10**9)
    assert "text_config.hidden_size=1000000000" in folders.refused()
    folders.configure(hidden_size="48")
    assert "hidden_size='48'" in folders.refused()


@pytest.mark.parametrize("absent", ["mm_projector_type", "image_aspect_ratio", "mm_vision_tower"])
def test_a_field_that_is_not_there_is_what_llava_takes_it_for(folders, absent):
    content = json.loads((folders.llava / "config.json").read_text())
    del content[absent]
    (folders.llava / "config.json").write_text(json.dumps(content))
    assert absent in folders.refused()


def test_llava_next_is_refused_by_name(folders):
    folders.configure(mm_patch_merge_type="spatial_unpad", image_aspect_ratio="anyres")
    assert "image_aspect_ratio='anyres' (supported: 'pad')" in folders.refused()
    folders.configure()
    llava, _ = folders.weights()
    llava["model.image_newline"] = np.zeros(48, np.float32)
    write_sharded(folders.llava, llava, folders.archive)
    said = folders.refused()
    assert "model.image_newline: it is a LLaVA-NeXT (v1.6), not a LLaVA-1.5" in said


def test_all_violations_of_both_folders_are_named_together(folders):
    llava, vision = folders.weights()
    del llava["model.norm.weight"], vision["vision_model.post_layernorm.bias"]
    llava["model.mm_projector.1.weight"] = np.zeros(3, np.float32)
    llava["lm_head.weight"] = llava["lm_head.weight"].T.copy()
    vision["vision_model.surprise"] = np.zeros(2, np.float32)
    write_sharded(folders.llava, llava, folders.archive)
    folders.archive.write(folders.clip / "pytorch_model.bin", vision)
    with pytest.raises(checkpoint.ConversionError) as caught:
        folders.describe()
    said = str(caught.value)
    assert "5 violations" in said
    assert "extra tensor model.mm_projector.1.weight [3]" in said
    assert "extra tensor vision_model.surprise [2]" in said
    assert "tensor lm_head.weight has shape [48, 512], needs [512, 48]" in said
    assert "missing tensor language_model.model.norm.weight" in said
    assert "missing tensor vision_tower.vision_model.post_layernorm.bias" in said


def test_shards_that_disagree_are_refused(folders):
    llava, vision = folders.weights()
    write_sharded(
        folders.llava, llava, folders.archive, lambda names: names | {"made.up": FILES[0]}
    )
    assert f"{INDEX} misplaces 1 tensors, first made.up" in folders.refused()
    write_sharded(folders.llava, llava, folders.archive, lambda names: names | {"x": "../x.bin"})
    assert "'../x.bin' is no file of its folder" in folders.refused()
    write_sharded(folders.llava, llava, folders.archive)
    twice = {key: llava[key] for key in sorted(llava)[1::2]} | {"lm_head.weight": np.zeros(1)}
    folders.archive.write(folders.llava / FILES[1], twice)
    assert f"lm_head.weight is in {FILES[0]} and in {FILES[1]}" in folders.refused()
    (folders.llava / FILES[1]).unlink()
    assert f"names files that are not there: ['{FILES[1]}']" in folders.refused()
    (folders.llava / INDEX).unlink()
    assert "none of model.safetensors, model.safetensors.index.json, pyt" in folders.refused()
    write_sharded(folders.llava, llava | vision, folders.archive)
    assert "vision_model.embeddings.class_embedding is in" in folders.refused()


def test_an_original_in_a_models_place_is_told_how_to_convert_it(folders):
    with pytest.raises(ValueError, match="original LLaVA") as caught:
        checkpoint.read_config(folders.llava)
    command = (
        f"python -m llava_jax.checkpoint --src={folders.llava} "
        f"--vision_tower=clip-vit-tiny-patch8-32 --dst={folders.llava}-converted"
    )
    assert command in str(caught.value)
    with pytest.raises(ValueError, match="no original LLaVA"):
        original.describe(folders.hub, folders.clip)


def test_the_tokenizer_of_an_original_folder_is_read(folders, sentencepiece_model):
    """As the hub has it: SentencePiece's model, and what LLaVA's code said of it.

    Beside the config.json that a conversion writes.
    """
    sentencepiece = pytest.importorskip("sentencepiece")
    (folders.llava / "config.json").write_text(json.dumps(folders.describe()[0]))
    (folders.llava / "tokenizer.model").write_bytes(sentencepiece_model)
    token = {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False}
    about = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": token | {"content": "<s>", "single_word": False},
        "eos_token": token | {"content": "</s>", "single_word": False},
        "unk_token": token | {"content": "<unk>", "single_word": False},
        "legacy": False,
        "model_max_length": 2048,
        "pad_token": None,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
    }
    (folders.llava / "tokenizer_config.json").write_text(json.dumps(about))
    tokenizer = prompts.Tokenizer.from_folder(folders.llava)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    assert tokenizer.first("USER: ") == [1, *pieces.encode("USER: ")]
    for text in ("\nIs it? No ASSISTANT:", "Yes", "\n\n a  b"):
        assert tokenizer.rest(text) == pieces.encode(text)
    assert tokenizer.end_id == 2


LARGE = {
    "vocab_size": 32064,
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "intermediate_size": 13824,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}


@pytest.mark.reference
def test_the_13b_is_transformers_in_every_spelling():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    tower |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    made = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**LARGE),
        vision_config=transformers.CLIPVisionConfig(**tower),
        image_token_index=32000,
    )
    assert config.from_hf(made.to_dict()) == config.llava_1_5_13b()
    with torch.device("meta"):
        state = transformers.LlavaForConditionalGeneration(made).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    leaves = huggingface.flatten(huggingface.abstract(config.llava_1_5_13b()))
    targets = {path: leaf.shape for path, leaf in leaves.items()}
    assert checkpoint.num_parameters(config.llava_1_5_13b()) == sum(map(math.prod, shapes.values()))
    assert len(shapes) == len(targets) == 758
    for spelled in spellings(shapes):
        assert set(rules.LLAVA.match(spelled, targets)) == set(targets)
    own = {own_name(rules.LLAVA.key_of(path)): shape for path, shape in targets.items()}
    assert set(rules.ORIGINAL.match(own, targets)) == set(targets)


def spellings(state):
    """The hub's files, transformers 5's files and state dict, and the state dict of 4.52."""
    bare = {key.removeprefix("model."): shape for key, shape in state.items()}
    text = "language_model."
    saved = {
        f"{text}{key}"
        if key.startswith("lm_head")
        else key.replace(text, f"{text}model.", 1): shape
        for key, shape in bare.items()
    }

    def deep(keys):
        tower = "vision_tower."
        return {key.replace(tower, f"{tower}vision_model.", 1): x for key, x in keys.items()}

    return deep(saved), saved, state, deep(state)


def test_a_converted_original_is_the_hubs_model(folders, tmp_path):
    for form in ("orbax", "safetensors"):
        how = (np.float32, form, None, folders.clip)
        record = conversion.convert(folders.llava, tmp_path / form, *how)
        assert record["source_files"] == [*FILES, "pytorch_model.bin"]
        cfg = checkpoint.read_config(tmp_path / form)
        want = checkpoint.load(folders.hub, checkpoint.read_config(folders.hub), np.float32)
        got = checkpoint.load(tmp_path / form, cfg, np.float32)
        jax.tree.map(np.testing.assert_array_equal, got, want)
        assert "mm_vision_tower" not in json.loads((tmp_path / form / "config.json").read_text())


def test_the_13b_has_as_many_parameters_as_its_parts():
    """Counted by hand from the shapes of the published files."""
    d, v, mlp, layers, rows = 5120, 1024, 13824, 40, 32064
    text = 2 * rows * d + d + layers * (4 * d * d + 3 * d * mlp + 2 * d)
    projector = d * v + d + d * d + d
    block = 4 * (v * v + v) + 2 * v * 4 * v + 5 * v + 4 * v
    tower = v + 3 * 14 * 14 * v + 577 * v + 4 * v + 24 * block
    assert checkpoint.num_parameters(config.llava_1_5_13b()) == text + projector + tower
    assert text + projector + tower == 13_351_494_656


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")  # of torch and transformers about themselves
def test_logits_are_transformers(folders):
    """The same weights, saved by torch in LLaVA's names, give the same logits."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    reference = transformers.LlavaForConditionalGeneration.from_pretrained(
        folders.hub, attn_implementation="eager", dtype=torch.float32
    ).eval()
    state = {}
    for key, value in reference.state_dict().items():
        hub = rules.LLAVA.key_of(rules.LLAVA.path_of(key))
        state[own_name(hub)] = value
    vision = {key: state.pop(key) for key in list(state) if key.startswith("vision_model.")}
    torch.save(vision, folders.clip / "pytorch_model.bin")
    keys = sorted(state)
    halves = dict(zip(FILES, (keys[::2], keys[1::2]), strict=True))
    for file, half in halves.items():
        torch.save({key: state[key] for key in half}, folders.llava / file)
    names = {key: file for file, half in halves.items() for key in half}
    (folders.llava / INDEX).write_text(json.dumps({"weight_map": names}))

    content, sources, _ = folders.describe()
    cfg = config.from_hf(content)
    leaves = [tensor.read() for tensor in sources.values()]
    params = jax.tree.unflatten(jax.tree.structure(huggingface.abstract(cfg)), leaves)
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((1, 32, 32, 3)).astype(np.float32)
    prompt, suffix = np.array([1, 9, 200]), np.array([31, 77, 5])
    lengths = np.array([[len(suffix)]])
    with jax.default_matmul_precision("highest"):
        run = jax.jit(model.apply, static_argnames="cfg")
        logits = run(params, pixels, prompt, suffix[None, None], lengths, cfg=cfg)
    ids = [*prompt, *[3] * cfg.vision.num_tokens, *suffix]
    with torch.no_grad():
        seen = torch.tensor(pixels.transpose(0, 3, 1, 2))
        want = reference(input_ids=torch.tensor([ids]), pixel_values=seen).logits[0, -1].numpy()
    np.testing.assert_allclose(logits[0, 0], want, atol=1e-5)
