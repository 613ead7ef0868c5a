"""Answer probabilities: from logits over the vocabulary to a confidence.

Axis legend: E examples, C choices, V vocabulary. Leading axes `...` are free.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp

from .rows import float_dtype


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopLabel:
    """The predicted choice and how sure the model is of it.

    Attributes:
        confidence: float[...], c = p_max in [0, 1]; NaN for an invalid row.
        margin: float[...], log-odds log c − log(1 − c); ranks rows where c saturates.
        prediction: int32[...], index of the choice, the lowest at a tie.
        correct: bool[...], prediction == label.
    """

    confidence: jax.Array
    margin: jax.Array
    prediction: jax.Array
    correct: jax.Array


def answer_log_masses(
    logits: jax.Array, id_sets: tuple[tuple[int, ...], ...]
) -> tuple[jax.Array, jax.Array]:
    """Gather the log probability mass of each choice under the full softmax.

    log mₖ = log Σ_{v ∈ Sₖ} exp z_v − log Σ_v exp z_v.

    Args:
        logits: float[..., V] at the answer's first position; half precision is
            computed in float32.
        id_sets: for each choice the token ids that spell it, disjoint and not empty.

    Returns:
        log_masses: float[..., C], and answer_log_mass: float[...] = log Σₖ mₖ ≤ 0, the
        share of the whole softmax that is on the choices.

    Raises:
        ValueError: if a set is empty, or an id is out of range or in two places.
    """
    vocabulary = logits.shape[-1]
    _check_id_sets(id_sets, vocabulary)
    logits = logits.astype(float_dtype(logits))
    total = jax.nn.logsumexp(logits, axis=-1)
    masses = [jax.nn.logsumexp(logits[..., jnp.asarray(ids)], axis=-1) - total for ids in id_sets]
    log_masses = jnp.stack(masses, axis=-1)
    return log_masses, jnp.minimum(jax.nn.logsumexp(log_masses, axis=-1), 0)


def _check_id_sets(id_sets: tuple[tuple[int, ...], ...], vocabulary: int) -> None:
    """Raise ValueError unless the sets are disjoint, non-empty and in range."""
    if not id_sets:
        raise ValueError("id_sets is empty; give one set of token ids per choice")
    for choice, ids in enumerate(id_sets):
        if not ids:
            raise ValueError(f"id_sets[{choice}] is empty; give the choice's token ids")
    counts = collections.Counter(itertools.chain(*id_sets))
    for token, count in counts.items():
        if not 0 <= token < vocabulary:
            raise ValueError(f"token id {token} is outside [0, {vocabulary})")
        if count > 1:
            raise ValueError(f"token id {token} is listed {count} times, not once")


def valid_choices(log_masses: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Return the mask of choices a row offers, all of them where none is given.

    Args:
        log_masses: float[..., C].
        valid: bool[..., C] or None.

    Returns:
        bool[..., C].

    Raises:
        AssertionError: if the shapes differ.
    """
    if valid is None:
        return jnp.ones(log_masses.shape, bool)
    chex.assert_equal_shape([log_masses, valid])
    return jnp.asarray(valid, bool)


def invalid_rows(log_masses: jax.Array, valid: jax.Array) -> jax.Array:
    """Mark rows with a valid choice that is not finite, or with no valid choice.

    Args:
        log_masses: float[..., C].
        valid: bool[..., C].

    Returns:
        bool[...].
    """
    finite = jnp.all(jnp.isfinite(log_masses) | ~valid, axis=-1)
    return ~(finite & jnp.any(valid, axis=-1))


def top_label(
    log_masses: jax.Array,
    label: jax.Array,
    valid: jax.Array | None = None,
    *,
    prediction: jax.Array | None = None,
) -> TopLabel:
    """Pick the likeliest valid choice, with its probability and log-odds margin.

    p = softmax(z) over the valid choices, ŷ = argmaxₖ pₖ, the first of equals,
    margin = z_ŷ − log Σ_{k≠ŷ} exp zₖ = log p_ŷ − log(1 − p_ŷ), exactly |z₀ − z₁| for
    two choices and +∞ for one; confidence = σ(margin).

    Args:
        log_masses: float[..., C], any logits over the choices.
        label: int[...], index of the right choice.
        valid: bool[..., C], choices that the question has; None is all.
        prediction: int[...], the choice that was given as the answer, where it is not the
            likeliest; the confidence is then that of the answer given.

    Returns:
        TopLabel of shape [...]; NaN where the prediction is not a valid choice.

    Raises:
        AssertionError: if the shapes do not fit.
    """
    chex.assert_shape(label, log_masses.shape[:-1])
    valid = valid_choices(log_masses, valid)
    log_masses = log_masses.astype(float_dtype(log_masses))
    scores = jnp.where(valid, log_masses, -jnp.inf)
    if prediction is None:
        prediction = jnp.argmax(scores, axis=-1)
    chex.assert_equal_shape([label, prediction])
    prediction = prediction.astype(jnp.int32)
    predicted = jax.nn.one_hot(prediction, scores.shape[-1], dtype=bool)
    scores -= _highest(scores)
    rest = jax.nn.logsumexp(jnp.where(predicted, -jnp.inf, scores), axis=-1)
    margin = jnp.max(jnp.where(predicted, scores, -jnp.inf), axis=-1) - rest
    offered = jnp.any(predicted & valid, axis=-1)
    margin = jnp.where(invalid_rows(log_masses, valid) | ~offered, jnp.nan, margin)
    return TopLabel(jax.nn.sigmoid(margin), margin, prediction, prediction == label)


def _highest(scores: jax.Array) -> jax.Array:
    """Return the likeliest choice's score, 0 if none is finite: float[..., 1].

    Less that, scores far below zero, which float32 spaces widely, lose no more digits.
    """
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    return jnp.where(jnp.isfinite(top), top, 0)


def choice_probabilities(log_masses: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Normalise over the valid choices, pₖ = exp zₖ / Σⱼ exp zⱼ; 0 for the others.

    Args:
        log_masses: float[..., C], any logits over the choices.
        valid: bool[..., C]; None is all.

    Returns:
        float[..., C], NaN for an invalid row.

    Raises:
        AssertionError: if the shapes do not fit.
    """
    valid = valid_choices(log_masses, valid)
    log_masses = log_masses.astype(float_dtype(log_masses))
    invalid = invalid_rows(log_masses, valid)[..., None]
    scores = jnp.where(valid & ~invalid, log_masses, -jnp.inf)
    probabilities = jax.nn.softmax(jnp.where(invalid, 0, scores), axis=-1)
    return jnp.where(invalid, jnp.nan, probabilities)


def label_log_prob(
    log_masses: jax.Array, label: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Take the log probability of the right choice among the valid ones.

    log p_y = z_y − log Σₖ exp zₖ; −∞ if the label is not a valid choice.

    Args:
        log_masses: float[..., C], any logits over the choices.
        label: int[...].
        valid: bool[..., C]; None is all.

    Returns:
        float[...] ≤ 0; NaN for an invalid row.

    Raises:
        AssertionError: if the shapes do not fit.
    """
    chex.assert_shape(label, log_masses.shape[:-1])
    valid = valid_choices(log_masses, valid)
    log_masses = log_masses.astype(float_dtype(log_masses))
    invalid = invalid_rows(log_masses, valid)
    is_label = jax.nn.one_hot(label, log_masses.shape[-1], dtype=bool) & valid
    counted = valid & ~invalid[..., None]
    below = log_masses - _highest(jnp.where(counted, log_masses, -jnp.inf))
    safe = jnp.where(counted, below, 0)  # finite gradients
    total = jax.nn.logsumexp(safe, axis=-1, where=valid | invalid[..., None])
    log_prob = jnp.sum(jnp.where(is_label, safe, 0), axis=-1) - total
    log_prob = jnp.where(jnp.any(is_label, axis=-1), log_prob, -jnp.inf)
    return jnp.where(invalid, jnp.nan, log_prob)
