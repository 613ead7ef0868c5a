"""What a run plans to compute, and what it says that costs."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pruning
from experiments.harness import accounts, batching, memory, plan
from experiments.harness.benchmark import Example
from experiments.harness.grid import Setting
from experiments.harness.source import find
from llava_jax import config, costs, decoding, model, sharding, testing


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    testing.write_checkpoint(folder)
    return find(str(folder), None, offline=True)


def examples():
    texts = ["Is there a cat in the image?", "Is there a dog in the image?", "Is there an A ?"]
    rows = [("x", 0), ("x", 1), ("x", 0), ("y", 2), ("y", 1)]
    return [
        Example(f"s/{i}", image, texts[t], (("Yes",), ("No",)), 0, "s")
        for i, (image, t) in enumerate(rows)
    ]


@pytest.fixture
def made(source):
    grid = (Setting(pruning.get("none")(), 16, None), Setting(pruning.get("saliency")(), 4, None))
    groups = batching.group_by_image(examples())
    return plan.make(groups, grid, source), grid


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=5))
def test_common_start_is_common_and_leaves_a_token(sequences):
    start = plan.common_start(sequences)
    assert all(sequence[: len(start)] == start for sequence in sequences)
    assert all(len(sequence) > len(start) for sequence in sequences)
    longer = min(map(len, sequences)) > len(start) + 1
    assert not longer or len({sequence[len(start)] for sequence in sequences}) > 1


def test_questions_are_cut_behind_their_common_start(made, source):
    work, _ = made
    tokenizer = source.tokenizer
    assert "".join(map(tokenizer.piece, work.common_ids)).endswith("Is▁there")
    for text, own in work.suffixes.items():
        whole = tokenizer.rest(f"\n{text} ASSISTANT:")
        assert list(work.common_ids + own) == whole
    assert work.prompt_ids[0] == 1


def test_tokens_are_counted_by_hand(made):
    work, (full, four) = made
    s, c = len(work.prompt_ids), len(work.common_ids)
    own = {text: len(ids) for text, ids in work.suffixes.items()}
    asked = [own[e.user_text] for e in examples()]  # rows 0 and 2 are the same question
    assert accounts.tokens(work, four, 16) == s + 2 * (4 + c) + sum(asked) - asked[0]
    assert accounts.tokens_alone(work, full, 16) == 5 * (s + 16 + c) + sum(asked)


def test_batches_hold_every_picture_once(made):
    work = dataclasses.replace(made[0], images_per_batch=2)
    assert [g.image for batch in work.batches for g in batch] == ["x", "y"]
    assert len(work.batches) == 1
    assert len(made[0].batches) == 2, "on CPU one picture at a time"


def test_batch_size_follows_tokens_and_memory(made):
    work, grid = made
    work = dataclasses.replace(work, groups=work.groups * 200)
    cfg = config.llava_1_5_7b()
    most = max(len(group.questions) for group in work.groups)
    questions, suffix = batching.padded(most, max(map(len, work.suffixes.values())))

    def fit(work, room):
        return memory.batch_size(work, grid, cfg, 2, room, len(work.groups))

    enough = fit(work, 10**12)
    assert (enough - 1) * questions * suffix < 2048 <= enough * questions * suffix
    speaking = dataclasses.replace(work, max_new_tokens=128)
    assert fit(speaking, 2e9) < fit(work, 2e9)
    assert 1 <= fit(work, 1e8) < enough
    assert fit(work, -1) == 1
    assert memory.batch_size(work, grid, cfg, 2, 10**12, most=1) == 1


def test_a_mesh_takes_as_many_pictures_as_divide(made, source):
    work, grid = made
    work = dataclasses.replace(work, groups=work.groups * 200)
    shared = dataclasses.replace(source, mesh=sharding.make_mesh(4, 2))
    assert memory.images_per_batch(work, grid, shared) == 4
    one, all_ = (memory.estimate(work, grid, place, 4) for place in (source, shared))
    assert all_.batch < one.batch
    assert all_.weights < one.weights


def test_each_device_of_a_mesh_has_a_batch_of_its_own(made, source, monkeypatch):
    work, grid = made
    work = dataclasses.replace(work, groups=work.groups * 2000)
    shared = dataclasses.replace(source, mesh=sharding.make_mesh(4, 2))
    device = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 10**12})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    alone = memory.images_per_batch(work, grid, source)
    assert memory.images_per_batch(work, grid, shared) == 4 * alone > 4


def test_description_names_what_is_shared(made, source):
    text = plan.describe(*made, source, "some data")
    assert "5 rows, 4 distinct questions, 2 pictures" in text
    assert f"{len(made[0].prompt_ids)} before the picture, once" in text
    assert "saliency_k4" in text
    assert "generated" not in text
    speaking = dataclasses.replace(made[0], max_new_tokens=7)
    text = plan.describe(speaking, made[1], source, "some data")
    assert "generated text, up to 7 tokens a question, not counted" in text


CFG = config.from_hf(testing.tiny_config(num_key_value_heads=4, hidden_size=64))


def compiled_flops(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def test_operations_are_those_of_the_compiled_model():
    params = testing.random_params(CFG)
    side, n = CFG.vision.image_size, CFG.vision.num_tokens
    pixels = np.zeros((1, side, side, 3), np.float32)
    seen = compiled_flops(lambda p, x: model.encode(p, x, cfg=CFG).features, params, pixels)
    assert costs.encode_flops(CFG.vision) == pytest.approx(seen, rel=0.15)
    prompt, suffix = np.zeros(5, np.int32), np.zeros((1, 1, 7), np.int32)

    def decode(p, features):
        image, places = model.project_kept(p["projector"], features, np.arange(n)[None])
        before = decoding.begin(p, prompt, cfg=CFG)
        prefix = decoding.prefill(p, before, image, places, n, cfg=CFG)
        return decoding.answer(p, prefix, suffix, np.full((1, 1), 7), cfg=CFG)

    features = np.zeros((1, n, CFG.vision.width), np.float32)
    ours = costs.project_flops(CFG, n) + costs.extend_flops(CFG.text, 0, 5)
    ours += costs.extend_flops(CFG.text, 5, n) + costs.answer_flops(CFG.text, 5 + n, 7)
    assert ours == pytest.approx(compiled_flops(decode, params, features), rel=0.15)


def test_a_prefix_costs_the_same_in_one_piece_and_in_two():
    text = config.llava_1_5_7b().text
    whole = costs.extend_flops(text, 0, 611)
    assert costs.extend_flops(text, 0, 35) + costs.extend_flops(text, 35, 576) == whole


def test_operations_of_the_7b_are_those_of_the_roofline():
    cfg = config.llava_1_5_7b()
    # 0.366 TFLOP for 23 of 24 layers and the projector, 8.79 for a question alone at K = 576
    # with 63 tokens of text (spec of the study's work, counted independently).
    seen = costs.encode_flops(cfg.vision)
    assert seen == pytest.approx(0.366e12, rel=0.04)
    assert costs.alone_flops(cfg, (576,) * 32, 63) == pytest.approx(8.79e12, rel=0.03)
    assert costs.alone_flops(cfg, (64,) * 32, 63) == pytest.approx(2.06e12, rel=0.03)
