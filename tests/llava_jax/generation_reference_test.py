"""Greedy text equals transformers' `generate`, token by token."""

import pathlib

import numpy as np
import pytest
from PIL import Image

import llava_jax
from experiments import scenes
from experiments.training import wording
from llava_jax import checkpoint, images, prompts, testing
from llava_jax.engine import Engine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.reference,
    # transformers and torch warn about their own deprecations.
    pytest.mark.filterwarnings("ignore"),
]

POCKET = pathlib.Path(llava_jax.__file__).parent / "pocket"


def reference_text(folder, cfg, pixels, prompt, suffix, end_id, steps):
    """Return ids and log probabilities of one question's answer."""
    reference = transformers.LlavaForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    reference.generation_config = transformers.GenerationConfig(
        eos_token_id=end_id, pad_token_id=0, do_sample=False, max_new_tokens=steps
    )
    picture = torch.tensor(pixels.transpose(2, 0, 1)[None])
    for ids in suffix:
        whole = [*prompt, *[cfg.image_token_id] * cfg.vision.num_tokens, *ids]
        with torch.no_grad():
            out = reference.generate(
                input_ids=torch.tensor([whole]),
                attention_mask=torch.ones(1, len(whole), dtype=torch.long),
                pixel_values=picture,
                output_logits=True,
                return_dict_in_generate=True,
            )
        said = out.sequences[0, len(whole) :].tolist()
        rows = [torch.log_softmax(x[0].double(), -1) for x in out.logits]
        yield said, [row[token].item() for row, token in zip(rows, said, strict=True)]


def compare(folder, cfg, pixels, prompt, suffixes, end_id, steps):
    """Compare all questions of one picture; return how many tokens were said."""
    run = Engine(checkpoint.load(folder, cfg, np.float32), cfg)
    ids = np.zeros((1, len(suffixes), max(map(len, suffixes)) + 2), np.int32)
    for row, suffix in zip(ids[0], suffixes, strict=True):
        row[: len(suffix)] = suffix
    lengths = np.array([[len(suffix) for suffix in suffixes]], np.int32)
    features = run.encode(pixels[None], ("features",)).require("features")
    every = np.arange(cfg.vision.num_tokens, dtype=np.int32)[None]
    prefix = run.prefill(run.begin(np.asarray(prompt, np.int32)), features, every)
    got = run.say(run.read(prefix, ids, lengths), end_id, steps)
    wanted = reference_text(folder, cfg, pixels, prompt, suffixes, end_id, steps)
    for q, (said, log_probs) in enumerate(wanted):
        length = got.lengths[0, q]
        assert got.ids[0, q, :length].tolist() == said
        np.testing.assert_allclose(got.log_probs[0, q, :length], log_probs, atol=1e-4)
    return got.lengths.sum()


@pytest.mark.parametrize("seed", range(4))
def test_tiny_models(tmp_path, seed):
    """Ten prompts each, of which some end early by the token that is taken for the end."""
    cfg = testing.write_checkpoint(tmp_path, seed=seed)
    rng = np.random.default_rng(seed)
    pixels = rng.standard_normal((32, 32, 3)).astype(np.float32)
    suffixes = [rng.integers(5, 400, rng.integers(1, 8)).tolist() for _ in range(10)]
    said = compare(tmp_path, cfg, pixels, [1, 9, 200], suffixes, end_id=2, steps=11)
    assert said > 50


def test_pocket_model():
    cfg = checkpoint.read_config(POCKET)
    tokenizer = prompts.Tokenizer.from_folder(POCKET)
    prompt, world = tokenizer.first(prompts.vicuna_v1("")[0]), scenes.world("test")
    checked = 0
    for index in range(3):
        rows = [
            row
            for name in ("pope", "scienceqa", "mme", "seed", "gqa", "textvqa")
            for row in scenes.MINIATURES[name].questions(world, index)[:8]
        ]
        texts = list(dict.fromkeys(map(wording.user_text, rows)))
        suffixes = [tokenizer.rest(prompts.vicuna_v1(text)[1]) for text in texts]
        picture = Image.fromarray(scenes.scene(world, index).image)
        pixels = images.preprocess(picture, cfg.vision.image_size)
        compare(POCKET, cfg, pixels, prompt, suffixes, tokenizer.end_id, steps=6)
        checked += len(suffixes)
    assert checked >= 60
