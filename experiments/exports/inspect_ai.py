"""A log in inspect's ``.eval`` format, version 2, that its tools, ``datasets`` and zipfile read.

Samples have whole numbers for ids, as ``datasets`` needs; the question's key is in a sample's
metadata. On the first-token route the log holds the probability of every choice as that of one
token, whatever spellings were summed for it, and lettered questions have ``choices``. A record of
a text has the probabilities of its tokens, not what each one spells: that is left empty.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.exports import archive
from experiments.exports.finished import Finished, Row
from experiments.harness.benchmark import LETTERS
from experiments.harness.errors import UsageError

_VERSION = 2
_Json = dict[str, Any]


def write(finished: Finished, file: pathlib.Path) -> pathlib.Path:
    """Write the log.

    Args:
        finished: the setting.
        file: the log, ``.eval`` at its end; one that is there is replaced.

    Returns:
        The file.

    Raises:
        UsageError: the file is called otherwise.
    """
    if file.suffix != ".eval":
        raise UsageError(f"--to=inspect:{file}: the file's name must end with .eval")
    archive.write(file, ((name, _bytes(content)) for name, content in _members(finished)))
    return file


def _members(finished: Finished) -> Iterator[tuple[str, Any]]:
    """Yield name and content of the log's members; a log with a header is whole."""
    beginning = {"version": _VERSION, "eval": _spec(finished), "plan": _plan(finished)}
    yield "_journal/start.json", beginning
    summaries = []
    for row in finished.rows:
        sample = _sample(finished, row)
        yield f"samples/{sample['id']}_epoch_1.json", sample
        summaries.append(_summary(sample))
    yield "_journal/summaries/1.json", summaries
    yield "summaries.json", summaries
    time = finished.when.isoformat()
    yield (
        "header.json",
        {
            "version": _VERSION,
            "status": "success",
            **beginning,
            "results": _results(finished),
            "stats": {"started_at": time, "completed_at": time, "model_usage": {}},
        },
    )


def _spec(finished: Finished) -> _Json:
    """Return what was evaluated."""
    run, ids = finished.run, [row.number + 1 for row in finished.rows]
    own = {"run": run["fingerprint"], "setting": finished.name}
    return {
        "eval_id": _id("eval", own),
        "run_id": _id("run", own),
        "created": finished.when.isoformat(),
        "task": finished.benchmark.name,
        "task_id": _id("task", own),
        "task_version": 0,
        "task_attribs": {},
        "task_args": {},
        "dataset": {
            "name": finished.benchmark.name,
            "samples": len(ids),
            "sample_ids": ids,
            "shuffled": False,
        },
        "model": finished.model,
        "model_args": dict(run["setting"]),
        "config": {"epochs": 1},
        "packages": dict(run.get("versions", {})),
        "scorers": [{"name": name, "metadata": {}} for name in ("accuracy", "confidence")],
        "metadata": {
            "fingerprint": run["fingerprint"],
            "setting": dict(run["setting"]),
            "route": run["identity"]["confidence"]["route"],
            "weights": run["identity"]["weights"],
            "data": run["identity"]["data"]["sha256"],
            "dtype": run["identity"]["dtype"],
            "versions": dict(run.get("versions", {})),
        },
    }


def _plan(finished: Finished) -> _Json:
    config = {"temperature": 0.0, "logprobs": True}
    return {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": config}


def _results(finished: Finished) -> _Json:
    """Return the means of what the samples are scored with."""
    rows = finished.rows
    means = {
        "accuracy": ("accuracy", statistics.fmean(row.correct for row in rows)),
        "confidence": ("mean", statistics.fmean(row.confidence for row in rows)),
    }
    return {
        "total_samples": finished.run["expected"]["rows"],
        "completed_samples": len(rows),
        "scores": [
            {
                "name": name,
                "scorer": name,
                "scored_samples": len(rows),
                "unscored_samples": 0,
                "params": {},
                "metrics": {metric: {"name": metric, "value": value, "params": {}}},
            }
            for name, (metric, value) in means.items()
        ],
    }


def _sample(finished: Finished, row: Row) -> _Json:
    """Return a question with its answer."""
    question, record = row.question, row.record
    lettered = bool(question.options) and not finished.generated
    message = {"role": "assistant", "content": row.text, "source": "generate"}
    logprobs = _text_logprobs(row) if finished.generated else _choice_logprobs(row)
    return {
        "id": row.number + 1,
        "epoch": 1,
        "input": question.text,
        **({"choices": _options(row)} if lettered else {}),
        "target": row.right or _references(question.references),
        "messages": [{"role": "user", "content": question.text, "source": "input"}, message],
        "output": {
            "model": finished.model,
            "choices": [
                {"message": message, "stop_reason": "stop", "logprobs": {"content": logprobs}}
            ],
            "completion": row.text,
        },
        "scores": {
            "accuracy": {
                "value": int(row.correct),
                "answer": row.text,
                "metadata": {"confidence": row.confidence},
            },
            "confidence": {"value": row.confidence},
        },
        "metadata": {
            "key": record.key,
            "image": record.image,
            "split": record.split,
            "category": question.category,
            "group": question.group,
            "budget": record.budget,
            "kept": record.kept,
            "answer_log_mass": record.answer_log_mass,
        },
        "store": {},
        "events": [],
        "model_usage": {},
        "uuid": _id("sample", {"run": record.run, "key": record.key}),
        "attachments": {},
    }


def _summary(sample: _Json) -> _Json:
    """Return what a log's list shows of a sample."""
    names = ("id", "epoch", "input", "target", "metadata", "model_usage", "uuid")
    scores = {name: {"value": score["value"]} for name, score in sample["scores"].items()}
    own = {name: sample[name] for name in names}
    return own | {"scores": scores, "retries": 0, "completed": True}


def _options(row: Row) -> list[str]:
    """Return a text for every letter; one that is offered without a text is called by itself."""
    options = row.question.options
    letters = LETTERS[: max(len(options), len(row.question.choices))]
    return [*options, *letters[len(options) :]]


def _references(references: Sequence[str]) -> str | list[str]:
    return references[0] if len(references) == 1 else list(references)


def _choice_logprobs(row: Row) -> list[_Json]:
    """Return the first token: the likeliest choice, and all of them beside it."""
    pairs = zip(row.question.choices, row.record.log_masses, strict=True)
    listed = [{"token": token, "logprob": mass} for token, mass in pairs]
    listed.sort(key=lambda entry: -entry["logprob"])
    return [listed[0] | {"top_logprobs": listed}]


def _text_logprobs(row: Row) -> list[_Json]:
    return [{"token": "", "logprob": log_prob} for log_prob in row.record.text_log_probs or ()]


def _id(kind: str, content: _Json) -> str:
    """Return an id that the same run has again."""
    return hashlib.sha256(_bytes([kind, content])).hexdigest()[:22]


def _bytes(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
