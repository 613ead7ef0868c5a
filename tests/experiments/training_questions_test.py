import re

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import scenes
from experiments.scenes.questions import base
from experiments.training import (
    answering,
    asking,
    caption_stage,
    captions,
    measuring,
    question_stage,
    teaching,
    tokenizer,
    wording,
)
from llava_jax import testing

STAR = scenes.Fact("object", "star", "star", ("moon", "cup", "key", "bus"))
CAR = scenes.Fact("color", "car", "red", ("blue", "green"))


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _few_scenes_behind_the_usual_answers(monkeypatch):
    monkeypatch.setattr(measuring, "_COUNTED", 60)
    measuring._usual_answers.cache_clear()
    yield
    measuring._usual_answers.cache_clear()


def _marked(question):
    """Return the question's tokens and, for each, the token that is asked for there."""
    pieces, taught = tokenizer.build(), teaching.teach(question)
    said = [pieces.id_to_token(i) for i in taught.ids]
    wanted = [pieces.id_to_token(i) if i >= 0 else None for i in taught.targets]
    return taught, said, wanted


def test_answer_and_end_are_taught():
    taught, said, wanted = _marked(base.yes_no("", "", STAR, "star"))
    assert said[taught.answer_at] == ":"
    assert said[taught.answer_at + 1 :] == ["▁Yes", "</s>"]
    assert wanted[taught.answer_at :] == ["▁Yes", "</s>", None]
    assert [said[t] for t, _ in taught.mentions] == ["▁star"]
    first = said.index("▁star")
    assert wanted[:first] == [None] * first
    assert set(wanted[first : taught.answer_at]) == {"▁Yes"}


def test_early_answers_wait_for_the_telling_word():
    side = scenes.Fact("side", "cup", "left", ("right",))
    taught, said, wanted = _marked(base.yes_no("", "", side, "right"))
    assert wanted[said.index("▁cup")] is None
    assert wanted[said.index("▁right")] == "▁No"
    taught, said, wanted = _marked(base.one_word("", "", CAR))
    assert wanted[said.index("▁car")] == "▁red"
    assert said[taught.answer_at + 1] == "▁red"


def test_options_are_marked(rng):
    question = base.lettered("", "", STAR, 4, rng)
    taught, said, wanted = _marked(question)
    assert said[taught.pointer] == "▁star"
    assert {said[t]: wanted[t] for t, _ in taught.mentions} == {
        f"▁{name}": "▁Yes" if name == "star" else "▁No" for name in question.options
    }
    assert said[taught.answer_at + 1] == f"▁{question.answer}"
    assert set(wanted[taught.mentions[-1][0] + 1 : taught.answer_at]) == {f"▁{question.answer}"}


def test_quality_is_due_before_the_options(rng):
    question = base.lettered("", "", CAR, 3, rng)
    taught, said, wanted = _marked(question)
    mark, first = said.index("?"), said.index("▁car")
    assert wanted[first : mark + 1] == ["▁red"] * (mark + 1 - first)
    assert wanted[mark + 1] is None
    assert said[taught.pointer] == "▁red"


def test_longest_questions_fit():
    world, rng = scenes.world("validation"), np.random.default_rng(1)
    for index in range(60):
        short, long = asking.ask(world, index, asking.Mix(), rng)
        assert max(len(teaching.teach(q).ids) for q in short) <= teaching.SHORT
        assert max(len(teaching.teach(q).ids) for q in long) <= teaching.LONG
        assert max(len(teaching.teach(q).mentions) for q in (*short, *long)) <= teaching.MENTIONS
        for question in (*short, *long):
            assert tokenizer.UNKNOWN not in teaching.teach(question).ids


def test_questions_are_balanced_and_true():
    world, rng = scenes.world("train"), np.random.default_rng(0)
    for index in range(12):
        plan = scenes.layout(world, index)
        short, long = asking.ask(world, index, asking.Mix(), rng)
        assert [q.answer for q in short[:8]] == ["yes", "no"] * 4
        for question in short[:6]:
            known = plan.present if question.answer == "yes" else plan.absent
            assert scenes.NAMES.index(question.subject) in known
        assert len(short) == 10
        assert len(long) == 4


def test_block_holds_what_is_taught(rng):
    questions = [base.yes_no("", "", STAR, "moon"), base.one_word("", "", CAR)]
    car = scenes.NAMES.index("car")
    block = teaching.block([questions], [[car]], teaching.SHORT)
    for q, question in enumerate(questions):
        taught = teaching.teach(question)
        assert tuple(block.ids[0, q][: len(taught.ids)]) == taught.ids
        assert tuple(block.targets[0, q][: len(taught.targets)]) == taught.targets
        assert (block.targets[0, q][len(taught.targets) :] == teaching.NOTHING).all()
    assert block.present[0, :, 0].tolist() == [False, True]
    assert (block.mention[0, :, 1:] == teaching.NOTHING).all()
    assert not block.present[0, :, 1:].any()
    assert (block.pointer == teaching.NOTHING).all()


def test_grounding_rewards_the_right_patches():
    # one name; attention wholly on patch 2 of 4, behind the text before the picture
    start, suffix = wording.prompt().size, 3
    logs = np.full((1, 1, 1, 2, start + 4 + suffix), -30.0, np.float32)
    logs[..., start + 2] = 0
    labels = np.array([[-1, 5, 7, 7]])

    def lost(category, present):
        names = np.array([[[category]]])
        block = teaching.Block(None, None, None, None, names, np.array([[[present]]]), None)
        return float(question_stage._grounding(jnp.asarray(logs), jnp.asarray(labels), block))

    assert lost(7, True) == pytest.approx(0, abs=1e-6)
    assert lost(5, True) == pytest.approx(30)
    assert lost(9, False) == pytest.approx(30 - np.log(start), rel=1e-4)  # wants the text
    assert lost(9, True) == 0  # its patches were dropped: nothing to learn


def test_pointing_rewards_the_right_option():
    logs = np.full((1, 2, 1, 2, 8), -30.0, np.float32)
    logs[..., 5 + 1] = 0  # three suffix tokens at the end; all look at the middle one
    ids = np.zeros((1, 2, 3), np.int32)

    def lost(*pointers):
        block = teaching.Block(ids, None, None, None, None, None, np.array([pointers]))
        return float(question_stage._pointing(jnp.asarray(logs), block))

    assert lost(1, 1) == 0
    assert lost(1, 2) == pytest.approx(15)
    assert lost(1, teaching.NOTHING) == 0


def _answers(questions, *, favour):
    """Make up log probabilities that put 0.7 on one word per question."""
    pieces = tokenizer.vocabulary()
    probs = np.full((len(questions), len(pieces)), 0.3 / (len(pieces) - 1), np.float32)
    for row, word in zip(probs, favour, strict=True):
        row[pieces[f"▁{word}"]] = 0.7
    scene = np.zeros(len(questions), int)
    return answering.Answers(tuple(questions), scene, np.log(probs))


def test_right_answers_are_counted(rng):
    lettered = base.lettered("", "", STAR, 3, rng)
    questions = [base.yes_no("", "", STAR, "star"), base.one_word("", "", CAR), lettered]
    assert measuring.right(_answers(questions, favour=["Yes", "red", lettered.answer])).all()
    wrong = next(letter for letter in "ABC" if letter != lettered.answer)
    assert not measuring.right(_answers(questions, favour=["no", "blue", wrong])).any()
    # beyond the options there is nothing to choose: E counts for no answer
    found = measuring.log_masses(_answers([lettered], favour=["E"]))
    assert np.isneginf(found[0, 3:]).all()


def test_circular_questions_need_every_rotation():
    rows = scenes.MINIATURES["mmbench"].questions(scenes.world("train"), 0)
    letters = [row.answer for row in rows]
    assert measuring.mmbench(_answers(rows, favour=letters))["circular"] == 1
    always_the_same = measuring.mmbench(_answers(rows, favour=["A"] * len(rows)))
    assert always_the_same["circular"] == 0
    # one base question: its first row alone counts for accuracy
    assert always_the_same["accuracy"] == float(rows[0].answer == "A")
    assert always_the_same[rows[0].part] == always_the_same["accuracy"]


def test_pairs_need_both_answers():
    rows = scenes.MINIATURES["mme"].questions(scenes.world("train"), 0)
    found = measuring.mme(_answers(rows, favour=["Yes"] * len(rows)))
    assert found["accuracy"] == 0.5
    assert found["accuracy+"] == 0


def test_blind_answers_are_the_usual_ones(monkeypatch):
    told = [("What?", "red"), ("What?", "red"), ("What?", "blue")]
    asked = [scenes.Question("", "", "", text, (), answer) for text, answer in told]
    mini = scenes.Miniature(lambda world, index: asked[index : index + 1], trained=True)
    monkeypatch.setitem(scenes.MINIATURES, "gqa", mini)
    monkeypatch.setattr(measuring, "_COUNTED", 3)
    found = _answers([*asked, scenes.Question("", "", "", "New?", (), "red")], favour=["red"] * 4)
    assert measuring.blind("gqa", found) == 0.5  # the two red ones
    options = scenes.Question("", "", "", "What?", ("green", "blue"), "B")
    assert measuring.blind("gqa", _answers([options], favour=["A"])) == 1


def test_noise_floor_of_ece():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 2000).astype(np.float32)
    alone = measuring.noise_floor(confidence, np.arange(2000))
    tripled = measuring.noise_floor(np.repeat(confidence, 3), np.repeat(np.arange(2000), 3))
    assert 0.02 < alone < 0.06
    assert tripled == pytest.approx(alone, rel=0.1)  # repeated questions add no evidence


def test_captions_say_what_is_there():
    world, rng = scenes.world("train"), np.random.default_rng(0)
    for index in range(40):
        plan = scenes.layout(world, index)
        text = captions.caption(world, index, rng)
        named = {word.strip(",?") for word in text.split()} & set(scenes.NAMES)
        assert 1 <= len(named) <= 4
        coloured = re.findall(rf"({'|'.join(scenes.COLOURS)}) ([a-z]+)", text)
        facts = scenes.facts(world, index)
        known = {(f.answer, f.subject) for f in facts if f.aspect == "color"}
        assert set(coloured) <= known
        assert {scenes.NAMES.index(name) for name in named} <= set(plan.present)


def test_caption_tokenizer_is_clips_kind():
    pieces = captions.tokenizer()
    start, end = (pieces.token_to_id(token) for token in (captions.START, captions.END))
    ids = pieces.encode("Is there an  Umbrella in the image?").ids
    assert (ids[0], ids[-1]) == (start, end)
    assert end == max(pieces.get_vocab().values())
    assert pieces.decode(ids) == "is there an umbrella in the image ?"
    assert all(len(pieces.encode(name).ids) == 3 for name in scenes.NAMES)
    assert captions.END not in pieces.encode("Zürich 漢字 \x00").tokens[1:-1]
    padded = captions.token_ids(["a star", "a photo of a moon"], 8)
    assert padded.shape == (2, 8)
    assert (padded[0, 4:] == end).all()
    with pytest.raises(ValueError, match="'a photo of a moon' has more than 4 tokens"):
        captions.token_ids(["a star", "a photo of a moon"], 4)


def test_dual_encoder_splits_and_joins():
    cfg = testing.tiny_clip()
    params = testing.random_params(cfg)
    resting, learning = caption_stage.split(params, cfg)
    again = caption_stage.join(resting, learning)
    chex.assert_trees_all_equal(again, params)
    assert len(resting["layers"]) == cfg.vision.feature_depth
    hidden = np.random.default_rng(0).normal(size=(2, 5, cfg.vision.width)).astype(np.float32)
    whole, part = (caption_stage.embed_images(p, hidden, cfg=cfg) for p in (params, learning))
    np.testing.assert_array_equal(whole, part)
    np.testing.assert_allclose(jnp.linalg.norm(whole, axis=1), 1, rtol=1e-6)
