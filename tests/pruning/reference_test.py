"""SCOPE in half precision against the same formula in torch, which rounds each step itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning._ops import cosine_similarity

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.reference

N, D, K = 144, 256, 64


def image(seed):
    """Return features float16[N, D] and saliency float16[N] like those of a vision tower."""
    rng = np.random.default_rng(seed)
    centres = 0.8 * rng.normal(size=D) + rng.normal(size=(20, D))
    features = centres[rng.integers(0, 20, N)] + 0.7 * rng.normal(size=(N, D))
    saliency = 16 * rng.dirichlet(np.full(N, 0.5))
    return features.astype(np.float16), saliency.astype(np.float16)


def torch_similarity(features):
    unit = features / features.norm(dim=-1, keepdim=True)
    return unit @ unit.T


def torch_greedy(similarity, weight, gamma, combine):
    """Return the picks, every intermediate a float16 tensor."""
    coverage = torch.zeros_like(weight)
    free = torch.ones_like(weight, dtype=torch.bool)
    picks = []
    for _ in range(K):
        gap = torch.clamp(similarity - coverage[:, None], min=0)
        gain = (gap if gamma == 1 else gap**gamma).sum(dim=0)
        assert gain.dtype == torch.float16
        score = gain * weight if combine == "multiply" else gain + weight
        best = int(torch.where(free, score, -torch.inf).argmax())
        picks.append(best)
        free[best] = False
        coverage = torch.maximum(coverage, similarity[best])
    return picks


def ours(features, saliency, alpha, gamma, combine):
    scope = pruning.Scope(alpha=alpha, gamma=gamma, combine=combine, select_dtype="float16")
    tokens = pruning.Tokens(features=features[None], saliency=saliency[None])
    return pruning.select(scope, tokens, K, jax.random.split(jax.random.key(0), 1))[0].tolist()


SETTINGS = [
    (1.0, 1.0, "multiply"),
    (0.5, 1.0, "multiply"),
    (0.0, 1.0, "multiply"),
    (1.0, 1.5, "multiply"),
    (0.0, 0.5, "multiply"),
    (1.0, 1.0, "add"),
]


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only wait for each other on tensors as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("alpha", "gamma", "combine"), SETTINGS)
def test_half_precision_picks_equal_torch(alpha, gamma, combine):
    """From the same similarities, because sums of products in another order round otherwise."""
    for seed in range(3):
        features, saliency = image(seed)
        similarity = np.asarray(cosine_similarity(jnp.asarray(features), "float16"))
        half = torch.tensor(similarity).to(torch.float16)
        assert (half.to(torch.float32).numpy() == similarity).all()
        weight = torch.tensor(saliency) ** alpha
        got = ours(jnp.asarray(features), jnp.asarray(saliency), alpha, gamma, combine)
        assert got == torch_greedy(half, weight, gamma, combine)


def test_half_precision_cosines_equal_torch_up_to_the_order_of_sums():
    for seed in range(3):
        features, _ = image(seed)
        got = np.asarray(cosine_similarity(jnp.asarray(features), "float16"))
        want = torch_similarity(torch.tensor(features)).to(torch.float32).numpy()
        # Where the float32 sum is next to a rounding border, one half-precision step: 2⁻¹¹.
        np.testing.assert_allclose(got, want, atol=2**-11)
        assert (got == want).mean() > 0.99
