"""Question files of the seven benchmarks in their original layouts, and stored answers to them."""

from __future__ import annotations

import functools
import pathlib
import shutil
from collections.abc import Iterator

from experiments import gqa, mmbench, mme, pope, scienceqa, seed, textvqa
from experiments.harness import stored
from experiments.harness.benchmark import Benchmark, Dataset, Request
from experiments.harness.errors import InputError

_FIXTURES = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "raw"
_MME = "MME_Benchmark_release_version/color/0105.txt"
FILES: tuple[tuple[Benchmark, str, str], ...] = (
    (pope.BENCHMARK, "pope", "coco/coco_pope_random.json"),
    (scienceqa.BENCHMARK, "scienceqa", "problems.json"),
    (scienceqa.BENCHMARK, "scienceqa", "pid_splits.json"),
    (mme.BENCHMARK, "mme", _MME),
    (mmbench.BENCHMARK, "mmbench", "MMBench_DEV_EN.tsv"),
    (textvqa.BENCHMARK, "textvqa", "TextVQA_0.5.1_val.json"),
    (textvqa.BENCHMARK, "textvqa", "TextVQA_Rosetta_OCR_v0.2_val.json"),
    (seed.BENCHMARK, "seed", "SEED-Bench.json"),
    (gqa.BENCHMARK, "gqa", "testdev_balanced_questions.json"),
)
"""Benchmark, its fixture's folder, and the file that is changed."""
_FOLDER = {"seed": "seed_bench"}


class Questions:
    """The first byte says which file the rest replaces."""

    longest = 12_000

    def __init__(self, folder: pathlib.Path):
        self._places = []
        for number, (benchmark, name, file) in enumerate(FILES):
            copy = folder / str(number)
            shutil.copytree(_FIXTURES / _FOLDER.get(name, name), copy)
            for other in copy.rglob("mmbench_dev_*.tsv"):
                other.unlink()
            self._places.append((benchmark, copy, copy / file))

    def seeds(self) -> Iterator[bytes]:
        for number, (_, _, file) in enumerate(self._places):
            yield bytes([number]) + file.read_bytes()[: self.longest - 1]

    def __call__(self, data: bytes) -> None:
        benchmark, folder, file = self._places[(data or b"\0")[0] % len(self._places)]
        file.write_bytes(data[1:])
        try:
            dataset = benchmark.raw(folder, Request(data=str(folder)))
        except InputError:
            return
        _require_valid(benchmark, dataset)


def _require_valid(benchmark: Benchmark, dataset: Dataset) -> None:
    """Raise unless a data set can be asked, recorded and scored."""
    examples = dataset.examples
    assert examples
    assert len({example.key for example in examples}) == len(examples)
    for example in examples:
        assert example.split in benchmark.splits
        assert (example.label is None) == (not example.choices)
        assert example.label is None or 0 <= example.label < len(example.choices)
        assert example.question.right or benchmark.open
    dataset.digest(allow_missing=True)


class Predictions:
    """A file of stored answers to POPE's questions, scored where it is taken."""

    longest = 4096

    def __init__(self, folder: pathlib.Path):
        self._file = folder / "answers.jsonl"

    @functools.cached_property
    def _examples(self) -> tuple:
        folder = _FIXTURES / "pope"
        return pope.BENCHMARK.raw(folder, Request(data=str(folder))).examples

    def seeds(self) -> Iterator[bytes]:
        keys = [example.key for example in self._examples[:3]]
        yield b"".join(b'{"key":"%s","text":"Yes"}\n' % key.encode() for key in keys)
        for key in keys:
            split, _, number = key.partition("/")
            row = f'{{"question_id":{number},"split":"{split}","text":"no."}}\n'
            yield row.encode()

    def __call__(self, data: bytes) -> None:
        self._file.write_bytes(data)
        try:
            answers = stored.read(self._file, self._examples)
        except InputError:
            return
        assert len({answer.key for answer in answers}) == len(answers) > 0
        pope.BENCHMARK.score(answers)
