"""Accuracy and calibration of answers, benchmark by benchmark, and what CLS looks at.

Axis letters: E questions, C choices, B draws.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import calibration
from experiments import scenes
from experiments.training import wording
from experiments.training.answering import Answers
from experiments.training.pictures import Pool
from llava_jax import images, model
from llava_jax.config import LlavaConfig

Measured = dict[str, float]

_DRAWS = 1000  # behind ECE's noise floor
_COUNTED = 2000  # train scenes behind the usual answers
_LOOKED = 64  # visual tokens that CLS looks at most
_SPELLINGS = {"yes": ("Yes", "yes"), "no": ("No", "no")}


def _choices(question: scenes.Question) -> list[str]:
    """List a question's possible answers; empty if any word may be one."""
    if question.options:
        return list(scenes.LETTERS[: len(question.options)])
    return list(_SPELLINGS) if question.answer in _SPELLINGS else []


def log_masses(answers: Answers) -> np.ndarray:
    """Return log masses of the choices, float32[E, C], −inf beyond a question's own.

    A question for one word has the whole vocabulary as its choices.
    """
    found = np.full((len(answers.questions), answers.log_probs.shape[1]), -np.inf, np.float32)
    for row, question, logs in zip(found, answers.questions, answers.log_probs, strict=True):
        choices = _choices(question)
        if not choices:
            row[:] = logs
        for i, choice in enumerate(choices):
            ids = wording.answer_ids(_SPELLINGS.get(choice, (choice,)))
            row[i] = np.logaddexp.reduce(logs[ids])
    return found


def labels(answers: Answers) -> np.ndarray:
    """Return each question's right choice, int32[E]."""
    found = []
    for question in answers.questions:
        choices = _choices(question)
        known = choices.index(question.answer) if choices else wording.answer_id(question)
        found.append(known)
    return np.array(found, np.int32)


def right(answers: Answers) -> np.ndarray:
    """Tell which questions were answered rightly, bool[E]."""
    return log_masses(answers).argmax(1) == labels(answers)


def _accuracy_by_part(answers: Answers) -> Measured:
    parts = np.array([question.part for question in answers.questions])
    correct = right(answers)
    return {part: float(correct[parts == part].mean()) for part in dict.fromkeys(parts.tolist())}


def pope(answers: Answers) -> Measured:
    """Measure accuracy per split, and likelihood and calibration over all questions."""
    masses, truth = log_masses(answers)[:, :2], labels(answers)
    top = calibration.top_label(jnp.asarray(masses), jnp.asarray(truth))
    confidence, correct = np.asarray(top.confidence), np.asarray(top.correct)
    nll = calibration.negative_log_likelihood(jnp.asarray(masses), jnp.asarray(truth))
    ece = calibration.expected_calibration_error(top.confidence, top.correct)
    return {
        "accuracy": float(correct.mean()),
        **_accuracy_by_part(answers),
        "nll": float(nll),
        "ece": float(ece),
        "ece_floor": noise_floor(confidence, _same_question(answers)),
        "yes_share": float((masses.argmax(1) == 0).mean()),
        "answer_mass": float(np.exp(np.logaddexp(*masses.T)).mean()),
    }


def _same_question(answers: Answers) -> np.ndarray:
    """Number the distinct questions about each scene, int[E]: POPE's splits repeat some."""
    pairs = [(s, q.text) for s, q in zip(answers.scene.tolist(), answers.questions, strict=True)]
    number = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    return np.array([number[pair] for pair in pairs])


def noise_floor(confidence: np.ndarray, group: np.ndarray) -> float:
    """Return the 97.5 % point of ECE if every confidence were exactly right.

    Labels are redrawn from the confidences, rows of one group alike.

    Args:
        confidence: float[E].
        group: int[E], rows that are the same question.
    """
    rng = np.random.default_rng(0)
    drawn = rng.random((_DRAWS, group.max() + 1), np.float32)[:, group] < confidence
    measure = jax.jit(jax.vmap(calibration.expected_calibration_error, (None, 0)))
    return float(
        np.quantile(np.asarray(measure(jnp.asarray(confidence), jnp.asarray(drawn))), 0.975)
    )


def mme(answers: Answers) -> Measured:
    """Measure accuracy per category, and the share of pairs with both answers right."""
    pairs = right(answers).reshape(-1, 2)
    return choices("mme", answers) | {"accuracy+": float(pairs.all(1).mean())}


def mmbench(answers: Answers) -> Measured:
    """Measure vanilla accuracy, and circular accuracy: every rotation answered rightly."""
    correct = right(answers)
    keys = np.array([int(question.key) for question in answers.questions])
    base = keys % scenes.CIRCULAR
    whole = [correct[base == number].all() for number in np.unique(base)]
    return {"circular": float(np.mean(whole)), **choices("mmbench", _pick(answers, keys == base))}


def choices(benchmark: str, answers: Answers) -> Measured:
    """Measure accuracy, over all and by part, and what is right without looking."""
    found = {"accuracy": float(right(answers).mean()), "blind": blind(benchmark, answers)}
    return found | _accuracy_by_part(answers)


def blind(benchmark: str, answers: Answers) -> float:
    """Return the accuracy of the answer most often right for the same words in the train world.

    Options are told apart by their text; what was never right counts as never.
    """
    usual = _usual_answers(benchmark)
    hits = []
    for question in answers.questions:
        options = question.options or tuple(usual[question.text]) or ("",)
        guess = max(options, key=lambda option, text=question.text: usual[text][option])
        hits.append(guess == _in_words(question))
    return float(np.mean(hits))


@functools.cache
def _usual_answers(benchmark: str) -> dict[str, collections.Counter[str]]:
    """Count, per question's words, the right answers in the train world."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    train, ask = scenes.world("train"), scenes.MINIATURES[benchmark].questions
    for index in range(_COUNTED):
        for question in ask(train, index):
            counts[question.text][_in_words(question)] += 1
    return counts


def _in_words(question: scenes.Question) -> str:
    """Return the right answer, of a lettered question the option's text."""
    if not question.options:
        return question.answer
    return question.options[scenes.LETTERS.index(question.answer)]


def _pick(answers: Answers, picked: np.ndarray) -> Answers:
    """Return some of the answers, bool[E]."""
    questions = tuple(q for q, kept in zip(answers.questions, picked, strict=True) if kept)
    return Answers(questions, answers.scene[picked], answers.log_probs[picked])


MEASURES: dict[str, Callable[[Answers], Measured]] = {
    "pope": pope,
    "scienceqa": functools.partial(choices, "scienceqa"),
    "mme": mme,
    "mmbench": mmbench,
    "seed": functools.partial(choices, "seed"),
    "gqa": functools.partial(choices, "gqa"),
}


def attended(params: dict[str, Any], source: Pool, cfg: LlavaConfig) -> Measured:
    """Measure what CLS looks at in the layer that LLaVA reads.

    Returns:
        attended: share of object patches among the 64 of highest saliency.
        covered: share of object patches among all.
    """
    encode = jax.jit(functools.partial(model.encode, cfg=cfg, outputs=("saliency",)))
    objects = source.categories.reshape(len(source), -1) >= 0
    hits = []
    for begin in range(0, len(source), 16):
        part = slice(begin, begin + 16)
        saliency = encode(params, images.normalise(source.images[part])).require("saliency")
        top = np.argsort(-np.asarray(saliency), axis=1)[:, :_LOOKED]
        hits.append(np.take_along_axis(objects[part], top, axis=1))
    return {"attended": float(np.concatenate(hits).mean()), "covered": float(objects.mean())}
