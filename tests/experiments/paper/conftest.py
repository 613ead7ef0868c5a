"""A made-up study: the paper's settings on few pictures, written as the harness does."""

import itertools

import numpy as np
import pytest

from experiments import catalogue
from experiments.harness import questions, records, sealing, shards
from experiments.reporting.paper import documents, exchange
from llava_jax import atomic

SPLITS = ("random", "popular", "adversarial")
PICTURES, TOKENS = 24, 576
DATA = "5" * 64


def settings_of_tables():
    """Yield (pruner, budget, seed, hyper-parameters) of the study of Tables 1 to 3."""
    yield "none", TOKENS, None, {}
    scope = [(64, a) for a in (0.0, 0.5, 1.0)] + [(128, a) for a in (0.0, 0.5, 1.0)]
    for budget, alpha in [*scope, *((192, a) for a in (0.0, 0.5, 1.0)), (32, 1.0)]:
        yield "scope", budget, None, {"alpha": alpha, "gamma": 1.0, "combine": "multiply"}
    for budget, seed in itertools.product((64, 128), (0, 1, 2)):
        yield "random", budget, seed, {}
    for name, budget in (("saliency", 64), ("saliency", 128), ("fastv", 128)):
        yield name, budget, None, {}


def asked(benchmark):
    """Return a benchmark's questions: POPE's six a picture, ScienceQA's one."""
    if benchmark == "pope":
        return [
            questions.Question(
                key=f"{SPLITS[q % 3]}/{image:02d}-{q}",
                image=f"{image:02d}",
                text="Is there a cat?",
                split=SPLITS[q % 3],
                category="",
                group="",
                choices=("Yes", "No"),
                right="yes" if (image + q) % 2 else "no",
                options=(),
                references=(),
            )
            for image in range(PICTURES)
            for q in range(6)
        ]
    return [
        questions.Question(
            key=f"test/{image:02d}",
            image=f"{image:02d}",
            text="Which?",
            split="natural science",
            category="",
            group="",
            choices=("A", "B", "C"),
            right="ABC"[image % 3],
            options=("x", "y", "z"),
            references=(),
        )
        for image in range(4 * PICTURES)
    ]


def label(question):
    """Return the index of the right choice."""
    return [choice.lower() for choice in question.choices].index(question.right.lower())


def write_setting(out, benchmark, pruner, budget, seed, own, log_masses):
    """Write a finished setting."""
    names = [pruner, *([] if pruner == "none" else [f"k{budget}"])]
    names += [f"{n}{v}" for n, v in own.items()] + ([] if seed is None else [f"seed{seed}"])
    folder = out / "_".join(names)
    folder.mkdir(parents=True)
    how = {"order": "raster", "positions": "contiguous"}
    setting = {"pruner": pruner, "budget": budget, "seed": seed, **how, **own}
    identity = {"benchmark": benchmark, "setting": setting, "data": {"sha256": DATA}}
    identity |= {"confidence": {"route": "first_token"}}
    content = {"identity": identity, "setting": setting, "plan": {}, "fingerprint": "0" * 64}
    found = asked(benchmark)
    atomic.write(folder / records.RUN, content | {"expected": {"rows": len(found)}})
    (folder / "flags.txt").write_text("--model=pocket\n--data=scenes\n")
    rows = [
        records.Record(
            key=question.key,
            image=question.image,
            split=question.split,
            label=label(question),
            log_masses=tuple(map(float, masses)),
            answer_log_mass=-0.001,
            token=7,
            text=None,
            budget=budget,
            kept="AA==",
            run="0" * 16,
        )
        for question, masses in zip(found, log_masses, strict=True)
    ]
    writer = shards.Shard(folder)
    writer.append(rows)
    writer.close()
    sealing.seal(folder, [row.key for row in rows])
    return folder


def masses_of(benchmark, rng, sharper):
    """Return log masses float32[E, C] of a model that is right more often than not."""
    found = asked(benchmark)
    choices = len(found[0].choices)
    base = rng.normal(size=(len(found), choices))
    base[np.arange(len(found)), [label(question) for question in found]] += 1.5
    base *= sharper
    return (base - np.logaddexp.reduce(base, axis=1)[:, None]).astype(np.float32)


@pytest.fixture(scope="session", autouse=True)
def few_draws():
    """Exchange settings 99 times, not 999, lest most of the time goes there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "NUM_DRAWS", 99)
        yield


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Return the folder of a study whose tables are finished."""
    out = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for benchmark in ("pope", "scienceqa"):
        folder = out / "tables" / benchmark
        for pruner, budget, seed, own in settings_of_tables():
            if benchmark == "scienceqa" and not (pruner == "none" or own.get("alpha") == 1.0):
                continue
            sharper = 1 + own.get("alpha", 0.5) + 20 / budget
            masses = masses_of(benchmark, rng, sharper)
            write_setting(folder, benchmark, pruner, budget, seed, own, masses)
        questions.write(folder, DATA, asked(benchmark))
    return out


@pytest.fixture(scope="session")
def evidence(study):
    """Return the runs of the study."""
    return documents.load(study, catalogue.get, "default")
