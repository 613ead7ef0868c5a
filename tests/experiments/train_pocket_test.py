import dataclasses
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
from experiments.scenes.questions import base
from experiments.training import (
    answering,
    asking,
    caption_stage,
    captions,
    card,
    examination,
    export,
    features,
    initial,
    loop,
    measuring,
    pictures,
    question_stage,
    recipe,
    teaching,
    tokenizer,
    vision_stage,
    wording,
)
from experiments.training.optimiser import optimiser
from llava_jax import config, images, layers, model, parameters, prompts, testing
from llava_jax.checkpoint import huggingface
from llava_jax.config import LlavaConfig, TextConfig, VisionConfig

TINY = LlavaConfig(
    vision=VisionConfig(16, 2, 2, 16, image_size=192, patch_size=8),
    text=TextConfig(512, 32, 1, 2, 2, 16, 32, rope_theta=1e5),
    image_token_id=tokenizer.IMAGE,
    real_vocab_size=512,
)
SHIPPED = pathlib.Path(llava_jax.__file__).parent / "pocket"
BEFORE, AFTER = prompts.vicuna_v1("Is there a star in the image?" + prompts.SHORT_ANSWER)


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
    words = [*scenes.NAMES, *scenes.COLOURS, *scenes.NUMBERS, *scenes.SCENE_TYPES, *"ABCDE"]
    for word in [*words, "left", "right", "Yes", "yes", "No", "no"]:
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


def test_pool_is_rendered_once(source, tmp_path, monkeypatch):
    again = pictures.pool(source.world, 0, 2, tmp_path)
    np.testing.assert_array_equal(again.images, source.images[:2])
    monkeypatch.setattr(scenes, "scene", None)  # not called again
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
    query, key = initial.matching_head(TINY.text, 640, np.random.default_rng(0), 1.4)
    weight = query.reshape(2, 8, 32)
    frequency = 1e5 ** (-np.arange(8) / 8)
    np.testing.assert_array_equal((weight != 0).any((0, 2)), frequency * 640 < 1.6)
    np.testing.assert_array_equal(query, key)


@pytest.mark.parametrize("offset", [1, 2])
def test_neighbour_heads_look_back(offset):
    common = np.zeros(32, np.float32)
    common[3] = 1
    query, key = initial.neighbour_head(TINY.text, common, offset, 1.5)
    tokens = jnp.asarray(np.tile(5 * common, (9, 1)))
    q, k = (layers.rope((tokens @ w.T)[:, None], jnp.arange(9), 1e5)[:, 0] for w in (query, key))
    scores = np.tril(q @ k.T) + np.triu(np.full((9, 9), -np.inf), 1)
    np.testing.assert_array_equal(scores.argmax(1)[offset:], np.arange(9 - offset))


def test_muon_takes_hidden_matrices_only():
    params = {"layers": [{"q": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}}]}
    params |= {"embed_tokens": jnp.ones((4, 3)), "projector": {"weight": jnp.ones((3, 2))}}
    state = optimiser(0.1, 0.1, 10).init(params)
    paths = jax.tree_util.tree_leaves_with_path(state)
    muon = [jax.tree_util.keystr(path) for path, _ in paths if "'muon'" in str(path)]
    kept = [path for path in muon if path.endswith("['weight']")]
    assert len(kept) == 2
    assert not any("embed_tokens" in path for path in muon)


def test_objects_are_kept_first():
    labels = np.full(576, -1)
    labels[100:110] = 7
    kept = asking.keep(labels, 32, np.random.default_rng(0))
    assert set(range(100, 110)) <= set(kept)
    np.testing.assert_array_equal(kept, np.unique(kept))


def test_shown_tokens_stand_close_or_with_gaps():
    rng = np.random.default_rng(0)
    drawn = [asking.spread(32, 576, rng) for _ in range(200)]
    spans = np.array([span for _, span in drawn])
    assert 70 < (spans == 32).sum() < 130
    assert spans.max() > 500
    for positions, span in drawn:
        assert positions.shape == (32,)
        assert positions[0] >= 0
        assert positions[-1] < span <= 576
        assert (np.diff(positions) > 0).all()


@pytest.mark.usefixtures("_quick_start")
def test_positions_of_pictures_reach_the_decoder():
    batch = _batch(np.random.default_rng(0))
    params = question_stage.start(TINY, 0)
    weights = question_stage.Weights(0, 0, 1, 0)
    loss = jax.jit(functools.partial(question_stage.loss, cfg=TINY, weights=weights))
    close = loss(params, batch)[0]
    moved = dataclasses.replace(batch, positions=batch.positions * 3, span=batch.span * 3)
    assert abs(loss(params, moved)[0] - close) > 1e-4
    behind = dataclasses.replace(batch, span=batch.span * 3)  # the questions alone move
    assert abs(loss(params, behind)[0] - close) > 1e-4


def _batch(rng):
    labels = np.full((2, 24), -1, np.int32)
    labels[:, :4], labels[:, 4:8] = 3, 9
    seen = rng.normal(size=(2, 24, 16)).astype(np.float32)
    seen += np.where(labels < 0, 0, labels)[..., None]
    there = [scenes.Fact("object", scenes.NAMES[i], scenes.NAMES[i], ("crown",)) for i in (3, 9)]
    questions = [
        base.yes_no("", "", fact, answer) for fact in there for answer in (fact.answer, "crown")
    ]
    questions += [base.lettered("", "", fact, 2, rng) for fact in there]
    tokens, colours = np.tile(np.arange(24), (2, 1)), np.where(labels < 0, -1, 2)
    asked = teaching.block([questions] * 2, [(3, 9)] * 2, teaching.LONG)
    span = np.full(2, 24, np.int32)
    return asking.Batch(seen, tokens, tokens, span, labels, colours, (asked,))


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
    weights = question_stage.Weights(grounding=0.5, pointing=0.3, early=1.0, alignment=0.5)
    loss = functools.partial(question_stage.loss, cfg=TINY, weights=weights)
    losses = _steps(loss, question_stage.start(TINY, 0), _batch(np.random.default_rng(0)), 4)
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


@pytest.fixture(scope="module")
def dual(random_params):
    cfg = dataclasses.replace(caption_stage.config(), vision=TINY.vision)
    return cfg, testing.random_params(cfg) | {"vision": random_params["vision"]}


def test_exported_model_loads(tmp_path, random_params, dual):
    cfg, encoder = dual
    export.write(tmp_path, random_params, TINY, encoder, cfg)
    assert huggingface.read_config(tmp_path) == TINY
    loaded = huggingface.load(tmp_path, TINY, np.float32)
    chex.assert_trees_all_close(loaded, random_params, rtol=1e-3, atol=1e-4)  # half precision
    read = prompts.Tokenizer.from_folder(tmp_path)
    assert read.first(BEFORE) == wording.prompt().tolist()
    assert huggingface.read_clip_config(tmp_path / "clip") == cfg
    again = huggingface.load_clip(tmp_path / "clip", np.float32)
    chex.assert_trees_all_close(again, encoder, rtol=1e-3, atol=1e-4)
    text = captions.photo_of("star")
    stored = tokenizers.Tokenizer.from_file(str(tmp_path / "clip" / "tokenizer.json"))
    assert stored.encode(text).ids == captions.tokenizer().encode(text).ids


def test_examination_and_card(tmp_path, random_params, dual, monkeypatch):
    monkeypatch.setattr(measuring, "_COUNTED", 20)
    export.write(tmp_path, random_params, TINY, dual[1], dual[0])
    found = examination.examine(examination.load(tmp_path), "validation", 2, tmp_path)
    assert found["pope"]["ece_floor"] > 0
    assert 0 < found["pope"]["answer_mass"] < 1
    assert set(found) == {*measuring.MEASURES, "tower"}
    plan = recipe.Plan(tmp_path, 0, 10, 1, 2, 3, 4, 5, 6)
    text = card.card(plan, 1_400_000, 2, 61.4, {"validation": found, "test": found})
    assert f"| test | {found['pope']['random']:.3f} |" in text
    assert "textvqa proves the plumbing only" in text
    assert "About 61 minutes" in text
    assert "about 128 or 256 of the 576 tokens" in text
    (tmp_path / "tokenizer.json").write_text(captions.tokenizer().to_str(pretty=True))
    with pytest.raises(ValueError, match=r"tokenizer.json is not the tokenizer of experiments"):
        examination.load(tmp_path)


def test_another_plan_is_refused(tmp_path):
    plan = recipe.Plan(tmp_path / "new", 0, 10, 1, 2, 3, 4, 5, 6)
    plan.keep()
    plan.keep()
    other = dataclasses.replace(plan, seed=1, all_steps=9)
    with pytest.raises(recipe.OtherPlanError, match="seed 0 there, 1 here, all_steps 6 there, 9 "):
        other.keep()


def test_minutes_are_added_over_processes(tmp_path):
    lines = [{"seconds": 30}, {"seconds": 90}, {"seconds": 12}, {"seconds": 60}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert loop.Journal(tmp_path / "log.jsonl", print).minutes() == 2.5


def test_schedule_of_a_short_run_is_finite():
    updates = optimiser(0.1, 0.1, 1)
    params = {"x": jnp.ones(2)}
    changed, _ = updates.update(params, updates.init(params), params)
    chex.assert_tree_all_finite(optax.apply_updates(params, changed))


def test_shipped_tokenizers_are_the_built_ones(pieces):
    for folder, built in ((SHIPPED, pieces), (SHIPPED / "clip", captions.tokenizer())):
        shipped = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert shipped.to_str() == built.to_str()


def test_shipped_model_answers(tmp_path, monkeypatch):
    cfg = huggingface.read_config(SHIPPED)
    assert cfg == config.pocket()
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*")) < 12e6
    params = huggingface.load(SHIPPED, cfg, np.float32)
    unseen = pictures.pool(scenes.world("validation"), 5000, 16, tmp_path)
    seen = features.hidden_states(params, unseen, cfg, tmp_path)
    monkeypatch.setattr(model, "encode", None)  # not called again
    np.testing.assert_array_equal(seen, features.hidden_states(params, unseen, cfg, tmp_path))
    monkeypatch.undo()
    found = answering.answer(params, seen[:, 1:], unseen.world, range(5000, 5016), cfg)
    pope = measuring.pope(found["pope"])
    # 0.9 on many scenes; 96 questions a split scatter by 0.03
    assert pope["random"] > 0.75
    assert pope["answer_mass"] > 0.95
    looked = measuring.attended(params, unseen, cfg)
    assert looked["attended"] > 0.6
    assert looked["covered"] < 0.25


def test_shipped_towers_are_one():
    cfg = huggingface.read_clip_config(SHIPPED / "clip")
    assert cfg == caption_stage.config()
    tower = huggingface.load(SHIPPED, config.pocket(), np.float32)["vision"]
    chex.assert_trees_all_equal(
        huggingface.load_clip(SHIPPED / "clip", np.float32)["vision"], tower
    )
