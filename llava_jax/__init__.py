"""LLaVA-1.5 in JAX and Flax, as pure functions over a plain tree of parameters."""
