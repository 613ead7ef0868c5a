"""Lazy greedy selection against the dense definition, bit for bit, and what that rests on.

Axes: N visual tokens · D width · K tokens kept.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning import _greedy
from pruning._ops import cosine_similarity, round_to

N, D = 77, 8  # no multiple of a block, a lane or a power of two
GAMMAS = [0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 0.3]
SETTINGS = [
    *[(gamma, "multiply", "float32") for gamma in GAMMAS],
    *[(gamma, "add", "float32") for gamma in (0.3, 1.0, 1.5)],
    *[(gamma, "multiply", "float16") for gamma in (0.3, 1.0, 2.0)],
    *[(gamma, "add", "float16") for gamma in (1.0, 1.5)],
]


def clustered(rng, num_tokens=N, width=D, noise=0.3):
    centres = rng.normal(size=(6, width)) + rng.normal(size=width)
    return centres[rng.integers(0, 6, num_tokens)] + noise * rng.normal(size=(num_tokens, width))


def images(seed):
    """Return name → (features[N, D], saliency[N]); most are full of exact ties."""
    rng = np.random.default_rng(seed)
    random, groups = rng.normal(size=(N, D)), clustered(rng)
    uniform, peaked = rng.uniform(0.1, 1, N), rng.dirichlet(np.full(N, 0.3))
    steps = rng.integers(0, 4, N) / 4
    quantised = rng.integers(-1, 2, (N, D)).astype(float)  # some of norm zero
    duplicated = random[rng.integers(0, 9, N)]
    orthogonal = np.eye(N)[:, rng.permutation(N)[:D]]  # all but D tokens of norm zero
    return {
        "random": (random, uniform),
        "pure coverage": (random, np.ones(N)),
        "clustered": (groups, peaked),
        "clustered, pure coverage": (groups, np.ones(N)),
        "duplicated": (duplicated, steps),
        "duplicated, pure coverage": (duplicated, np.ones(N)),
        "quantised": (quantised, steps),
        "quantised, pure coverage": (quantised, np.ones(N)),
        "half without saliency": (random, np.where(np.arange(N) % 2, uniform, 0)),
        "no saliency": (random, np.zeros(N)),
        "infinite saliency": (quantised, np.where(np.arange(N) % 9, steps, np.inf)),
        "orthogonal": (orthogonal, steps),
        "constant": (np.ones((N, D)), np.ones(N)),
        "not a number": (np.where(np.arange(N)[:, None] == 40, np.nan, random), uniform),
    }


@functools.partial(jax.jit, static_argnames=("form", "score", "budget"))
def run(form, score, similarity, weight, budget):
    """Run one form on a stack of images, one after the other."""
    return jax.lax.map(lambda image: form(score, *image, budget), (similarity, weight))


def stacked(seed, dtype="float32"):
    """Return the names, float32[images, N, N] similarities and float32[images, N] weights."""
    named = images(seed)
    features, saliency = (
        jnp.asarray(np.stack(x), jnp.float32) for x in zip(*named.values(), strict=True)
    )
    similarity = jax.jit(cosine_similarity, static_argnames="dtype")
    similarity = [similarity(image, dtype=dtype) for image in features]
    return list(named), jnp.stack(similarity), round_to(saliency, dtype)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_lazy_equals_dense_bit_for_bit(setting):
    score = _greedy.Score(*setting)
    for seed in range(2):
        names, similarity, weight = stacked(seed, setting[2])
        lazy, dense = (
            np.asarray(run(form, score, similarity, weight, N))
            for form in (_greedy.lazy, _greedy.dense)
        )
        for name, got, want in zip(names, lazy, dense, strict=True):
            np.testing.assert_array_equal(got, want, err_msg=f"{name}, seed {seed}")
            assert sorted(got) == list(range(N)), name


@pytest.mark.parametrize(
    ("num_tokens", "gamma"), [(1, 1.0), (5, 1.0), (16, 1.0), (576, 1.0), (576, 1.5)]
)
def test_lazy_equals_dense_at_every_size(num_tokens, gamma):
    rng = np.random.default_rng(num_tokens)
    features = jnp.asarray(clustered(rng, num_tokens, 32, 0.8), jnp.float32)
    similarity = jax.jit(cosine_similarity)(features)[None]
    score = _greedy.Score(gamma, "multiply", "float32")
    weights = [np.ones(num_tokens), rng.dirichlet(np.full(num_tokens, 0.5))]
    for weight in jnp.asarray(weights, jnp.float32)[:, None]:
        budget = min(num_tokens, 192)
        lazy = run(_greedy.lazy, score, similarity, weight, budget)
        np.testing.assert_array_equal(lazy, run(_greedy.dense, score, similarity, weight, budget))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lazy_is_right_in_lockstep(dtype):
    """Under `vmap` all images go on until the last one is done."""
    score = _greedy.Score(1.0, "multiply", dtype)
    _, similarity, weight = stacked(0, dtype)
    together = jax.jit(jax.vmap(lambda *image: _greedy.lazy(score, *image, 50)))
    alone = run(_greedy.lazy, score, similarity, weight, 50)
    np.testing.assert_array_equal(together(similarity, weight), alone)


def test_a_lazy_order_answers_smaller_budgets():
    score = _greedy.Score(1.5, "multiply", "float32")
    _, similarity, weight = stacked(1)
    order = run(_greedy.lazy, score, similarity, weight, N)
    for budget in (1, 2, 17, 64):
        smaller = run(_greedy.lazy, score, similarity, weight, budget)
        np.testing.assert_array_equal(smaller, order[:, :budget])


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("num_tokens", [20, 100, 300])
def test_a_score_does_not_depend_on_how_many_are_computed(num_tokens, gamma):
    """Else a bound from one shape could lie below a score from another."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(clustered(rng, num_tokens, 32), jnp.float32)
    similarity = jax.jit(cosine_similarity)(features)
    coverage = jnp.maximum(0.7 * similarity[3], 0.9 * similarity[num_tokens // 2])
    weight = jnp.asarray(rng.uniform(0.1, 1, num_tokens), jnp.float32)
    score = _greedy.Score(gamma, "multiply", "float32")

    @jax.jit
    def some(rows, coverage):
        return jax.vmap(score, (0, 0, None))(similarity[rows], weight[rows], coverage)

    everything = jax.jit(jax.vmap(score, (0, 0, None)))(similarity, weight, coverage)
    for count in (1, 16):
        rows = jnp.asarray(rng.choice(num_tokens, count, replace=False))
        np.testing.assert_array_equal(some(rows, coverage), everything[rows])


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_a_compiled_score_is_the_written_one(gamma):
    """Step by step, where no product can be contracted with an addition."""
    rng = np.random.default_rng(0)
    rows = jnp.asarray(rng.uniform(0, 1, (9, 150)), jnp.float32)
    coverage = jnp.asarray(rng.uniform(0, 0.5, 150), jnp.float32)
    score = _greedy.Score(gamma, "multiply", "float32")
    steps = [score(row, jnp.float32(0.3), coverage) for row in rows]
    compiled = jax.jit(jax.vmap(lambda row: score(row, jnp.float32(0.3), coverage)))(rows)
    np.testing.assert_array_equal(compiled, jnp.stack(steps))


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("combine", ["multiply", "add"])
def test_half_precision_scores_equal_numpys(combine, gamma):
    rng = np.random.default_rng(0)
    rows, coverage = (rng.uniform(0, 1, (3000, 3)).astype(np.float16) for _ in range(2))
    coverage *= np.float16(2.0) ** rng.integers(-12, 1, coverage.shape).astype(np.float16)
    weight = rng.uniform(0, 2, 3000).astype(np.float16)
    gap = np.maximum(rows - coverage, np.float16(0))
    gain = gap if gamma == 1 else gap * gap
    total = gain.astype(np.float32).sum(axis=1).astype(np.float16)
    expected = total * weight if combine == "multiply" else total + weight
    score = jax.jit(jax.vmap(_greedy.Score(gamma, combine, "float16")))
    got = score(*(jnp.asarray(x, jnp.float32) for x in (rows, weight, coverage)))
    np.testing.assert_array_equal(got, expected.astype(np.float32))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_score_never_rises(setting):
    """A single bit more than the bound, and lazy selection is no longer exact."""
    dtype = setting[2]
    names, similarity, weight = stacked(2, dtype)
    image = names.index("clustered")
    similarity, weight = similarity[image], weight[image]
    scores = jax.jit(jax.vmap(_greedy.Score(*setting), (0, 0, None)))
    coverage, before = jnp.zeros(N), jnp.full(N, jnp.inf)
    for row in np.random.default_rng(0).permutation(N):
        # About the smallest step there is, then a real one.
        nudged = round_to(coverage * (1 + jnp.finfo(dtype).eps), dtype)
        for coverage in (nudged, jnp.maximum(nudged, similarity[row])):
            after = scores(similarity, weight, coverage)
            assert (after <= before).all()
            before = after


@pytest.mark.parametrize("exponent", [*GAMMAS, 0.25, 1.25, 4.75, 8.0, 9.0])
def test_a_power_is_accurate_and_rises(exponent):
    some = np.random.default_rng(0).uniform(0, 1, 2000).astype(np.float32)
    dense = np.arange(2**16, dtype=np.int32) + np.float32(0.3).view(np.int32)
    power = jax.jit(lambda x: _greedy.power(x, exponent))
    exact = some.astype(np.float64) ** exponent
    # Roots are off by half a unit in the last place, 6e-8, products by half a unit each.
    large = exact > 1e-30
    np.testing.assert_allclose(power(some)[large], exact[large], rtol=6e-7)
    assert (np.diff(power(dense.view(np.float32))) >= 0).all()
    assert power(np.zeros(3, np.float32)).tolist() == [0, 0, 0]


def test_round_to_is_the_cast():
    rng = np.random.default_rng(0)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[1:] + halves[:-1]) / 2  # ties go to even
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65519.9, 65520.0, 1e30, 2.0**-25]
    many = rng.normal(size=5000) * 10.0 ** rng.integers(-9, 6, 5000)
    values = np.concatenate([halves, middles, -middles, special, many]).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float32)
    rounded = jax.jit(round_to, static_argnums=1)
    np.testing.assert_array_equal(rounded(values, "float16"), expected)
    np.testing.assert_array_equal(rounded(values, "float32"), values)


@pytest.mark.parametrize("num_tokens", [2, 193, 1700])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cosines_are_symmetric_bit_for_bit(num_tokens, dtype):
    """Rows are used as columns."""
    rng = np.random.default_rng(0)
    features = rng.normal(0.3, 1, (num_tokens, 300)).astype(np.float32)
    similarity = jax.jit(cosine_similarity, static_argnames="dtype")
    got = np.asarray(similarity(jnp.asarray(features), dtype=dtype))
    np.testing.assert_array_equal(got, got.T)
    exact = features.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    # One of 1700² running sums over 256 products is off by 7e-7. Half precision: inputs, norms,
    # unit vectors and the result are rounded, 5e-4 each.
    atol = 1e-6 if dtype == "float32" else 2e-3
    np.testing.assert_allclose(got, exact @ exact.T, atol=atol)


def lowered(num_tokens, platform):
    """Return the program that `scope` is on a platform, without compiling it."""
    features = jax.ShapeDtypeStruct((num_tokens, D), jnp.float32)
    scope = jax.jit(lambda features: pruning.scope(features, None, 4))
    return scope.trace(features).lower(lowering_platforms=(platform,)).as_text()


def test_each_platform_runs_the_form_that_suits_it():
    assert "top_k" in lowered(N, "cpu")
    assert "top_k" not in lowered(N, "cuda")
    assert "top_k" not in lowered(N, "tpu")
    assert "top_k" in lowered(_greedy._DENSE_UP_TO + 1, "cuda")
