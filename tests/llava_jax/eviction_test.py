"""What is evicted before a text: whole budgets change nothing, choices are the papers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llava_jax import checkpoint, config, eviction, model, testing, text
from llava_jax.engine import Engine
from llava_jax.eviction import Eviction

PROMPT = np.array([1, 9, 200, 31, 77])
VISUAL, NEVER, STEPS = 16, -1, 5
P = len(PROMPT) + VISUAL
GROUPED = config.from_hf(testing.tiny_config())  # 4 heads share 2 keys
PLAIN = config.from_hf(testing.tiny_config(num_key_value_heads=4))


@pytest.fixture(scope="module")
def run():
    return Engine(testing.random_params(GROUPED, seed=4), GROUPED)


@pytest.fixture(scope="module")
def features():
    shape = (2, VISUAL, GROUPED.vision.width)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


LENGTHS = np.array([[9, 3], [5, 9]], np.int32)
IDS = np.random.default_rng(1).integers(5, 400, (2, 2, 9)).astype(np.int32)


def read(run, features, ids=IDS, lengths=LENGTHS, observers=0):
    kept = np.tile(np.arange(VISUAL, dtype=np.int32), (len(features), 1))
    prefix = run.prefill(run.begin(PROMPT), features, kept)
    return run.read(prefix, ids, lengths, observers=observers)


def evicted(run, features, how, ids=IDS, lengths=LENGTHS):
    return run.evict(read(run, features, ids, lengths, how.observers), how)


def alone(g, q):
    """Return a question's ids and length without padding."""
    length = LENGTHS[g, q]
    return IDS[g : g + 1, q : q + 1, :length], np.full((1, 1), length, np.int32)


METHODS = [Eviction("snapkv", 12, 4), Eviction("window", 12)]


@pytest.mark.parametrize("method", ["snapkv", "window"])
@pytest.mark.parametrize("budget", [P + 9, 1000])
def test_a_budget_for_the_whole_prompt_changes_nothing(run, features, method, budget):
    whole = run.say(read(run, features), NEVER, STEPS)
    context = evicted(run, features, Eviction(method, budget, 4))
    assert context.layers[0].prefix.keys.shape[1] == P + 9
    said = run.say(context, NEVER, STEPS)
    assert said.ids.tolist() == whole.ids.tolist()
    np.testing.assert_allclose(said.log_probs, whole.log_probs, atol=2e-6)  # sums in other order


@pytest.mark.parametrize("how", METHODS, ids=["snapkv", "window"])
def test_the_first_token_reads_all_and_later_ones_do_not(run, features, how):
    whole, some = read(run, features), evicted(run, features, how)
    np.testing.assert_array_equal(whole.logits, some.logits)
    whole, some = (run.say(context, NEVER, STEPS) for context in (whole, some))
    np.testing.assert_array_equal(whole.log_probs[..., 0], some.log_probs[..., 0])
    assert (abs(whole.log_probs - some.log_probs)[..., 1] > 1e-4).all()


@pytest.mark.parametrize("how", METHODS, ids=["snapkv", "window"])
def test_questions_together_are_as_each_alone(run, features, how):
    """Padding is never chosen: alone there is none."""
    together = evicted(run, features, how)
    said = run.say(together, NEVER, STEPS)
    for g, q in np.ndindex(2, 2):
        one = evicted(run, features[g : g + 1], how, *alone(g, q))
        for layer, own in zip(together.layers, one.layers, strict=True):
            assert layer.prefix.keys.shape[1] == how.budget
            assert np.asarray(layer.prefix_visible).all()
            assert int(layer.next_position[2 * g + q, 0]) == P + LENGTHS[g, q]
            for mine, theirs in zip(layer.prefix, own.prefix, strict=True):
                np.testing.assert_allclose(mine[2 * g + q], theirs[0], atol=1e-5)
        want = run.say(one, NEVER, STEPS)
        assert said.ids[g, q].tolist() == want.ids[0, 0].tolist()
        np.testing.assert_allclose(said.log_probs[g, q], want.log_probs[0, 0], atol=1e-5)


def test_a_prompt_that_is_shorter_than_the_cache_is_kept_whole(run, features):
    """One question's prompt fits, another's does not."""
    how = Eviction("snapkv", P + 5, 4)
    context = evicted(run, features, how)
    there = np.asarray(context.layers[0].prefix_visible)
    assert there.sum(-1).tolist() == [min(P + n, how.budget) for n in LENGTHS.ravel()]
    said, whole = run.say(context, NEVER, STEPS), run.say(read(run, features), NEVER, STEPS)
    for g, q in np.ndindex(2, 2):
        same = np.allclose(said.log_probs[g, q], whole.log_probs[g, q], atol=2e-6)
        assert same == (LENGTHS[g, q] <= 5)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def papers_choice(queries, keys, window, budget):
    """Return SnapKV's choice for one prompt, from the paper's §4 and its listing.

    Args:
        queries: [M, H, d], rotated.
        keys: [M, K, d], rotated.
        window: observers.
        budget: tokens kept in every head.

    Returns:
        K sets of tokens.
    """
    m, heads, width = queries.shape
    shared = keys.shape[1]
    found = []
    for group in range(shared):
        votes = np.zeros(m - window)
        for head in range(group * heads // shared, (group + 1) * heads // shared):
            for observer in range(m - window, m):
                scores = keys[: observer + 1, group] @ queries[observer, head] / np.sqrt(width)
                votes += softmax(scores)[: m - window]
        pooled = np.convolve(votes, np.ones(5) / 5, mode="same")
        best = np.argsort(-pooled, kind="stable")[: budget - window]
        found.append({*best.tolist(), *range(m - window, m)})
    return found


def whole_prompt(run, features, g, q):
    """Yield every layer's (queries [M, H, d], keys [M, K, d]) of one prompt, read at one go."""
    decoder, cfg, stage = run.params["text"], run.cfg.text, run.stage
    image = stage(model.project)(run.params["projector"], features[g : g + 1])[0]
    before, behind = text.embed(decoder, PROMPT), text.embed(decoder, alone(g, q)[0][0, 0])
    x = jnp.concatenate([before, image, behind])[None, None]
    positions = np.arange(x.shape[2])[None, None]
    nothing = text.empty_prefix(1, x.dtype, cfg=cfg)
    for layer in decoder["layers"]:
        queries, keys, _ = stage(text.query_key_value)(layer, x, positions, cfg=cfg)
        yield np.asarray(queries[0, 0], float), np.asarray(keys[0, 0], float)
        x, _ = stage(text.block)(layer, x, positions, nothing, cfg=cfg)


@pytest.mark.parametrize(("cfg", "budget"), [(GROUPED, 7), (PLAIN, 13)], ids=["grouped", "plain"])
def test_snapkv_keeps_what_the_paper_says(features, cfg, budget):
    run, window = Engine(testing.random_params(cfg, seed=4), cfg), 4
    context = evicted(run, features, Eviction("snapkv", budget, window))
    differ = 0
    for g, q in np.ndindex(2, 2):
        layers = zip(context.layers, whole_prompt(run, features, g, q), strict=True)
        for layer, (queries, keys) in layers:
            observers = min(window, LENGTHS[g, q])  # all text after the picture, at most
            chosen = papers_choice(queries, keys, observers, budget)
            differ += len(set(map(frozenset, chosen))) > 1
            for head, tokens in enumerate(chosen):
                got = layer.prefix.keys[2 * g + q, :, head]
                assert len(tokens) == budget
                np.testing.assert_allclose(got, keys[sorted(tokens), head], atol=1e-5)
    assert differ > 6, "heads choose for themselves"


def test_questions_read_without_observers_have_no_votes(run, features):
    with pytest.raises(ValueError, match="read the questions with observers=4"):
        run.evict(read(run, features), METHODS[0])


def test_the_window_keeps_the_first_and_the_last(run, features):
    context = evicted(run, features, Eviction("window", 10))
    for g, q in np.ndindex(2, 2):
        layers = zip(context.layers, whole_prompt(run, features, g, q), strict=True)
        for layer, (_, keys) in layers:
            want = np.concatenate([keys[:4], keys[-6:]])
            np.testing.assert_allclose(layer.prefix.keys[2 * g + q], want, atol=1e-5)


def test_votes_are_pooled_and_the_first_of_equals_is_kept():
    votes = np.zeros((1, 12), np.float32)
    votes[0, 5], votes[0, 9:] = 3.0, 100.0  # what is behind the tokens, or observes, has no vote
    count, observers = np.array([10]), np.array([1])
    for budget, want in ((2, [3]), (4, [3, 4, 5]), (6, [3, 4, 5, 6, 7]), (7, [0, 3, 4, 5, 6, 7])):
        kept = eviction.snapkv(votes[None], count, observers, budget)
        assert kept.tolist() == [[[*want, 9]]]
    short = eviction.snapkv(votes[None], np.array([3]), observers, 5)
    assert short.tolist() == [[[0, 1, 2, 3, 4]]]


def test_a_recent_window_of_few_tokens():
    kept = eviction.recent_window(np.array([3, 6, 9]), 6)
    assert kept.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 7, 8]]


def test_places_without_a_token_are_passed_over(run, features):
    """Above a cut that leaves each question another number of visual tokens."""
    context = read(run, features, observers=4)
    there = np.ones((2, P), bool)
    there[:, [6, 7, 15]] = False
    suffixes = context.suffixes
    for how in METHODS:
        for layer, suffix in zip(context.layers, suffixes, strict=True):
            hidden = layer._replace(
                prefix_visible=jnp.asarray(there), votes=layer.votes.at[..., [6, 7, 15]].set(9.0)
            )
            gone = layer._replace(
                prefix=text.KeyValue(*(x[:, there[0]] for x in layer.prefix)),
                votes=layer.votes[..., np.r_[np.flatnonzero(there[0]), P : P + 9]],
            )
            got, _ = eviction.evict_layer(hidden, suffix, LENGTHS, cfg=how)
            want, _ = eviction.evict_layer(gone, suffix, LENGTHS, cfg=how)
            jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
    ("method", "budget", "window"), [("snapkv", 32, 32), ("snapkv", 5, 0), ("window", 4, 1)]
)
def test_a_cache_without_a_choice_is_refused(method, budget, window):
    with pytest.raises(ValueError, match=f"a budget of {budget} prompt tokens and"):
        Eviction(method, budget, window)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")  # of transformers and torch, about themselves
@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("how", METHODS, ids=["snapkv", "window"])
def test_transformers_goes_on_from_the_same_cache(tmp_path, heads, how):
    """Its own cache, gathered at the chosen places, and the positions of the whole prompt."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    cfg = testing.write_checkpoint(tmp_path, num_key_value_heads=heads)
    run = Engine(checkpoint.load(tmp_path, cfg, np.float32), cfg)
    rng = np.random.default_rng(heads)
    pixels = rng.standard_normal((1, 32, 32, 3)).astype(np.float32)
    suffix = rng.integers(5, 400, 9).astype(np.int32)
    features = run.encode(pixels, ("features",)).require("features")
    asked = (suffix[None, None], np.full((1, 1), 9, np.int32))
    context = read(run, features, *asked, observers=how.observers)
    said = run.say(run.evict(context, how), NEVER, STEPS)

    reference = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    ids = torch.tensor([[*PROMPT.tolist(), *[cfg.image_token_id] * VISUAL, *suffix.tolist()]])
    count = ids.shape[1]
    with torch.no_grad():
        picture = torch.tensor(pixels.transpose(0, 3, 1, 2))
        out = reference(input_ids=ids, pixel_values=picture, use_cache=True)
        cache = out.past_key_values
        for layer, own in zip(cache.layers, context.layers, strict=True):
            if how.method == "snapkv":
                limits = np.array([[count]]), np.array([[how.window]])
                index = eviction.snapkv(own.votes, *limits, how.budget)[0, 0]
            else:
                index = np.tile(eviction.recent_window(np.array(count), how.budget), (heads, 1))
            at = torch.tensor(np.array(index), dtype=torch.long)[None, :, :, None]
            layer.keys, layer.values = (
                x.gather(2, at.expand(-1, -1, -1, x.shape[-1])) for x in (layer.keys, layer.values)
            )
        for step in range(STEPS):
            rows = torch.log_softmax(out.logits[0, -1].double(), -1)
            token = int(rows.argmax())
            assert said.ids[0, 0, step] == token
            np.testing.assert_allclose(said.log_probs[0, 0, step], rows[token], atol=1e-5)
            out = reference(
                input_ids=torch.tensor([[token]]),
                past_key_values=cache,
                position_ids=torch.tensor([[count + step]]),
                attention_mask=torch.ones(1, how.budget + step + 1, dtype=torch.long),
            )
    assert cache.get_seq_length() == how.budget + STEPS
