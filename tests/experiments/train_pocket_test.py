import functools
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tokenizers

import llava_jax
from experiments import scenes
from experiments.training import (
    answering,
    asking,
    card,
    export,
    features,
    initial,
    loop,
    pictures,
    question_stage,
    recipe,
    tokenizer,
    vision_stage,
)
from experiments.training.optimiser import optimiser
from llava_jax import config, images, parameters, prompts, testing
from llava_jax.checkpoint import huggingface
from llava_jax.config import LlavaConfig, TextConfig, VisionConfig

TINY = LlavaConfig(
    vision=VisionConfig(16, 2, 2, 16, image_size=192, patch_size=8),
    text=TextConfig(512, 32, 1, 2, 2, 16, 32, rope_theta=1e5),
    image_token_id=tokenizer.IMAGE,
    real_vocab_size=512,
)
SHIPPED = pathlib.Path(llava_jax.__file__).parent / "pocket"
BEFORE, AFTER = prompts.vicuna_v1(scenes.question("star") + prompts.SHORT_ANSWER)


@pytest.fixture(scope="module")
def pieces():
    return tokenizer.build()


@pytest.fixture(scope="module")
def random_params():
    return testing.random_params(TINY)


@pytest.fixture
def _quick_start(monkeypatch, random_params):
    # initialising by jax compiles for seconds; the training's own changes come on top
    monkeypatch.setattr(parameters, "init", lambda key, cfg: random_params)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return pictures.pool(scenes.world("train"), 0, 4, tmp_path_factory.mktemp("pools"))


def test_words_are_single_tokens(pieces):
    words = [*scenes.NAMES, *scenes.COLOURS, *"0123456789ABCDE", "Yes", "yes", "No", "no"]
    for word in words:
        assert len(pieces.encode(word, add_special_tokens=False).ids) == 1, word
    assert pieces.get_vocab_size() == 512


def test_prompt_is_compact(pieces):
    assert len(pieces.encode(BEFORE).ids) == 33
    assert len(pieces.encode(AFTER, add_special_tokens=False).ids) == 23
    assert pieces.token_to_id("<image>") == tokenizer.IMAGE
    assert pieces.encode("").ids == [tokenizer.BOS]


@pytest.mark.parametrize(
    "text", [BEFORE, AFTER, "", " two  blanks ", "Zürich 漢字 😀\t\r\n", "don't: <x> {y}", "aB9_-é"]
)
def test_text_survives_the_tokenizer(pieces, text):
    assert pieces.decode(pieces.encode(text).ids) == text


def test_pool_is_rendered_once(source, tmp_path):
    again = pictures.pool(source.world, 0, 2, tmp_path)
    np.testing.assert_array_equal(again.images, source.images[:2])
    (tmp_path / f"{scenes.VERSION}-train-0-2" / "categories.npy").touch()
    assert len(pictures.pool(source.world, 0, 2, tmp_path)) == 2


def test_windows_are_cut_and_mirrored_together(source):
    rng = np.random.default_rng(3)
    batch = pictures.window(source, 4, 12, rng)
    assert batch.pixels.shape == (4, 96, 96, 3)
    whole = images.normalise(source.images)
    seen = source.categories
    place = batch.rows[1] - 1
    top, left = 8 * (place // 24), 8 * (place % 24)
    for i in range(4):
        matches = []
        for image, labels in ((whole[i], seen[i]), (whole[i][:, ::-1], seen[i][:, ::-1])):
            same = np.array_equal(image[top : top + 96, left : left + 96], batch.pixels[i])
            cut = labels[top // 8 : top // 8 + 12, left // 8 : left // 8 + 12]
            matches.append(same and np.array_equal(cut.ravel(), batch.categories[i]))
        assert sum(matches) == 1


def test_position_rows_tell_places_apart():
    rows = initial.position_rows(24, 16)[1:]
    likeness = rows @ rows.T
    assert rows.shape == (576, 16)
    assert (likeness.argmax(1) == np.arange(576)).all()


def test_whitened_patches_have_no_correlation():
    pixels = np.random.default_rng(0).normal(0, 3, (8, 32, 32, 3)).astype(np.float32)
    kernel, _ = initial.whitened_patches(pixels, 4, 6)
    patches = pixels.reshape(8, 8, 4, 8, 4, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 48)
    seen = np.cov(patches @ kernel.reshape(6, -1).T, rowvar=False)
    # the ridge of 0.1 leaves variances a little below one
    np.testing.assert_allclose(seen, np.eye(6), atol=0.03)


def test_slow_dimensions_alone_match_content():
    block = {"q": None, "k": None}
    made = initial.matching_heads(block, TINY.text, 640, np.random.default_rng(0), 1.4)
    weight = np.asarray(made["q"]["weight"]).reshape(2, 2, 8, 32)
    frequency = 1e5 ** (-np.arange(8) / 8)
    np.testing.assert_array_equal((weight != 0).any((0, 1, 3)), frequency * 640 < 1.6)
    chex.assert_trees_all_equal(made["q"], made["k"])


def test_muon_takes_hidden_matrices_only():
    params = {"layers": [{"q": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}}]}
    params |= {"embed_tokens": jnp.ones((4, 3)), "projector": {"weight": jnp.ones((3, 2))}}
    state = optimiser(0.1, 0.1, 10).init(params)
    paths = jax.tree_util.tree_leaves_with_path(state)
    muon = [jax.tree_util.keystr(path) for path, _ in paths if "'muon'" in str(path)]
    kept = [path for path in muon if path.endswith("['weight']")]
    assert len(kept) == 2
    assert not any("embed_tokens" in path for path in muon)


def test_questions_fit_the_scene():
    rng, world = np.random.default_rng(0), scenes.world("train")
    for index in range(12):
        plan = scenes.layout(world, index)
        asked, present = asking.ask(world, index, 10, rng)
        assert present.sum() == 5
        assert set(asked[present]) <= set(plan.present)
        assert set(asked[~present]) <= set(plan.absent)
        assert len(set(asked[~present])) == 5


def test_objects_are_kept_first():
    labels = np.full(576, -1)
    labels[100:110] = 7
    kept = asking.keep(labels, 32, np.random.default_rng(0))
    assert set(range(100, 110)) <= set(kept)
    np.testing.assert_array_equal(kept, np.unique(kept))


def _questions(rng):
    labels = np.full((2, 24), -1, np.int32)
    labels[:, :4], labels[:, 4:8] = 3, 9
    seen = rng.normal(size=(2, 24, 16)).astype(np.float32)
    seen += np.where(labels < 0, 0, labels)[..., None]
    asked = np.array([[3, 9, 20, 30]] * 2, np.int32)
    return asking.Questions(seen, labels, asked, asked < 10)


def _steps(loss, params, batch, count):
    descent = optax.apply_if_finite(optax.sgd(1e-3), 1)  # compiles faster than Muon
    stage = loop.Stage("x", count, loss, lambda step: batch, lambda params: {}, descent)
    step, state, losses = loop.train_step(stage), stage.optimiser.init(params), []
    for _ in range(count):
        params, state, value, _ = step(params, state, batch)
        losses.append(float(value))
    return losses


@pytest.mark.usefixtures("_quick_start")
def test_tower_learns(source):
    batch = pictures.window(source, 2, 6, np.random.default_rng(0))
    params = vision_stage.start(TINY, source, 0)
    loss = functools.partial(vision_stage.loss, cfg=TINY.vision)
    losses = _steps(loss, params, batch, 4)
    assert losses[-1] < losses[0]


@pytest.mark.usefixtures("_quick_start")
def test_decoder_learns():
    weights = question_stage.Weights(grounding=0.5, early=1.0, alignment=0.5)
    loss = functools.partial(question_stage.loss, cfg=TINY, weights=weights)
    losses = _steps(loss, question_stage.start(TINY, 0), _questions(np.random.default_rng(0)), 4)
    assert losses[-1] < losses[0]


def _toy_stage(steps, batch=lambda step: jnp.float32(step % 3)):
    def loss(params, target):
        return jnp.square(params["x"] - target).sum(), params["x"].mean()

    return loop.Stage("toy", steps, loss, batch, lambda params: {}, optimiser(0.1, 0.1, 6))


def test_resuming_is_exact(tmp_path):
    params = {"x": jnp.arange(3.0)}
    shown = []
    journal = loop.Journal(tmp_path / "log.jsonl", shown.append)
    whole = loop.run(_toy_stage(6), params, tmp_path / "whole", journal)
    loop.run(_toy_stage(2), params, tmp_path / "parts", journal)
    resumed = loop.run(_toy_stage(6), params, tmp_path / "parts", journal)
    chex.assert_trees_all_equal(whole, resumed)
    assert (tmp_path / "log.jsonl").read_text().splitlines() == shown
    lines = [json.loads(line) for line in shown]
    assert any(line.get("resumed") and line["step"] == 2 for line in lines)


def test_bad_gradients_are_skipped_then_refused(tmp_path):
    params = {"x": jnp.arange(3.0)}
    journal = loop.Journal(tmp_path / "log.jsonl", lambda line: None)
    once = _toy_stage(3, lambda step: jnp.float32(jnp.nan if step == 1 else 0))
    chex.assert_tree_all_finite(loop.run(once, params, tmp_path / "once", journal))
    always = _toy_stage(40, lambda step: jnp.float32(jnp.nan))
    with pytest.raises(loop.DivergedError, match="toy: gradients are not finite at step 20"):
        loop.run(always, params, tmp_path / "always", journal)


@pytest.mark.usefixtures("_quick_start")
def test_measurements_of_a_random_model():
    params = question_stage.start(TINY, 0)
    nothing = np.zeros((2, 576, 16), np.float16)
    found = answering.evaluate(params, nothing, scenes.world("validation"), range(2), TINY)
    assert all(found[split] == 0.5 for split in scenes.SPLITS)
    assert found["yes_share"] in (0.0, 1.0)
    assert 0 < found["answer_mass"] < 1


def test_exported_model_loads(tmp_path, random_params):
    params = random_params
    plan = recipe.Plan(tmp_path, 0, 10, 1, 2, 3, 4, 5)
    numbers = dict.fromkeys((*scenes.SPLITS, "ece", "nll", "yes_share", "answer_mass"), 0.5)
    text = card.card(plan, 1_400_000, {"test": (500, numbers)})
    export.write(tmp_path, params, TINY, text)
    assert huggingface.read_config(tmp_path) == TINY
    loaded = huggingface.load(tmp_path, TINY, np.float32)
    chex.assert_trees_all_close(loaded, params, rtol=1e-3, atol=1e-4)  # half precision
    read = prompts.Tokenizer.from_folder(tmp_path)
    assert read.first(BEFORE) == asking.wording().prompt.tolist()
    star = scenes.NAMES.index("star")
    assert read.rest(AFTER) == asking.wording().suffixes[star].tolist()
    assert "| test | 500 | 0.500 |" in (tmp_path / "README.md").read_text()


def test_schedule_of_a_short_run_is_finite():
    updates = optimiser(0.1, 0.1, 1)
    params = {"x": jnp.ones(2)}
    changed, _ = updates.update(params, updates.init(params), params)
    chex.assert_tree_all_finite(optax.apply_updates(params, changed))


def test_shipped_tokenizer_is_the_built_one(pieces):
    shipped = tokenizers.Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    assert shipped.to_str() == pieces.to_str()


def test_shipped_model_answers(tmp_path):
    cfg = huggingface.read_config(SHIPPED)
    assert cfg == config.pocket()
    params = huggingface.load(SHIPPED, cfg, np.float32)
    unseen = pictures.pool(scenes.world("validation"), 5000, 16, tmp_path)
    seen = features.features(params, unseen, cfg, tmp_path)
    np.testing.assert_array_equal(seen, features.features(params, unseen, cfg, tmp_path))
    found = answering.evaluate(params, seen, unseen.world, range(5000, 5016), cfg)
    # 0.9 on many scenes; 96 questions a split scatter by 0.03
    assert found["random"] > 0.75
    assert found["answer_mass"] > 0.99
