"""The benchmarks as lmms-eval's tasks: their names and what is measured of an answer.

Of each answer lmms-eval logs what the numbers of its table are made of, under the same names. A
cell of MMBench that a question here does not keep, as its source, is ``nan``, as a missing one is
there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments.harness.questions import Question
from experiments.scoring import Answer, Scores, evalai, mme, seed, textvqa

Logged = dict[str, Any]
_MISSING = "nan"


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of lmms-eval.

    Attributes:
        name: of the task.
        metrics: of its table → what our scores call that number; the first one that is there.
        logged: question, answer and whether it is right → metrics of a sample.
        scale: of the numbers in its table.
    """

    name: str
    metrics: Mapping[str, tuple[str, ...]]
    logged: Callable[[Question, Answer, bool], Logged]
    scale: float = 1.0

    def results(self, scores: Scores) -> dict[str, float]:
        """Return the numbers of the task's table.

        Args:
            scores: of the benchmark's tools; lmms-eval's are taken.
        """
        have = scores["lmms_eval"]
        found = {
            metric: next((have[name] for name in names if name in have), None)
            for metric, names in self.metrics.items()
        }
        return {metric: self.scale * x for metric, x in found.items() if x is not None}


def _number(answer: Answer) -> str:
    """Return a question's id without its split."""
    return answer.key.rpartition("/")[2]


def _pope(question: Question, answer: Answer, right: bool) -> Logged:
    del question
    verdict = {
        "question_id": _number(answer),
        "score": float(right),
        "prediction": answer.text.lower().strip(),
        "ground_truth": answer.right,
    }
    return dict.fromkeys([*_POPE, "pope_yes_ratio"], verdict)


def _mme(question: Question, answer: Answer, right: bool) -> Logged:
    del question
    part = "perception" if answer.split in mme.PERCEPTION else "cognition"
    verdict = {"question_id": answer.group, "category": answer.split, "score": float(right)}
    return {f"mme_{part}_score": verdict}


def _mmbench(question: Question, answer: Answer, right: bool) -> Logged:
    del right  # its table is made of the predictions
    options = dict.fromkeys("ABCDE", _MISSING) | dict(zip("ABCDE", answer.options, strict=False))
    row = {
        "index": int(_number(answer)),
        "question": question.text,
        "answer": answer.right,
        "prediction": answer.text.strip(),
        "hint": _MISSING,
        "source": _MISSING,
        "split": "dev",
        "category": answer.category,
        "L2-category": answer.split,
        **options,
    }
    return {"gpt_eval_score": row, "submission": row}


def _seed(question: Question, answer: Answer, right: bool) -> Logged:
    del question, right  # its table is made of the predictions
    row = {
        "pred": seed.lmms_eval_letter(answer.text),
        "answer": answer.right,
        "question_id": answer.key,
    }
    return {f"seed_{answer.split}": row, "seed_all": row}


def _textvqa(question: Question, answer: Answer, right: bool) -> Logged:
    del question, right  # it is right to a degree
    said = {"question_id": answer.key, "answer": evalai.evalai_form(answer.text)}
    return {"exact_match": textvqa.llava_score(answer.text, answer.references), "submission": said}


def _exact_match(question: Question, answer: Answer, right: bool) -> Logged:
    del question, answer
    return {"exact_match": float(right)}


_POPE = {
    "pope_accuracy": ("accuracy",),
    "pope_precision": ("precision",),
    "pope_recall": ("recall",),
    "pope_f1_score": ("f1",),
}
_MATCH = {"exact_match": ("exact_match",)}
TASKS: Mapping[str, Task] = {
    "pope": Task("pope", _POPE, _pope),
    "mme": Task(
        "mme",
        {"mme_perception_score": ("perception",), "mme_cognition_score": ("cognition",)},
        _mme,
    ),
    "mmbench": Task(
        "mmbench_en_dev",
        {"gpt_eval_score": ("circular", "vanilla_all_rows")},
        _mmbench,
        scale=100,
    ),
    "scienceqa": Task("scienceqa_img", _MATCH, _exact_match),
    "textvqa": Task("textvqa_val", _MATCH, _textvqa),
    "seed": Task("seedbench", {f"seed_{x}": (f"seed_{x}",) for x in (*seed.KINDS, "all")}, _seed),
    "gqa": Task("gqa", _MATCH, _exact_match),
}
"""Benchmark → task."""
