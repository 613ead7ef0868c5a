"""Properties of the model that no reference is needed for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llava_jax import config, decoding, engine, layers, model, parameters, testing, text
from llava_jax.checkpoint import huggingface

CFG = config.from_hf(testing.tiny_config())
PROMPT = np.array([1, 9, 200, 31, 77])
TOLERANCE = 1e-5  # log masses, float32


@pytest.fixture(scope="module")
def params():
    return testing.random_params(CFG)


def questions(num_images, num_questions=5, longest=9, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.choice([1, longest // 2, longest], (num_images, num_questions))
    ids = rng.integers(4, 300, (num_images, num_questions, longest)).astype(np.int32)
    return ids, lengths


def pixels(num_images, seed=0):
    side = CFG.vision.image_size
    return np.random.default_rng(seed).standard_normal((num_images, side, side, 3), np.float32)


def log_masses(logits):
    return np.asarray(jax.nn.log_softmax(logits, axis=-1))[..., :300]


@pytest.mark.parametrize("num_images", [1, 3, 16])
def test_shared_prefix_equals_question_by_question(params, num_images):
    ids, lengths = questions(num_images)
    pictures = pixels(num_images)
    run = engine.Engine(params, CFG)
    features = run.encode(pictures, ("features",)).require("features")
    kept = np.stack(
        [np.sort(np.random.default_rng(g).permutation(16)[:6]) for g in range(num_images)]
    )
    prefix = run.prefill(run.begin(PROMPT), features, kept)
    got = log_masses(run.answer(prefix, ids, lengths))
    alone = jax.jit(model.apply, static_argnames="cfg")
    for g in range(num_images):
        for q in range(ids.shape[1]):
            suffix = ids[g : g + 1, q : q + 1, : lengths[g, q]]
            want = alone(
                params,
                pictures[g : g + 1],
                PROMPT,
                suffix,
                lengths[g : g + 1, q : q + 1],
                cfg=CFG,
                keep=kept[g : g + 1],
            )
            np.testing.assert_allclose(got[g, q], log_masses(want)[0, 0], atol=TOLERANCE)


def test_a_common_start_may_stand_in_the_prefix(params):
    ids, _ = questions(2)
    ids[..., :3] = [40, 50, 60]
    lengths = np.full((2, 5), 7)
    lengths[:, 0] = 4
    run = engine.Engine(params, CFG)
    features = run.encode(pixels(2), ("features",)).require("features")
    kept, before = np.array([[2, 3, 9], [0, 5, 15]]), run.begin(PROMPT)
    for places in (None, kept):
        apart = run.prefill(before, features, kept, places=places)
        joined = run.prefill(before, features, kept, ids[0, 0, :3], places=places)
        assert joined.length == apart.length + 3
        want = run.answer(apart, ids, lengths)
        got = run.answer(joined, ids[..., 3:], lengths - 3)
        np.testing.assert_allclose(log_masses(got), log_masses(want), atol=TOLERANCE)


def test_padding_does_not_matter(params):
    ids, lengths = questions(2)
    run = engine.Engine(params, CFG)
    features = run.encode(pixels(2), ("features",)).require("features")
    prefix = run.prefill(run.begin(PROMPT), features, np.tile(np.arange(16), (2, 1)))
    other = np.where(np.arange(9) < lengths[..., None], ids, 123)
    wider = np.pad(other, ((0, 0), (0, 2), (0, 7)), constant_values=5)
    want = run.answer(prefix, ids, lengths)
    got = run.answer(prefix, wider, np.pad(lengths, ((0, 0), (0, 2)), constant_values=1))[:, :5]
    np.testing.assert_allclose(log_masses(got), log_masses(want), atol=TOLERANCE)


def test_kept_tokens_decide_the_answer(params):
    ids, lengths = questions(1)
    run = engine.Engine(params, CFG)
    features = run.encode(pixels(1), ("features",)).require("features")
    first, second = np.arange(6)[None], np.arange(6, 12)[None]
    one, other = (
        run.answer(run.prefill(run.begin(PROMPT), features, k), ids, lengths)
        for k in (first, second)
    )
    assert np.abs(log_masses(one) - log_masses(other)).max() > 1e-2


def test_original_positions_leave_gaps(params):
    ids, lengths = questions(1)
    run = engine.Engine(params, CFG)
    features = run.encode(pixels(1), ("features",)).require("features")
    whole, part = np.arange(16)[None], np.array([[2, 3, 9]])
    same = [run.prefill(run.begin(PROMPT), features, whole, places=p) for p in (None, whole)]
    chex.assert_trees_all_close(*same)
    gaps = run.prefill(run.begin(PROMPT), features, part, places=part)
    assert gaps.length == len(PROMPT) + 3
    assert gaps.next_position.tolist() == [len(PROMPT) + 16]
    renumbered = run.prefill(run.begin(PROMPT), features, part)
    assert renumbered.next_position.tolist() == [len(PROMPT) + 3]
    a, b = (run.answer(p, ids, lengths) for p in (gaps, renumbered))
    assert np.abs(log_masses(a) - log_masses(b)).max() > 1e-3


def test_init_has_the_converted_tree(params):
    abstract = jax.eval_shape(lambda key: parameters.init(key, CFG), jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, params)
    made = jax.jit(parameters.init, static_argnums=1)(jax.random.key(0), CFG)
    chex.assert_trees_all_equal_shapes_and_dtypes(made, params)
    chex.assert_tree_all_finite(made)
    assert isinstance(made["text"]["layers"], list)


def test_apply_runs_under_one_jit(params):
    chex.clear_trace_counter()
    run = jax.jit(chex.assert_max_traces(model.apply, n=1), static_argnames="cfg")
    ids, lengths = questions(2)
    for seed in range(2):
        logits = run(params, pixels(2, seed), PROMPT, ids, lengths, cfg=CFG)
    chex.assert_shape(logits, (2, 5, CFG.text.vocab_size))
    chex.assert_type(logits, jnp.float32)


def test_half_precision_stays_close(params):
    ids, lengths = questions(2)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params)
    run = jax.jit(model.apply, static_argnames="cfg")
    want, got = (
        log_masses(run(tree, pixels(2), PROMPT, ids, lengths, cfg=CFG)) for tree in (params, half)
    )
    assert np.abs(np.exp(got) - np.exp(want)).max() < 5e-3


def test_encode_gives_each_output_alone(params):
    run = engine.Engine(params, CFG)
    everything = run.encode(pixels(2), model.VISION_OUTPUTS, (0, 2))
    chex.assert_shape(everything.hidden, (2, 17, 32))
    chex.assert_shape(everything.keys, (2, 17, 16))
    chex.assert_shape(everything.saliency_by_layer, (2, 2, 16))
    chex.assert_shape(everything.embeddings, (2, 16, 48))
    np.testing.assert_array_equal(everything.features, everything.hidden[:, 1:])
    np.testing.assert_array_equal(everything.saliency, everything.saliency_by_layer[:, 1])
    for name in ("features", "embeddings", "hidden", "keys", "saliency"):
        alone = run.encode(pixels(2), (name,))
        chex.assert_trees_all_close(alone.require(name), everything.require(name))
        assert sum(x is not None for x in vars(alone).values()) == 1
    with pytest.raises(ValueError, match="queries"):
        run.encode(pixels(2), ("queries",))
    with pytest.raises(ValueError, match=r"7.*outside 0..2"):
        run.encode(pixels(2), ("saliency_by_layer",), (7,))
    with pytest.raises(ValueError, match="saliency was not"):
        alone.__class__().require("saliency")


def test_prefix_attention_is_causal_attention_on_the_whole():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 1, 7, n, 8), np.float32)) for n in (4, 2, 2))
    whole = jax.nn.dot_product_attention(q[:, 0], k[:, 0], v[:, 0], is_causal=True)
    part = layers.prefix_attention(q[:, :, 3:], k[:, :, 3:], v[:, :, 3:], k[:, 0, :3], v[:, 0, :3])
    np.testing.assert_allclose(part[:, 0], whole[:, 3:], atol=1e-6)


def test_attention_is_jax_attention():
    q, k, v = (
        jax.random.normal(key, (2, 5, 3, 8)) for key in jax.random.split(jax.random.key(1), 3)
    )
    want = jax.nn.dot_product_attention(q, k, v)
    np.testing.assert_allclose(layers.attention(q, k, v), want, atol=1e-6)


def test_dense_pads_a_single_row():
    x, w = np.ones((1, 1, 8), np.float16), np.ones((3, 8), np.float16)
    out = layers.dense(x, w)
    chex.assert_shape(out, (1, 1, 3))
    np.testing.assert_array_equal(out, 8)


def test_engine_compiles_each_block_once(params):
    run = engine.Engine(params, CFG)
    before = engine._compiled(text.block)._cache_size()
    ids, lengths = questions(2, num_questions=3, longest=11)
    features = run.encode(pixels(2), ("features",)).require("features")
    for k in (4, 4):
        prefix = run.prefill(run.begin(PROMPT), features, np.tile(np.arange(k), (2, 1)))
        run.answer(prefix, ids, lengths)
    assert engine._compiled(text.block)._cache_size() == before + 1


def test_what_was_rehearsed_is_not_compiled_again(params):
    ids, lengths = questions(2, num_questions=3, longest=11, seed=5)
    kept = np.zeros((2, 7), np.int32)
    compiled = []

    def note(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    def work(run, features):
        prefix = run.prefill(before, features, kept, PROMPT)
        return run.answer(prefix, ids, lengths)

    run = engine.Engine(params, CFG)
    before = run.begin(PROMPT)
    features = jnp.ones((2, CFG.vision.num_tokens, CFG.vision.width))
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        shapes = work(run.rehearsal(), jax.ShapeDtypeStruct(features.shape, features.dtype))
        rehearsed = len(compiled)
        logits = work(run, features)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert rehearsed > 0
    assert len(compiled) == rehearsed
    assert (logits.shape, logits.dtype) == (shapes.shape, shapes.dtype)


def test_unused_vocabulary_is_masked():
    content = testing.tiny_config(vocab_size=32064)
    cfg = config.from_hf(content)
    assert cfg.real_vocab_size == 32000
    assert len(huggingface.flatten(huggingface.abstract(cfg))) > 0
    small = config.TextConfig(8, 4, 1, 1, 1, 4, 4)
    head = {"norm": {"weight": jnp.ones(4)}, "lm_head": jnp.ones((8, 4))}
    masked = decoding.logits(
        head,
        jnp.ones((1, 1, 1, 4)),
        cfg=config.LlavaConfig(CFG.vision, small, 6, real_vocab_size=6),
    )
    assert np.isfinite(masked[..., :6]).all()
    assert (np.asarray(masked[..., 6:]) == -np.inf).all()
