"""Parity with transformers' torch LlavaForConditionalGeneration on the same safetensors."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import calibration
import llava_jax
from experiments import scenes
from experiments.harness import batching
from experiments.harness.benchmark import YES_NO, Dataset, Example
from experiments.training import wording
from llava_jax import checkpoint, config, engine, images, prompts, testing

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.reference,
    # transformers and torch warn about their own deprecations.
    pytest.mark.filterwarnings("ignore"),
]

POCKET = pathlib.Path(llava_jax.__file__).parent / "pocket"
PROMPT = np.array([1, 9, 200, 31, 77])
FEATURES, LOGITS = 1e-5, 1e-4  # float32 at highest precision, three to four blocks deep

VARIANTS = {
    "grouped-query": {},
    "multi-head, deeper": {"num_key_value_heads": 4, "num_hidden_layers": 5},
    "one key-value head": {"num_key_value_heads": 1},
    "long rope": {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
}


def write_pocket_shaped(folder):
    """Write random weights in the pocket model's shape."""
    content = json.loads((POCKET / "config.json").read_text())
    cfg = config.from_hf(content)
    params = testing.random_params(cfg, seed=3)
    checkpoint.huggingface.save(folder, params, content, np.float32)
    return cfg


def pictures(cfg, sizes):
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 256, (h, w, 3), np.uint8) for w, h in sizes]
    size = cfg.vision.image_size
    return np.stack([images.preprocess(Image.fromarray(x), size) for x in drawn])


def load_torch(folder):
    return transformers.LlavaForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def torch_answer(reference, cfg, pixels, prompt, suffix):
    """Return float32[V] at the last position of one question."""
    ids = [*prompt, *[cfg.image_token_id] * cfg.vision.num_tokens, *suffix]
    with torch.no_grad():
        out = reference(
            input_ids=torch.tensor([ids]),
            pixel_values=torch.tensor(pixels.transpose(2, 0, 1)[None]),
        )
    return out.logits[0, -1].numpy()


def check_parity(folder, cfg):
    reference = load_torch(folder)
    params = checkpoint.load(folder, cfg, np.float32)
    pixels = pictures(cfg, [(50, 20), (17, 90)])
    suffixes = [[5, 7, 9], [11, 13, 17, 19, 23]]
    ids = np.zeros((2, 2, 6), np.int32)
    for q, suffix in enumerate(suffixes):
        ids[:, q, : len(suffix)] = suffix
    lengths = np.array([[3, 5], [3, 5]])
    run = engine.Engine(params, cfg)
    with jax.default_matmul_precision("highest"):
        seen = run.encode(pixels, ("hidden", "features", "saliency"))
        every = np.tile(np.arange(cfg.vision.num_tokens), (2, 1))
        prefix = run.prefill(run.begin(PROMPT), seen.require("features"), every)
        logits = run.answer(prefix, ids, lengths)
    with torch.no_grad():
        tower = reference.model.vision_tower(
            torch.tensor(pixels.transpose(0, 3, 1, 2)),
            output_hidden_states=True,
            output_attentions=True,
        )
    hidden = tower.hidden_states[-2].numpy()
    np.testing.assert_allclose(seen.hidden, hidden, atol=FEATURES)
    np.testing.assert_allclose(seen.features, hidden[:, 1:], atol=FEATURES)
    row = tower.attentions[-2][:, :, 0, 1:].sum(1).numpy()
    np.testing.assert_allclose(seen.saliency, row, atol=FEATURES)
    for g in range(2):
        for q, suffix in enumerate(suffixes):
            want = torch_answer(reference, cfg, pixels[g], PROMPT, suffix)
            np.testing.assert_allclose(logits[g, q], want, atol=LOGITS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tiny_models_equal_transformers(tmp_path, variant):
    check_parity(tmp_path, testing.write_checkpoint(tmp_path, seed=1, **VARIANTS[variant]))


def test_pocket_shaped_model_equals_transformers(tmp_path):
    check_parity(tmp_path, write_pocket_shaped(tmp_path))


def test_every_spelling_of_transformers_loads(tmp_path):
    cfg = testing.write_checkpoint(tmp_path / "hub")
    reference = load_torch(tmp_path / "hub")
    reference.save_pretrained(tmp_path / "saved")
    want = checkpoint.load(tmp_path / "hub", cfg, np.float32)
    got = checkpoint.load(tmp_path / "saved", cfg, np.float32)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    for prefix in ("", "model."):
        state = reference.state_dict()
        if not prefix:
            state = {key.removeprefix("model."): value for key, value in state.items()}
        keys = {checkpoint.rules.LLAVA.path_of(key) for key in state}
        assert keys == set(checkpoint.huggingface.flatten(want))


def ask_miniatures(count):
    """Return questions of five benchmarks about the first scenes of the test world."""
    world, examples = scenes.world("test"), []
    for index in range(count):
        for name in ("pope", "scienceqa", "mme", "mmbench", "seed"):
            for row in scenes.MINIATURES[name].questions(world, index):
                choices = tuple((letter,) for letter in scenes.LETTERS[: len(row.options)])
                text = wording.user_text(row)
                key = f"{name}/{row.key}"
                examples.append(Example(key, str(index), text, choices or YES_NO, 0, name))

    def picture(image):
        return Image.fromarray(scenes.scene(world, int(image)).image)

    return Dataset(tuple(examples), picture, lambda image: image, "scenes", "scenes")


def test_pocket_gives_transformers_answers():
    """The shipped files, unchanged, on 200 questions of the test world."""
    cfg = checkpoint.read_config(POCKET)
    params = checkpoint.load(POCKET, cfg, np.float32)
    tokenizer = prompts.Tokenizer.from_folder(POCKET)
    reference = load_torch(POCKET)
    run = engine.Engine(params, cfg)
    dataset = ask_miniatures(9)
    prompt = tokenizer.first(prompts.vicuna_v1("")[0])
    image = [cfg.image_token_id] * cfg.vision.num_tokens
    texts = {example.user_text for example in dataset.examples}
    suffixes = {text: tokenizer.rest(prompts.vicuna_v1(text)[1]) for text in texts}
    checked = 0
    for group in batching.group_by_image(dataset.examples):
        batch = batching.collate((group,), suffixes)
        picture = images.preprocess(dataset.read_image(group.image), cfg.vision.image_size)
        features = run.encode(picture[None], ("features",)).require("features")
        prefix = run.prefill(run.begin(np.asarray(prompt)), features, np.arange(576)[None])
        logits = np.asarray(run.answer(prefix, batch.suffix_ids, batch.lengths))[0]
        pixels = torch.tensor(picture.transpose(2, 0, 1)[None])
        count, width = len(group.questions), batch.suffix_ids.shape[-1]
        ids = np.hstack([np.tile([*prompt, *image], (count, 1)), batch.suffix_ids[0, :count]])
        with torch.no_grad():
            out = reference(
                input_ids=torch.tensor(ids), pixel_values=pixels.expand(count, -1, -1, -1)
            ).logits[:, -width:]
        for q, question in enumerate(group.questions):
            id_sets = tuple(map(tokenizer.answer_ids, question[0].choices))
            want = out[q, batch.lengths[0, q] - 1].numpy()
            masses = [calibration.answer_log_masses(x, id_sets)[0] for x in (logits[q], want)]
            np.testing.assert_allclose(*masses, atol=1e-4, rtol=0)
            assert logits[q].argmax() == want.argmax()
            checked += 1
    assert checked >= 200
