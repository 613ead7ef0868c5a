"""Files that nobody meant to write: each is read as it was, or refused in words.

Coverage-guided runs of the same readers: ``benchmarks/fuzz``.
"""

import dataclasses
import functools
import io
import json
import pathlib
import shutil
import zipfile
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from experiments import gqa, logs, mmbench, mme, pope, scienceqa, seed, textvqa
from experiments.harness import records, stored
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError
from llava_jax import testing
from llava_jax.checkpoint import huggingface, rules, tensors

LOGS = pathlib.Path(__file__).parents[1] / "logs"
NAME = "records-00000-of-00001.jsonl"
ROW = records.Record(
    "r/1", "a.jpg", "r", 1, (-0.1, -2.5), -0.01, 7, "é", 3, "4A==", "0123456789abcdef"
)


def fuzz(times, *strategies):
    """Call a function with so many examples, the same in every run."""

    def run(check):
        hypothesis.settings(max_examples=times)(hypothesis.given(*strategies)(check))()

    return run


# What is changed


DEEP = b"[" * 5000 + b"]" * 5000
RAW = (DEEP, b"9" * 5000, b"1e999", b"NaN", b'"\\ud800"', b'"\\u0000"', b'{"a":1,"a":2}', b"[[1]]")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
values = st.sampled_from(RAW) | anything.map(lambda value: json.dumps(value).encode())


def places(value):
    """Yield every (container, key or index) inside a value."""
    if isinstance(value, dict | list):
        for step in value if isinstance(value, dict) else range(len(value)):
            yield value, step
            yield from places(value[step])


@st.composite
def json_changed(draw, content):
    """Draw a JSON text, or lines of it, with a value replaced, removed or renamed."""
    whole = content.lstrip()[:1] in (b"{", b"[") and content.count(b"}\n{") == 0
    lines = [content] if whole else content.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    value = json.loads(lines[number])
    holder, step = draw(st.sampled_from(list(places(value))))
    how, text = draw(st.sampled_from(["replace", "replace", "remove", "rename"])), draw(values)
    if how == "replace":
        holder[step] = "\x01"
    elif how == "rename" and isinstance(holder, dict):
        holder[f"{step}x"] = holder.pop(step)
    else:
        del holder[step]
    lines[number] = json.dumps(value).encode().replace(b'"\\u0001"', text)
    return b"\n".join(lines)


@st.composite
def bytes_changed(draw, content):
    """Draw a text with some bytes changed, put in or taken out."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(found) - 1, 0)))
        removed = draw(st.sampled_from((0, 1, 1, 40)))
        found[place : place + removed] = draw(st.binary(max_size=2))
    return bytes(found)


@st.composite
def lines_changed(draw, content, marks=(b"\n",)):
    """Draw a text whose lines, or the cells of one, are left out, repeated or exchanged."""
    lines = content.split(b"\n")
    mark = draw(st.sampled_from(marks))
    number = draw(st.integers(0, len(lines) - 1))
    parts = lines if mark == b"\n" else lines[number].split(mark)
    one, other = (draw(st.integers(0, len(parts) - 1)) for _ in range(2))
    how = draw(st.sampled_from(["remove", "repeat", "exchange"]))
    if how == "remove":
        del parts[one]
    elif how == "repeat":
        parts.insert(other, parts[one])
    else:
        parts[one], parts[other] = parts[other], parts[one]
    if mark != b"\n":
        lines[number] = mark.join(parts)
    return b"\n".join(lines)


def changed(content, kind):
    """Return a strategy of what may have become of a file."""
    if kind == "json":
        return json_changed(content) | json_changed(content) | bytes_changed(content)
    marks = {"csv": (b"\n", b","), "tsv": (b"\n", b"\t")}.get(kind, (b"\n",))
    return lines_changed(content, marks) | bytes_changed(content)


# Records


@pytest.mark.times(100, 5000)
def test_altered_record_files(tmp_path, times, passed):
    """Whatever is taken was written by ``to_line``, letter by letter."""
    own = {key: dataclasses.replace(ROW, key=key) for key in ("r/1", "r/2", "r/3")}
    content = b"".join(map(records.to_line, own.values()))
    kinds = st.binary(max_size=200) | bytes_changed(content) | lines_changed(content)

    @fuzz(times, kinds)
    def check(damaged):
        (tmp_path / NAME).write_bytes(damaged)
        assert records.read_records(tmp_path).items() <= own.items()

    passed("fuzz records", f"{times} altered files: 0 rows that were not written")


@pytest.mark.times(150, 5000)
def test_lines_of_any_json_with_a_right_checksum(tmp_path, times, passed):
    """They are no rows or refused; what is taken can be written again and is the same."""
    body = records.to_line(ROW).rpartition(b',"crc"')[0] + b"}"
    taken = []

    @fuzz(times, json_changed(body) | values | st.binary(max_size=60))
    def check(content):
        line = content[:-1] + b',"crc":"%08x"}' % zlib.crc32(content)
        (tmp_path / NAME).write_bytes(line + b"\n")
        assert records.from_line(line) is None or isinstance(records.from_line(line), dict)
        try:
            found = records.read_records(tmp_path)
        except InputError:
            return
        for row in found.values():
            taken.append(row)
            (tmp_path / NAME).write_bytes(records.to_line(row))
            assert records.read_records(tmp_path) == {row.key: row}

    assert taken, "some changes are of no harm"
    passed("fuzz checksums", f"{times} bodies: refused or no rows, {len(taken)} sound records")


# Names of tensors


@pytest.mark.parametrize("keys", [rules.LLAVA, rules.CLIP], ids=["llava", "clip"])
@pytest.mark.times(60, 3000)
def test_every_key_of_a_checkpoint_is_accounted_for(tmp_path, keys, times, passed):
    """Either every tensor fills one parameter, or the message counts what is wrong."""
    targets = shapes(tmp_path, keys)
    right = {keys.key_of(path): path for path in targets}
    assert {key: keys.path_of(key) for key in right} == right
    known = st.sampled_from(sorted(right))
    shape = st.lists(st.integers(0, 2**40), max_size=3).map(tuple)
    near = st.tuples(known, st.integers(0, 60), st.text(max_size=3)).map(
        lambda x: x[0][: x[1]] + x[2] + x[0][x[1] :]
    )
    added = st.dictionaries(
        known | near | known.map("model.".__add__) | st.text(), shape, max_size=4
    )

    @fuzz(times, st.sets(known, max_size=3), added)
    def check(removed, more):
        sources = {key: targets[path] for key, path in right.items() if key not in removed}
        sources |= more
        paths = {key: keys.path_of(key) for key in sources}
        wrong = sum(paths[key] not in targets for key in sources)
        by_path = {}
        for key, path in paths.items():
            by_path.setdefault(path, []).append(key)
        wrong += sum(len(by_path.get(path, ())) != 1 for path in targets)
        wrong += sum(
            targets.get(paths[key], shape) != shape and len(by_path[paths[key]]) == 1
            for key, shape in sources.items()
        )
        try:
            found = keys.match(sources, targets)
        except rules.ConversionError:
            found = None
        assert (found is None) == bool(wrong), f"{wrong} violations"
        if found is None:
            return
        assert set(found) == set(targets)
        assert sorted(found.values()) == sorted(sources)

    passed("W3 fuzz", f"{times} sets of keys: each filled exactly or was refused")


@functools.cache
def shapes(folder, keys):
    """Return path → shape of a tiny model's parameters."""
    if keys is rules.CLIP:
        testing.write_clip(folder)
        cfg = huggingface.read_clip_config(folder)
    else:
        testing.write_checkpoint(folder)
        cfg = huggingface.read_config(folder)
    return {p: leaf.shape for p, leaf in huggingface.flatten(huggingface.abstract(cfg)).items()}


HEADERS = (  # and how many bytes of tensors belong to each
    (
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}',
        16,
    ),
    (
        b'{"b":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},"x.rotary_emb.inv_freq":'
        b'{"dtype":"I64","shape":[1],"data_offsets":[2,10]}}',
        10,
    ),
)


@pytest.mark.times(80, 5000)
def test_altered_safetensors(tmp_path, times, passed):
    """A file is refused, or every tensor lies inside it."""
    files = [
        st.tuples(json_changed(h) | bytes_changed(h) | st.just(h), st.just(size))
        for h, size in HEADERS
    ]
    length = st.none() | st.none() | st.integers(0, 2**64 - 1)
    taken = []

    @fuzz(times, st.one_of(files), length, st.sampled_from((0, 0, 1, -1)))
    def check(file, length, more):
        header, size = file
        begin = (len(header) if length is None else length).to_bytes(8, "little")
        (tmp_path / tensors.SINGLE).write_bytes(begin + header + bytes(size + more))
        try:
            found = tensors.tensors(tmp_path, rules.LLAVA.ignored)
        except (ValueError, OSError):
            return
        taken.append(found)
        for tensor in found.values():
            assert tensor.offset + tensor.nbytes <= 8 + len(header) + size + more
            assert tensor.read().shape == tensor.shape

    assert taken
    passed("W1 fuzz", f"{times} altered files: refused, or all tensors inside ({len(taken)})")


# Questions and answers

FILES = {
    "pope": (pope, "pope", "coco/coco_pope_random.json", "json"),
    "scienceqa": (scienceqa, "scienceqa", "problems.json", "json"),
    "scienceqa splits": (scienceqa, "scienceqa", "pid_splits.json", "json"),
    "mme": (mme, "mme", "MME_Benchmark_release_version/color/0105.txt", "tsv"),
    "mmbench": (mmbench, "mmbench", "MMBench_DEV_EN.tsv", "tsv"),
    "textvqa": (textvqa, "textvqa", "TextVQA_0.5.1_val.json", "json"),
    "textvqa words": (textvqa, "textvqa", "TextVQA_Rosetta_OCR_v0.2_val.json", "json"),
    "seed": (seed, "seed_bench", "SEED-Bench.json", "json"),
    "gqa": (gqa, "gqa", "testdev_balanced_questions.json", "json"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.times(15, 1000)
def test_altered_question_files(fixtures_dir, tmp_path, name, times, passed):
    """A data set that is taken can be hashed, asked, recorded and scored."""
    module, folder, file, kind = FILES[name]
    benchmark, data = module.BENCHMARK, tmp_path / folder
    shutil.copytree(fixtures_dir / "raw" / folder, data)
    for other in data.glob("mmbench_dev_*.tsv"):
        other.unlink()
    taken = []

    @fuzz(times, changed((data / file).read_bytes(), kind))
    def check(damaged):
        (data / file).write_bytes(damaged)
        try:
            dataset = benchmark.raw(data, Request(data=str(data)))
        except InputError:
            return
        taken.append(dataset)
        dataset.digest(allow_missing=True)
        assert len({example.key for example in dataset.examples}) == len(dataset.examples) > 0
        for example in dataset.examples:
            assert example.split in benchmark.splits
            assert (example.label is None) == (not example.choices)
            assert example.label is None or example.label in range(len(example.choices))
            example.user_text.encode()
        benchmark.score([example.question.answered("A") for example in dataset.examples])

    passed("fuzz questions", f"{name}: {times} altered files, {len(taken)} of them sound, 0 raised")


@pytest.mark.times(60, 3000)
def test_altered_answers(fixtures_dir, tmp_path, times, passed):
    data = fixtures_dir / "raw" / "pope"
    examples = pope.BENCHMARK.raw(data, Request(data=str(data))).examples
    answers = [{"key": example.key, "text": "Yes"} for example in examples[:3]]
    answers += [{"question_id": 4, "split": "random", "text": "no."}]
    content = "".join(json.dumps(answer) + "\n" for answer in answers).encode()
    file = tmp_path / "answers.jsonl"

    @fuzz(times, changed(content, "json"))
    def check(damaged):
        file.write_bytes(damaged)
        try:
            found = stored.read(file, examples)
        except InputError:
            return
        assert len({answer.key for answer in found}) == len(found) > 0
        pope.BENCHMARK.score(found)

    passed("fuzz answers", f"{times} altered files: scored or refused")


# Logs of other tools


def archive():
    """Return a small .eval, its members not compressed so that changes reach them."""
    content = io.BytesIO()
    with zipfile.ZipFile(LOGS / "inspect" / "deflated.eval") as log:
        names = [name for name in log.namelist() if name.startswith("samples/")][:2]
        with zipfile.ZipFile(content, "w") as small:
            for name in names:
                small.writestr(name, log.read(name))
    return content.getvalue()


def small_logs():
    """Return name → (path, file inside it, content, kind)."""
    letter = json.loads((LOGS / "inspect" / "letter.json").read_bytes())["samples"][:2]
    helm = json.loads((LOGS / "helm" / "per_instance_stats.json").read_bytes())[:2]
    samples = next((LOGS / "lm_eval").glob("samples_shapes_text_*.jsonl")).read_bytes()
    return {
        "inspect:log.json": ("", json.dumps({"samples": letter}).encode(), "json"),
        "inspect:log.eval": ("", archive(), "bytes"),
        "lmeval:samples_a.jsonl": ("", b"".join(samples.splitlines(True)[:3]), "json"),
        "helm:run": ("per_instance_stats.json", json.dumps(helm).encode(), "json"),
        "csv:rows.csv": ("", b"id,split,confidence,correct\na,x,0.5,1\nb,x,1,0\n", "csv"),
        "csv:masses.csv": ("", b"log_mass_0,log_mass_1,label\n-1,-2,0\n-3,-1e3,1\n", "csv"),
        "csv:rows.jsonl": ("", b'{"confidence":0.5,"correct":true}\n' * 3, "json"),
    }


@pytest.mark.parametrize("spec", small_logs())
@pytest.mark.times(20, 2000)
def test_altered_logs(tmp_path, spec, times, passed):
    """Rows that are taken are what the metrics take."""
    inside, content, kind = small_logs()[spec]
    form, _, name = spec.partition(":")
    file = tmp_path / name / inside
    file.parent.mkdir(exist_ok=True)
    taken = []

    @fuzz(times, changed(content, kind))
    def check(damaged):
        file.write_bytes(damaged)
        try:
            rows = logs.read(f"{form}:{tmp_path / name}")
        except InputError:
            return
        taken.append(rows)
        everyone = np.arange(len(rows.key))
        best = np.argmax(rows.log_masses, axis=1) if rows.prediction is None else rows.prediction
        assert rows.valid[everyone, best].all()
        assert rows.valid[everyone, rows.label].all()
        assert np.isfinite(rows.log_masses[rows.valid]).all()
        for text in (*rows.key, *rows.splits):
            text.encode()

    passed("fuzz logs", f"{spec}: {times} altered logs, {len(taken)} of them sound, 0 raised")
