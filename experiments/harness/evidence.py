"""Logits become records: the place where arrays turn into strings.

Axis letters: G pictures, Q questions, N visual tokens, K kept, V vocabulary, C choices.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

import calibration
from experiments.harness import batching, loading, records
from experiments.harness.answering import Answers
from experiments.harness.folder import RunFolder
from experiments.harness.grid import Setting
from experiments.harness.source import Source
from llava_jax import prompts


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


def to_records(
    answers: Answers, ready: loading.Loaded, source: Source, job: Job
) -> tuple[list[records.Record], list[records.Failure]]:
    """Turn a batch's logits into rows: arrays in, strings out.

    Args:
        answers: of the batch.
        ready: the batch whose questions were asked.
        source: names the answers' tokens.
        job: the setting; rows it has already are left out.

    Returns:
        (rows, rows that failed), in the order of the plan.
    """
    evidence, tokens = _evidence(answers.logits, ready.batch, source.tokenizer)
    num_tokens = source.cfg.vision.num_tokens
    rows, failures = [], []
    for g, group in enumerate(ready.batch.groups):
        masks = [records.pack_mask(kept, num_tokens) for kept in answers.kept[g]]
        for q, question in enumerate(group.questions):
            masses, total = (x[g, q].tolist() for x in evidence[question[0].choices])
            reason = ready.unreadable.get(group.image)
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
                        kept=masks[q if len(masks) > 1 else 0],
                        run=job.folder.run,
                    )
                )
    return rows, failures


def _evidence(
    logits: jax.Array, batch: batching.ImageBatch, tokenizer: prompts.Tokenizer
) -> tuple[dict[Any, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Return choices → (log masses float32[G, Q, C], their total [G, Q]), and first tokens [G, Q].

    All kinds of choices are read in one program.
    """
    kinds = tuple(dict.fromkeys(q[0].choices for group in batch.groups for q in group.questions))
    id_sets = tuple(tuple(map(tokenizer.answer_ids, choices)) for choices in kinds)
    masses, tokens = jax.device_get(_read_answers(logits, id_sets))
    return dict(zip(kinds, masses, strict=True)), tokens


@functools.partial(jax.jit, static_argnames="id_sets")
def _read_answers(
    logits: jax.Array, id_sets: tuple[Any, ...]
) -> tuple[list[tuple[jax.Array, jax.Array]], jax.Array]:
    return [calibration.answer_log_masses(logits, ids) for ids in id_sets], logits.argmax(-1)
