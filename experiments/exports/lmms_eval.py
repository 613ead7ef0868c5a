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
from experiments.harness import records
from experiments.harness.errors import InputError

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
    date = f"{finished.when:%Y%m%d_%H%M%S}"
    samples = [_sample(finished, task, row) for row in finished.rows]
    lines = "".join(json.dumps(sample, allow_nan=False) + "\n" for sample in samples)
    records.write_atomically(place / f"{date}_samples_{task.name}.jsonl", lines)
    file = place / f"{date}_results.json"
    hashes = "".join(f"sample_{i}{sample['doc_hash']}" for i, sample in enumerate(samples))
    records.write_atomically(file, _results(finished, task, date) | {"task_hashes": {task.name: _sha256(hashes)}})
    return file


def _sample(finished: Finished, task: Task, row: Row) -> _Json:
    """Return a question with its answer."""
    question = row.question
    return {
        "doc_id": row.number,
        "target": row.right or str(list(question.references)),
        "filtered_resps": row.text,
        "token_counts": [{"output_tokens": len(row.record.text_log_probs or "1")}],
        "doc_hash": _sha256(json.dumps(vars(question))),
        **task.logged(question, row.answer, row.correct),
        "input": question.text,
    }
