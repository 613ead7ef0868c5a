"""Parity of the dual encoder with transformers' torch CLIPModel on the same safetensors."""

import pathlib

import jax
import numpy as np
import pytest

import llava_jax
from experiments import scenes
from experiments.training import captions
from llava_jax import checkpoint, clip_config, clip_text, testing, vision
from llava_jax.checkpoint import huggingface, rules

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.reference,
    # transformers and torch warn about their own deprecations.
    pytest.mark.filterwarnings("ignore"),
]

TOLERANCE = 1e-5  # float32 at highest precision, two to three blocks deep
TEXTS = [[98, 5, 60, 7, 97], [98, 97], [98, 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 97]]


def load_torch(folder):
    reference, report = transformers.CLIPModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    return reference.eval()


def padded(texts, pad):
    ids = np.full((len(texts), 12), pad, np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    return ids


def hidden_states(params, pixels, cfg):
    """Return the vision tower's hidden states, the embeddings first."""

    @jax.jit
    def run(tower, pixels):
        states = [vision.embed(tower, pixels, cfg=cfg.vision)]
        for layer in tower["layers"]:
            states.append(vision.block(layer, states[-1], cfg=cfg.vision))
        return states

    return run(params["vision"], pixels)


# Under the first convention the end's id, 50, is not a text's largest.
@pytest.mark.parametrize(("eos_id", "end", "pads"), [(50, 50, (0, 50, 98)), (None, 98, (0, 98))])
def test_text_embeddings_equal_transformers(tmp_path, eos_id, end, pads):
    cfg = testing.write_clip(tmp_path, seed=1, eos_id=eos_id)
    reference = load_torch(tmp_path)
    params = checkpoint.load_clip(tmp_path, np.float32)
    texts = [[96, *text[1:-1], end] for text in TEXTS]
    run = jax.jit(clip_text.embed_text, static_argnames="cfg")
    for pad in pads:
        ids = padded(texts, pad)
        with jax.default_matmul_precision("highest"), torch.no_grad():
            got = run(params, ids, cfg=checkpoint.read_clip_config(tmp_path))
            whole = reference.get_text_features(torch.tensor(ids)).pooler_output
            alone = [reference.get_text_features(torch.tensor([t])).pooler_output for t in texts]
        np.testing.assert_allclose(got, whole, atol=TOLERANCE)
        np.testing.assert_allclose(got, torch.cat(alone), atol=TOLERANCE)
    assert got.shape == (3, cfg.projection)
    assert np.linalg.norm(got, axis=-1).min() > 1.5, "nothing is normalised"


def test_visual_embeddings_equal_transformers(tmp_path):
    cfg = testing.write_clip(tmp_path, seed=2)
    reference = load_torch(tmp_path)
    params = checkpoint.load_clip(tmp_path, np.float32)
    pixels = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
    seen = torch.tensor(pixels.transpose(0, 3, 1, 2))
    ids = padded(TEXTS, 0)
    with torch.no_grad():
        image = reference.get_image_features(seen).pooler_output
        tower = reference.vision_model(seen, output_hidden_states=True)
        patches = reference.vision_model.post_layernorm(tower.hidden_states[-2][:, 1:])
        patches = reference.visual_projection(patches)
        logits = reference(input_ids=torch.tensor(ids), pixel_values=seen).logits_per_image
    with jax.default_matmul_precision("highest"):
        states = hidden_states(params, pixels, cfg)
        got = clip_text.embed_visual(params, states[-1][:, 0], cfg=cfg)
        by_patch = clip_text.embed_visual(params, states[-2][:, 1:], cfg=cfg)
        texts = clip_text.embed_text(params, ids, cfg=cfg)
    np.testing.assert_allclose(got, image, atol=TOLERANCE)
    np.testing.assert_allclose(by_patch, patches, atol=TOLERANCE)
    unit = [np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (got, texts)]
    scale = np.exp(params["logit_scale"])
    np.testing.assert_allclose(scale * unit[0] @ unit[1].T, logits, atol=TOLERANCE)


def test_folders_of_transformers_load(tmp_path):
    """What we write, transformers loads and writes again, and we read that."""
    cfg = testing.write_clip(tmp_path / "ours")
    load_torch(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert checkpoint.read_clip_config(tmp_path / "theirs") == cfg
    want = checkpoint.load_clip(tmp_path / "ours", np.float32)
    got = checkpoint.load_clip(tmp_path / "theirs", np.float32)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_the_miniature_loads_in_transformers(tmp_path):
    cfg = clip_config.pocket_clip(512, eos_id=511)
    params = testing.random_params(cfg)
    content = clip_config.clip_to_hf(cfg)
    huggingface.save(tmp_path, params, content, np.float16, keys=rules.CLIP)
    reference = load_torch(tmp_path)
    assert sum(p.numel() for p in reference.parameters()) == checkpoint.num_parameters(cfg)
    ids = np.array([[510, 7, 300, 2, 511, 511]])
    with jax.default_matmul_precision("highest"), torch.no_grad():
        loaded = checkpoint.load_clip(tmp_path, np.float32)
        got = clip_text.embed_text(loaded, ids, cfg=cfg)
        want = reference.get_text_features(torch.tensor(ids)).pooler_output
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_pocket_texts_equal_transformers():
    """The shipped text tower, unchanged, on every category's name."""
    folder = pathlib.Path(llava_jax.__file__).parent / "pocket" / "clip"
    cfg = checkpoint.read_clip_config(folder)
    params = checkpoint.load_clip(folder, np.float32)
    ids = captions.token_ids([captions.photo_of(name) for name in scenes.NAMES], 8)
    got = clip_text.embed_text(params, ids, cfg=cfg)
    with torch.no_grad():
        want = load_torch(folder).get_text_features(torch.tensor(ids)).pooler_output
    np.testing.assert_allclose(got, want.numpy(), atol=TOLERANCE * 5)  # values up to about 10
