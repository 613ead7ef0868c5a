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


def reference_text(folder, cfg, pixels, prompt, suffixes, end_id, steps):
    """Yield ids and log probabilities of every answer; prompts are padded on the left."""
    reference = transformers.LlavaForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    reference.generation_config = transformers.GenerationConfig(
        eos_token_id=end_id, pad_token_id=0, do_sample=False, max_new_tokens=steps
    )
    image = [cfg.image_token_id] * cfg.vision.num_tokens
    prompts_ = [[*prompt, *image, *suffix] for suffix in suffixes]
    longest = max(map(len, prompts_))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompts_])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts_])
    picture = torch.tensor(pixels.transpose(2, 0, 1)[None]).expand(len(prompts_), -1, -1, -1)
    with torch.no_grad():
        out = reference.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=picture,
            output_logits=True,
            return_dict_in_generate=True,
        )
    rows = torch.log_softmax(torch.stack(out.logits, 1).double(), -1)
    for row, said in zip(rows, out.sequences[:, longest:].tolist(), strict=True):
        length = said.index(end_id) + 1 if end_id in said else len(said)
        yield said[:length], [row[i, said[i]].item() for i in range(length)]


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


@pytest.mark.parametrize("seed", range(2))
def test_tiny_models(tmp_path, seed):
    cfg = testing.write_checkpoint(tmp_path, seed=seed)
    rng = np.random.default_rng(seed)
    pixels = rng.standard_normal((32, 32, 3)).astype(np.float32)
    suffixes = [rng.integers(5, 400, rng.integers(1, 8)).tolist() for _ in range(35)]
    said = compare(tmp_path, cfg, pixels, [1, 9, 200], suffixes, end_id=2, steps=11)
    assert said > 200


def test_pocket_model():
    cfg = checkpoint.read_config(POCKET)
    tokenizer = prompts.Tokenizer.from_folder(POCKET)
    prompt, world = tokenizer.first(prompts.vicuna_v1("")[0]), scenes.world("test")
    checked = 0
    for index in range(2):
        rows = [
            row
            for name in ("pope", "scienceqa", "mme", "seed", "gqa", "textvqa")
            for row in scenes.MINIATURES[name].questions(world, index)[:4]
        ]
        texts = list(dict.fromkeys(map(wording.user_text, rows)))
        suffixes = [tokenizer.rest(prompts.vicuna_v1(text)[1]) for text in texts]
        picture = Image.fromarray(scenes.scene(world, index).image)
        pixels = images.preprocess(picture, cfg.vision.image_size)
        compare(POCKET, cfg, pixels, prompt, suffixes, tokenizer.end_id, steps=6)
        checked += len(suffixes)
    assert checked >= 30
