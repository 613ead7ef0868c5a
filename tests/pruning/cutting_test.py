"""Pruners at work inside the decoder: the official models, and the plain decoder as reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from llava_jax import config, cutting, decoding, engine, testing

KEY = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32), impl="threefry2x32")
NO_TOWER = config.VisionConfig(
    width=8, num_layers=2, num_heads=1, mlp_width=8, image_size=16, patch_size=8
)


def choose_with(pruner, images=1, questions=1):
    """Return the callback that the harness hands to the engine, and what it was shown."""
    keys, seen = jnp.broadcast_to(KEY, (images, questions)), []

    def choose(cut, view):
        seen.append(view)
        return pruning.select_inside(pruner, pruning.DecoderTokens(**vars(view)), cut, keys)

    return choose, seen


def tiny_llama(case, weights, embeds):
    """Return (parameters, config) whose ids are the rows of embeds, its logits hidden states."""
    width, count = embeds.shape[1], max(len(embeds), embeds.shape[1])
    names = {
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "out": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    }
    layers = [
        {ours: {"weight": weights[f"layers.{i}.{name}.weight"]} for ours, name in names.items()}
        for i in range(case["layers"])
    ]
    text = {
        "embed_tokens": np.pad(embeds, ((0, count - len(embeds)), (0, 0))),
        "layers": layers,
        "norm": {"weight": weights["norm.weight"]},
        "lm_head": np.eye(count, width, dtype=np.float32),
    }
    cfg = config.TextConfig(
        vocab_size=count,
        width=width,
        num_layers=case["layers"],
        num_heads=case["heads"],
        num_kv_heads=case["heads"],
        head_dim=width // case["heads"],
        mlp_width=weights["layers.0.mlp.up_proj.weight"].shape[0],
        rope_theta=case["rope_theta"],
        eps=case["rms_eps"],
    )
    whole = config.LlavaConfig(vision=NO_TOWER, text=cfg, real_vocab_size=count)
    return jax.tree.map(jnp.asarray, {"text": text}), whole


def answer(case, params, cfg, embeds, cuts, pruner):
    """Return (state of the last token, tokens left) of the one prompt of a golden case."""
    system, picture, words = np.split(
        np.arange(len(embeds)), [case["n_sys"], case["n_sys"] + case["n_img"]]
    )
    choose, _ = choose_with(pruner)
    before = decoding.begin(params, system, cfg=cfg)
    context, left = cutting.answer(
        params,
        system,
        jnp.asarray(embeds[picture])[None],
        words[None, None],
        np.array([[len(words)]]),
        cuts,
        choose,
        pruner.needs,
        before=before,
        cfg=cfg,
        stage=engine.Engine(params, cfg).stage,
    )
    return np.asarray(context.logits[0, 0, : embeds.shape[1]]), np.asarray(left[0, 0])


FASTV_VARIANTS = {
    "official_last_hidden": ("drop", "mask"),
    "own_renumber_text_hidden": ("renumber",),
    "own_input_text_hidden": ("input",),
    "own_input_origpos_text_hidden": ("input_origpos",),
    "own_zero_text_hidden": ("broken_zero",),
}


def golden_cases(golden, method):
    found = 0
    for case in golden.cases("inllm"):
        if case[1]["method"] == method:
            found += 1
            yield case
    assert found, f"inllm: no case of {method} in the manifest"


@pytest.mark.golden
def test_fastv_inside_a_decoder_equals_the_official_model(golden):
    for name, case, inputs, stored in golden_cases(golden, "fastv"):
        embeds = np.asarray(inputs["embeds"], np.float32)
        params, cfg = tiny_llama(case, inputs["weights"], embeds)
        for array, variants in FASTV_VARIANTS.items():
            for variant in variants:
                pruner = pruning.FastV(fastv_variant=variant)
                (cut,) = pruner.cuts(case["keep"], case["n_img"], case["layers"])
                cut = dataclasses.replace(cut, layer=case["K"], look=case["K"] - 1)
                state, left = answer(case, params, cfg, embeds, (cut,), pruner)
                want = stored("keep_positions")
                picture = want[(want >= case["n_sys"]) & (want < case["n_sys"] + case["n_img"])]
                np.testing.assert_array_equal(np.sort(left) + case["n_sys"], picture)
                np.testing.assert_allclose(
                    state, stored(array)[-1], atol=1e-4, err_msg=f"{name} {variant}"
                )


@pytest.mark.golden
def test_sparsevlm_inside_a_decoder_equals_the_official_model(golden):
    for name, case, inputs, stored in golden_cases(golden, "sparsevlm"):
        embeds = np.asarray(inputs["embeds"], np.float32)
        params, cfg = tiny_llama(case, inputs["weights"], embeds)
        pruner = pruning.SparseVLM(sparsevlm_version={1: "1.5", 2: "plus"}[case["version"]])
        cuts, left = [], case["n_img"]
        for layer, count in zip(case["pruning_layers"], case["schedule"], strict=True):
            keep = min(count, left - 1)
            merged = pruning.recycled(left - keep)[1] if case["version"] == 1 else 0
            how = {"merged": merged, "renumber": case["version"] == 1}
            cuts.append(pruning.Cut(layer + 1, layer, keep, **how))
            left = keep + merged
        state, _ = answer(case, params, cfg, embeds, cuts, pruner)
        np.testing.assert_allclose(
            state, stored("official_last_hidden")[-1], atol=1e-4, err_msg=name
        )
        counts = pruning.tokens_per_layer(cuts, case["n_img"], case["layers"])
        words = case["n_sys"] + case["n_txt"]
        np.testing.assert_array_equal(np.array(counts) + words, stored("kv_len_per_layer"))


# A tiny random LLaVA: 16 visual tokens, four decoder layers.

TINY = testing.tiny_config(num_hidden_layers=4)
CFG = config.from_hf(TINY)
PROMPT = np.array([1, 7, 8, 9])
PRUNERS = {
    "fastv": pruning.FastV(),
    "pyramiddrop": pruning.PyramidDrop(),
    "dart": pruning.Dart(dart_image_pivots=2, dart_text_pivots=2),
    "sparsevlm": pruning.SparseVLM(),
}


@pytest.fixture(scope="module")
def model():
    return engine.Engine(testing.random_params(CFG), CFG)


@pytest.fixture(scope="module")
def features(model):
    pixels = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    return model.encode(pixels, ("features",)).require("features")


def questions():
    """Return ids int[2, 3, 8] and their lengths."""
    rng = np.random.default_rng(2)
    return rng.integers(10, 500, (2, 3, 8)), np.array([[8, 5, 3], [4, 8, 6]])


def log_softmax(logits):
    return np.asarray(jax.nn.log_softmax(logits[..., : CFG.real_vocab_size]))


def answer_cut(model, features, ids, lengths, pruner, budget):
    choose, _ = choose_with(pruner, *lengths.shape)
    cuts = pruner.cuts(budget, 16, CFG.text.num_layers)
    before = model.begin(PROMPT)
    how = (cuts, choose, pruner.needs)
    context, left = model.answer_cut(PROMPT, before, features, ids, lengths, *how)
    return log_softmax(context.logits), np.asarray(left)


@pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
def test_sharing_below_the_cut_equals_question_by_question(model, features, pruner):
    ids, lengths = questions()
    got, left = answer_cut(model, features, ids, lengths, pruner, 5)

    def assert_equal_alone(g, q, longest):
        rows, columns = slice(g, g + 1), slice(q, q + 1)
        alone = ids[rows, columns, :longest], lengths[rows, columns]
        want, kept = answer_cut(model, features[rows], *alone, pruner, 5)
        np.testing.assert_allclose(got[g, q], want[0, 0], atol=1e-5)
        np.testing.assert_array_equal(left[g, q], kept[0, 0])

    for g, q in np.ndindex(lengths.shape):
        assert_equal_alone(g, q, 8)
    if pruner.name == "fastv":
        assert_equal_alone(0, 2, 3)  # without padding


@pytest.mark.parametrize("budget", [1, 5])
def test_masking_equals_dropping(model, features, budget):
    ids, lengths = questions()
    found = [
        answer_cut(model, features, ids, lengths, pruning.FastV(fastv_variant=variant), budget)
        for variant in ("drop", "mask")
    ]
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    np.testing.assert_array_equal(*[np.sort(kept) for _, kept in found])


@pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
def test_keeping_all_tokens_changes_nothing(model, features, pruner):
    ids, lengths = questions()
    got, left = answer_cut(model, features, ids, lengths, pruner, 16)
    every = np.broadcast_to(np.arange(16), (2, 16))
    want = model.answer(model.prefill(model.begin(PROMPT), features, every), ids, lengths)
    np.testing.assert_allclose(got, log_softmax(want), atol=1e-5)
    np.testing.assert_array_equal(left, np.broadcast_to(np.arange(16), left.shape))


@pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
def test_what_is_taken_out_matters(model, features, pruner):
    ids, lengths = questions()
    few, left = answer_cut(model, features, ids, lengths, pruner, 2)
    every, _ = answer_cut(model, features, ids, lengths, pruner, 16)
    assert np.abs(few - every).max(axis=-1).min() > 1e-3  # of every single question
    counts = pruning.tokens_per_layer(pruner.cuts(2, 16, 4), 16, 4)
    assert left.shape == (2, 3, counts[-1])


@pytest.mark.parametrize(("variant", "original"), [("input", False), ("input_origpos", True)])
def test_a_restart_is_pruning_at_the_input(model, features, variant, original):
    ids, lengths = questions()
    pruner = pruning.FastV(fastv_variant=variant)
    got, left = answer_cut(model, features, ids, lengths, pruner, 5)
    kept = np.sort(left, axis=-1)
    places = kept if original else None
    prefix = model.prefill(model.begin(PROMPT), features, kept, places=places)
    want = model.answer(prefix, ids.reshape(6, 1, -1), lengths.reshape(6, 1)).reshape(2, 3, -1)
    np.testing.assert_allclose(got, log_softmax(want), atol=1e-5)


def test_every_question_may_have_tokens_of_its_own(model, features):
    ids, lengths = questions()
    rng, before = np.random.default_rng(3), model.begin(PROMPT)
    kept = np.sort(rng.permuted(np.broadcast_to(np.arange(16), (2, 3, 16)), axis=-1)[..., :5])
    prefix = model.prefill(before, features, kept)
    got = model.answer(prefix, ids.reshape(6, 1, -1), lengths.reshape(6, 1)).reshape(2, 3, -1)
    for q in range(3):
        one = model.prefill(before, features, kept[:, q])
        want = model.answer(one, ids[:, q : q + 1], lengths[:, q : q + 1])[:, 0]
        np.testing.assert_allclose(log_softmax(got[:, q]), log_softmax(want), atol=1e-5)


@pytest.mark.parametrize(
    "variant", ["broken_zero", "broken_noncausal", "broken_lastrow", "broken_span", "renumber"]
)
def test_each_variant_answers_otherwise(model, features, variant):
    ids, lengths = questions()
    right, kept = answer_cut(model, features, ids, lengths, pruning.FastV(), 5)
    pruner = pruning.FastV(fastv_variant=variant, fastv_shift=2)
    other, same = answer_cut(model, features, ids, lengths, pruner, 5)
    assert np.median(np.abs(other - right).max(axis=-1)) > 1e-3
    np.testing.assert_array_equal(np.sort(same), kept)


SPEAKING = PRUNERS | {
    "fastv at the input": pruning.FastV(fastv_variant="input"),
    "fastv renumbered": pruning.FastV(fastv_variant="renumber"),
    "sparsevlm 1.0": pruning.SparseVLM(sparsevlm_version="1.0"),
}


@pytest.mark.parametrize("pruner", SPEAKING.values(), ids=SPEAKING)
def test_text_is_what_reading_it_anew_says(model, features, pruner):
    """The choice is made once, at the prompt's last token; then all tokens are read again."""
    (ids, lengths), steps = questions(), 10
    choose, _ = choose_with(pruner, *lengths.shape)
    cuts, before, chosen = pruner.cuts(5, 16, CFG.text.num_layers), model.begin(PROMPT), {}

    def remember(cut, view):
        chosen[cut] = choose(cut, view)
        return chosen[cut]

    how = (cuts, remember, pruner.needs)
    context, _ = model.answer_cut(PROMPT, before, features, ids, lengths, *how, keep=True)
    said = model.say(context, -1, steps)
    assert said.ids.shape == (2, 3, steps)
    text = np.zeros((2, 3, 8 + steps), np.int64)
    text[..., :8] = ids
    for step in range(steps):
        again = (cuts, lambda cut, view: chosen[cut], pruner.needs)
        found, _ = model.answer_cut(PROMPT, before, features, text, lengths + step, *again)
        np.testing.assert_array_equal(said.ids[..., step], found.logits.argmax(-1))
        log_probs = log_softmax(found.logits).max(-1)
        np.testing.assert_allclose(said.log_probs[..., step], log_probs, atol=2e-5)
        for g, q in np.ndindex(lengths.shape):
            text[g, q, lengths[g, q] + step] = said.ids[g, q, step]
