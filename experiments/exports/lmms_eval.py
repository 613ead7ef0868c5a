"""Samples and results as lmms-eval writes them with ``--log_samples``.

    <folder>/<model>/<date>_samples_<task>.jsonl   a line per question
    <folder>/<model>/<date>_results.json           the task's table

``doc_id`` is a question's place in the benchmark; ``doc_hash`` is of the question as it is kept
here, not of the row of lmms-eval's data set.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from typing import Any

from experiments.exports.finished import Finished, Row
from experiments.exports.tasks import TASKS, Task
from experiments.harness.errors import InputError
from llava_jax import atomic

_NO_FILE_NAME = re.compile(r'["<>:/|\\?*\[\]]+')
"""What lmms-eval replaces in a model's name."""
_Json = dict[str, Any]


def write(finished: Finished, folder: pathlib.Path) -> pathlib.Path:
    """Write samples, then results.

    Args:
        finished: the setting.
        folder: is made if it is not there.

    Returns:
        The file of results.

    Raises:
        InputError: the folder cannot be made.
    """
    task = TASKS[finished.benchmark.name]
    place = folder / _NO_FILE_NAME.sub("__", finished.model)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--to=lmms:{folder}: {error.strerror}") from None
    samples = [_sample(task, row) for row in finished.rows]
    lines = "".join(json.dumps(sample, allow_nan=False) + "\n" for sample in samples)
    date = f"{finished.when:%Y%m%d_%H%M%S}"
    atomic.write(place / f"{date}_samples_{task.name}.jsonl", lines)
    hashes = "".join(f"sample_{i}{sample['doc_hash']}" for i, sample in enumerate(samples))
    content = _results(finished, task) | {"date": date, "task_hashes": {task.name: _sha256(hashes)}}
    file = place / f"{date}_results.json"
    atomic.write(file, content)
    return file


def _sample(task: Task, row: Row) -> _Json:
    """Return a question with its answer."""
    question = row.question
    references = question.references
    tokens = len(row.record.text_log_probs or ()) or 1
    return {
        "doc_id": row.number,
        "target": question.right or (references[0] if len(references) == 1 else str(references)),
        "filtered_resps": row.text,
        "token_counts": [{"output_tokens": tokens}],
        "doc_hash": _sha256(json.dumps(vars(question))),
        **task.logged(question, row.answer, row.correct),
        "input": question.text,
    }


def _results(finished: Finished, task: Task) -> _Json:
    """Return the task's table and what was evaluated."""
    run, rows = finished.run, finished.rows
    numbers = task.results(finished.benchmark.score([row.answer for row in rows]))
    args = {name: value for name, value in run["setting"].items() if value is not None}
    return {
        "results": {
            task.name: {
                "alias": task.name,
                **{f"{metric},none": value for metric, value in numbers.items()},
                **{f"{metric}_stderr,none": "N/A" for metric in numbers},
            }
        },
        "group_subtasks": {task.name: []},
        "configs": {task.name: {"task": task.name, "output_type": "generate_until"}},
        "versions": {task.name: "Yaml"},
        "n-shot": {task.name: 0},
        "higher_is_better": {task.name: dict.fromkeys(numbers, True)},
        "n-samples": {
            task.name: {"original": run["expected"]["rows"], "effective": len(rows)},
        },
        "config": {
            "model": "llava_jax",
            "model_args": ",".join(f"{name}={value}" for name, value in args.items()),
            "fingerprint": run["fingerprint"],
            "route": run["identity"]["confidence"]["route"],
            "packages": dict(run.get("versions", {})),
        },
        "model_source": "llava_jax",
        "model_name": finished.model,
        "model_name_sanitized": _NO_FILE_NAME.sub("__", finished.model),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
