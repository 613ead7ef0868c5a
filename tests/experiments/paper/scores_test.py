"""Scores by sums over pictures are those of the benchmarks' scorers, with any weights."""

import dataclasses

import numpy as np
import pytest

from experiments import catalogue
from experiments.harness.benchmark import Request
from experiments.reporting import runs
from experiments.reporting.paper import scores

LIMIT = 12
SCORES = {
    "pope": lambda found: 100 * found["f1"],
    "mme": lambda found: found["perception"] + found.get("cognition", 0),
    "mmbench": lambda found: 100 * found["circular"],
    "scienceqa": lambda found: 100 * found["exact_match"],
    "gqa": lambda found: 100 * found["exact_match"],
    "textvqa": lambda found: 100 * found["exact_match"],
    "seed": lambda found: 100 * found["seed_all"],
}


class Setting:
    """A setting's rows: the picture of each."""

    def __init__(self, image):
        self.rows = self
        self.image = image


class Run:
    """A run whose answers are given."""

    def __init__(self, name, answers, image):
        self.benchmark, self.scorer = name, catalogue.get(name)
        self.num_images = int(image.max()) + 1
        self._answers = answers

    def answers(self, setting):
        del setting
        return self._answers


def asked(name):
    """Return questions of a miniature, what is answered, and the number of each picture."""
    dataset = catalogue.get(name).scenes(Request(data="scenes", limit=LIMIT))
    rng = np.random.default_rng(3)
    examples = dataset.examples
    texts = [example.references[0] if example.references else example.right for example in examples]
    wrong = rng.random(len(texts)) < 0.3
    said = [
        texts[rng.integers(len(texts))] if miss else text
        for text, miss in zip(texts, wrong, strict=True)
    ]
    numbers = {image: i for i, image in enumerate(dataset.images)}
    image = np.array([numbers[example.image] for example in examples])
    answers = [e.question.answered(text) for e, text in zip(examples, said, strict=True)]
    return answers, image


def test_every_benchmark_is_here():
    assert set(SCORES) == set(catalogue.NAMES)


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_the_score_is_that_of_lmms_eval(name):
    answers, image = asked(name)
    run = Run(name, answers, image)
    want = SCORES[name](run.scorer.score(answers)["lmms_eval"])
    found = scores.samples(run, Setting(image))
    assert found.shape == (1 + runs.NUM_RESAMPLES,)
    assert found[0] == pytest.approx(want, rel=1e-9)
    assert found.std() > 0


@pytest.mark.parametrize("name", ["pope", "mme", "mmbench"])
def test_a_resample_is_the_score_of_the_pictures_that_it_drew(name):
    answers, image = asked(name)
    run = Run(name, answers, image)
    found = scores.samples(run, Setting(image))
    drawn = runs.draws(run.num_images)[5]
    copies = [
        _copy(answer, copy)
        for answer, picture in zip(answers, image, strict=True)
        for copy in range(drawn[picture])
    ]
    want = SCORES[name](run.scorer.score(copies)["lmms_eval"])
    assert found[5] == pytest.approx(want, rel=1e-9)


def test_a_picture_of_mme_with_one_answer_does_not_count():
    answers, image = asked("mme")
    run = Run("mme", answers[:-1], image[:-1])
    want = SCORES["mme"](run.scorer.score(answers[:-1])["lmms_eval"])
    assert scores.samples(run, Setting(image[:-1]))[0] == pytest.approx(want, rel=1e-9)


def _copy(answer, number):
    """Return an answer about another picture that happens to be the same."""

    group = f"{answer.group}#{number}" if answer.group else ""
    return dataclasses.replace(answer, key=f"{answer.key}#{number}", group=group)
