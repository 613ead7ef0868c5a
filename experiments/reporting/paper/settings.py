"""The settings of the paper's study, as its tables name them."""

from __future__ import annotations

from typing import Any

from experiments.reporting.paper import published

BUDGETS = (32, 48, 64, 96, 128, 192, 256)
GAMMAS = (0.5, 1.5, 2.0, 3.0)
ALPHAS = (0.0, 0.5, 1.0)
SPLITS = ("adversarial", "popular", "random")
BENCHMARKS = {
    "MME": "mme",
    "MMB": "mmbench",
    "SQA": "scienceqa",
    "TVQA": "textvqa",
    "POPE": "pope",
    "SEED": "seed",
    "GQA": "gqa",
}
"""What Table 6 calls a benchmark → its name here."""
PAPERS_GAMMA = (1.0, GAMMAS[2])
"""α and γ that are compared with Table 6's third column."""


def scope(budget: int, alpha: float = 1.0, gamma: float = 1.0) -> dict[str, Any]:
    """Return SCOPE at a budget; full tokens at the paper's 576."""
    if budget == published.FULL_BUDGET:
        return full()
    own = {"alpha": alpha, "gamma": gamma, "order": "raster", "positions": "contiguous"}
    return {"pruner": "scope", "budget": budget} | own


def full() -> dict[str, Any]:
    """Return full tokens, whatever their number."""
    return {"pruner": "none"}


def named(pruner: str, budget: int) -> dict[str, Any]:
    """Return a row of Table 3, such as ``scope alpha=0``, as a setting."""
    name, _, alpha = pruner.partition(" alpha=")
    if name == "none":
        return full()
    return scope(budget, float(alpha)) if name == "scope" else {"pruner": name, "budget": budget}


def scope_of(alpha: float, gamma: float) -> dict[str, Any]:
    """Return SCOPE with both exponents, at any budget."""
    return {name: x for name, x in scope(0, alpha, gamma).items() if name != "budget"}
