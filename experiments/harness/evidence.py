"""Logits become records: the place where arrays turn into strings.

Axis letters: G pictures, Q questions, N visual tokens, K kept, V vocabulary, C choices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import calibration
from experiments.harness import batching, loading, objects, records, shards, views
from experiments.harness.answering import Answers
from experiments.harness.folder import RunFolder
from experiments.harness.grid import Setting
from experiments.harness.source import Source
from llava_jax import generation, prompts


@dataclasses.dataclass(frozen=True)
class Job:
    """One setting that still lacks answers.

    Attributes:
        setting: what to run.
        folder: where its records go.
        done: keys that have a record.
        writer: appends to its shard; None where another process writes.
    """

    setting: Setting
    folder: RunFolder
    done: set[str]
    writer: shards.Shard | objects.Segments | None

    def append(
        self, rows: Sequence[records.Record], failures: Sequence[records.Failure] = ()
    ) -> None:
        """Write rows; then they are done."""
        if self.writer is not None:
            self.writer.append(rows, failures)
        self.done.update(row.key for row in rows)

    def sync(self) -> None:
        """Wait until what was written is on the disk; any thread may."""
        if self.writer is not None:
            self.writer.sync()


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
    read = _evidence(answers.logits, ready.batch, source.tokenizer)
    num_tokens = views.num_tokens(source.cfg, ready.batch.layout)
    rows, failures = [], []
    for g, group in enumerate(ready.batch.groups):
        masks = [records.pack_mask(kept, num_tokens) for kept in answers.kept[g]]
        for q, question in enumerate(group.questions):
            found = _evidence_of(read, answers.said, question[0].choices, g, q, source.tokenizer)
            reason = ready.unreadable.get(group.image) or _not_finite(found)
            kept = masks[q if len(masks) > 1 else 0]
            for row in question:
                if row.key in job.done:
                    continue
                asked = {"key": row.key, "image": row.image, "run": job.folder.run}
                if reason:
                    failures.append(records.Failure(**asked, reason=reason))
                    continue
                own = {"split": row.split, "label": row.label, "budget": job.setting.budget}
                rows.append(records.Record(**asked, **own, kept=kept, **found))
    return rows, failures


def _evidence_of(
    read: _Read,
    said: generation.Generated | None,
    choices: tuple[tuple[str, ...], ...],
    g: int,
    q: int,
    tokenizer: prompts.Tokenizer,
) -> dict[str, Any]:
    """Return the fields of a record that come from the model."""
    masses, total = read.masses[choices] if choices else (None, None)
    found = {
        "log_masses": () if masses is None else tuple(masses[g, q].tolist()),
        "answer_log_mass": None if total is None else total[g, q].item(),
        "token": read.tokens[g, q].item(),
        "text": None,
    }
    if said is None:
        return found
    length = said.lengths[g, q]
    text = tokenizer.text(said.ids[g, q, :length].tolist())
    return found | {"text": text, "text_log_probs": tuple(said.log_probs[g, q, :length].tolist())}


def _not_finite(found: Mapping[str, Any]) -> str | None:
    """Return why evidence cannot be recorded, None if it can."""
    total = found["answer_log_mass"]
    numbers = (*found["log_masses"], *found.get("text_log_probs", ()), total or 0.0)
    if np.isfinite(numbers).all():
        return None
    return f"the answers' log masses are not finite: {list(numbers)}"


class _Read(NamedTuple):
    """What the first token says: choices → (float32[G, Q, C], float32[G, Q]), and int[G, Q]."""

    masses: dict[tuple[tuple[str, ...], ...], tuple[np.ndarray, np.ndarray]]
    tokens: np.ndarray


def _evidence(logits: jax.Array, batch: batching.ImageBatch, tokenizer: prompts.Tokenizer) -> _Read:
    """Read all kinds of choices in one program."""
    asked = [question[0].choices for group in batch.groups for question in group.questions]
    kinds = tuple(dict.fromkeys(choices for choices in asked if choices))
    id_sets = tuple(tuple(map(tokenizer.answer_ids, choices)) for choices in kinds)
    masses, tokens = jax.device_get(_read_answers(logits, id_sets))
    return _Read(dict(zip(kinds, masses, strict=True)), tokens)


@functools.partial(jax.jit, static_argnames="id_sets")
def _read_answers(
    logits: jax.Array, id_sets: tuple[Any, ...]
) -> tuple[list[tuple[jax.Array, jax.Array]], jax.Array]:
    return [calibration.answer_log_masses(logits, ids) for ids in id_sets], logits.argmax(-1)
