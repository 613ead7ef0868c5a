"""Answers a benchmark's questions under every setting of the grid and records the evidence.

Each picture is encoded once and each greedy order computed once for the whole grid; all questions
of a picture share one prefix per setting. Axis letters: G pictures, Q questions, N visual tokens,
K kept, V vocabulary, C choices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import calibration
import pruning
from experiments.harness import batching, records
from experiments.harness.benchmark import Dataset
from experiments.harness.config import RunConfig, Setting
from experiments.harness.errors import InputError
from experiments.harness.folder import RunFolder
from experiments.harness.source import Source
from llava_jax import model, prompts
from llava_jax.engine import Engine


@dataclasses.dataclass(frozen=True)
class Job:
    """One setting that still lacks answers.

    Attributes:
        setting: what to run.
        folder: where its records go.
        done: keys answered before.
        writer: appends to its shard.
    """

    setting: Setting
    folder: RunFolder
    done: frozenset[str]
    writer: records.Writer


def batch_size() -> int:
    """Return pictures per batch: one on CPU, where larger batches fall out of the cache."""
    return 1 if jax.default_backend() == "cpu" else 8


def evaluate(
    jobs: Sequence[Job],
    batches: Sequence[tuple[batching.ImageGroup, ...]],
    dataset: Dataset,
    source: Source,
    config: RunConfig,
    *,
    between: Callable[[int], None],
) -> int:
    """Answer what is not answered yet, batch by batch, every setting of a batch in turn.

    Args:
        jobs: the settings.
        batches: the plan of the whole run.
        dataset: opens the pictures.
        source: the model.
        config: the run.
        between: called after every batch of a setting with the rows made durable; may raise
            to stop there.

    Returns:
        Rows that failed.

    Raises:
        InputError: a picture cannot be read and ``--allow_failed`` is not given.
    """
    engine, failed = source.load(), 0
    prompt_ids = jnp.asarray(source.tokenizer.first(prompts.vicuna_v1("")[0]))
    outputs = tuple({"features", *(need for job in jobs for need in job.setting.pruner.needs)})
    for groups in batches:
        keys = [row.key for group in groups for row in group.rows]
        pending = [job for job in jobs if not job.done.issuperset(keys)]
        if not pending:
            continue
        batch = batching.collate(
            groups,
            dataset,
            source.tokenizer,
            image_size=source.cfg.vision.image_size,
            preprocessing=config.preprocessing,
        )
        _refuse_unreadable(batch, config)
        vision = engine.encode(jnp.asarray(batch.pixels), outputs)
        orders = _orders([job.setting for job in pending], vision, batch)
        for job in pending:
            kept = handed_over(orders[_selector(job.setting)], job.setting)
            logits = _answer(engine, prompt_ids, vision, kept, batch, job.setting)
            rows, failures = to_records(logits, kept, batch, source, job)
            job.writer.append(rows, failures)
            failed += len(failures)
            between(len(rows))
    return failed


def _refuse_unreadable(batch: batching.ImageBatch, config: RunConfig) -> None:
    for group in batch.groups:
        if group.image in batch.unreadable and not config.allow_failed:
            key = group.rows[0].key
            reason = batch.unreadable[group.image]
            raise InputError(f"question {key}: {reason} (--allow_failed goes on without it)")


def _selector(setting: Setting) -> tuple[Any, ...]:
    """Return what an order of selection depends on; nested pruners share it over budgets."""
    values = tuple(pruning.hyperparameters(setting.pruner).values())
    budget = None if setting.pruner.nested else setting.budget
    return (setting.name, values, setting.seed, budget)


def _orders(
    settings: Sequence[Setting], vision: model.VisionOutputs, batch: batching.ImageBatch
) -> dict[tuple[Any, ...], np.ndarray]:
    """Return int32[G, K_max] in order of selection, one per selector."""
    tokens = pruning.Tokens(
        **{field.name: getattr(vision, field.name) for field in dataclasses.fields(vision)}
    )
    largest: dict[tuple[Any, ...], Setting] = {}
    for setting in settings:
        other = largest.get(_selector(setting), setting)
        largest[_selector(setting)] = max(setting, other, key=lambda s: s.budget)
    orders = {}
    for selector, setting in largest.items():
        keys = jnp.stack([pruning.image_key(setting.seed or 0, g.image) for g in batch.groups])
        orders[selector] = np.asarray(pruning.select(setting.pruner, tokens, setting.budget, keys))
    return orders


def handed_over(selected: np.ndarray, setting: Setting) -> np.ndarray:
    """Return the kept tokens int32[G, K] in the order the decoder gets them.

    Args:
        selected: int32[G, ≥K], in order of selection.
        setting: says how many to keep, and in which order to hand them over.

    Raises:
        RuntimeError: the pruner did not choose K different tokens; its name is given.
    """
    kept = selected[:, : setting.budget]
    if any(len(np.unique(row)) != setting.budget for row in kept):
        raise RuntimeError(f"pruner {setting.name} did not keep {setting.budget} different tokens")
    return np.sort(kept, axis=1) if setting.order == "raster" else kept


def _answer(
    engine: Engine,
    prompt_ids: jax.Array,
    vision: model.VisionOutputs,
    kept: np.ndarray,
    batch: batching.ImageBatch,
    setting: Setting,
) -> jax.Array:
    """Return first-token logits float32[G, Q, V] from the kept tokens alone."""
    prefix = engine.prefill(
        prompt_ids,
        vision.require("features"),
        jnp.asarray(kept),
        original_positions=setting.positions == "original",
    )
    if prefix.length != len(prompt_ids) + setting.budget:
        raise RuntimeError(f"the prefix has {prefix.length} tokens, not K = {setting.budget} more")
    return engine.answer(prefix, jnp.asarray(batch.suffix_ids), jnp.asarray(batch.lengths))


def to_records(
    logits: jax.Array, kept: np.ndarray, batch: batching.ImageBatch, source: Source, job: Job
) -> tuple[list[records.Record], list[records.Failure]]:
    """Turn a batch's logits into rows: arrays in, strings out.

    Args:
        logits: float32[G, Q, V].
        kept: int32[G, K].
        batch: whose questions were asked.
        source: names the answers' tokens.
        job: the setting; rows it has already are left out.

    Returns:
        (rows, rows that failed), in the order of the plan.
    """
    evidence = _evidence(logits, batch, source.tokenizer)
    tokens = np.asarray(logits.argmax(-1))
    rows, failures = [], []
    for g, group in enumerate(batch.groups):
        mask = records.pack_mask(kept[g], source.cfg.vision.num_tokens)
        for q, question in enumerate(group.questions):
            masses, total = (x[g, q].tolist() for x in evidence[question[0].choices])
            reason = batch.unreadable.get(group.image)
            if not reason and not np.isfinite([*masses, total]).all():
                reason = f"the answers' log masses are not finite: {masses}"
            for row in question:
                if row.key in job.done:
                    continue
                if reason:
                    failures.append(records.Failure(row.key, row.image, reason, job.folder.run))
                    continue
                rows.append(
                    records.Record(
                        key=row.key,
                        image=row.image,
                        split=row.split,
                        label=row.label,
                        log_masses=tuple(masses),
                        answer_log_mass=total,
                        token=int(tokens[g, q]),
                        text=None,
                        budget=job.setting.budget,
                        kept=mask,
                        run=job.folder.run,
                    )
                )
    return rows, failures


def _evidence(
    logits: jax.Array, batch: batching.ImageBatch, tokenizer: prompts.Tokenizer
) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """Return choices → (log masses float32[G, Q, C], their total float32[G, Q])."""
    kinds = dict.fromkeys(q[0].choices for group in batch.groups for q in group.questions)
    found = {}
    for choices in kinds:
        id_sets = tuple(tokenizer.answer_ids(spellings) for spellings in choices)
        masses, total = _answer_log_masses(logits, id_sets)
        found[choices] = (np.asarray(masses), np.asarray(total))
    return found


_answer_log_masses = jax.jit(calibration.answer_log_masses, static_argnames="id_sets")
