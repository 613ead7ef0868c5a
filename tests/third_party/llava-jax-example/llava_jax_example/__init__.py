"""A token pruner for llava-jax."""
