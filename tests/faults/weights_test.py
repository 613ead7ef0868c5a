"""Weights that are damaged, hostile or another model's: refused by name, before a question."""

import dataclasses
import gzip
import io
import itertools
import json
import pathlib
import pickle
import re
import shutil
import struct
import tracemalloc
import zipfile

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from experiments.harness import relevance, source
from experiments.harness.errors import InputError
from experiments.reading import counts, files, tables
from llava_jax import checkpoint, diagnosis, images, sums
from llava_jax.checkpoint import conversion, finite, huggingface, rules, tensors

WEIGHTS = "model.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 9\n" % (b"0" * 64)
HTML = b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head></html>\n"


@pytest.fixture
def folder(tiny, tmp_path):
    return pathlib.Path(shutil.copytree(tiny, tmp_path / "model"))


def parts(content):
    """Return a file's header and data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def packed(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def first_two(header):
    """Return the names of the first two tensors of a file by their place."""
    names = sorted(header.keys() - {"__metadata__"}, key=lambda k: header[k]["data_offsets"])
    return names[:2]


def changed(header, data, **fields):
    name, _ = first_two(header)
    return packed(header | {name: header[name] | fields}, data)


def overlapping(header, data):
    first, second = first_two(header)
    begin, end = header[second]["data_offsets"]
    moved = header[second] | {"data_offsets": [begin - 4, end - 4]}
    del first
    return packed(header | {second: moved}, data)


def holed(header, data):
    """Leave four bytes in front of every tensor."""
    for name in header.keys() - {"__metadata__"}:
        header[name]["data_offsets"] = [x + 4 for x in header[name]["data_offsets"]]
    return packed(header, bytes(4) + data)


def doubled(header, data):
    name, _ = first_two(header)
    text = json.dumps(header)
    again = f', "{name}": {json.dumps(header[name])}}}'
    return packed((text[:-1] + again).encode(), data)


def swapped(header, data):
    name, _ = first_two(header)
    return changed(header, data, data_offsets=header[name]["data_offsets"][::-1])


MALFORMED = {
    "ends in its length": lambda h, d: packed(h, d)[:5],
    "ends in its header": lambda h, d: packed(h, d)[:200],
    "ends in its data": lambda h, d: packed(h, d)[:-100],
    "a length beyond its end": lambda h, d: struct.pack("<Q", 10**7) + packed(h, d)[8:],
    "a length beyond 64 bits": lambda h, d: b"\xff" * 8 + packed(h, d)[8:],
    "a header of 100 MB": lambda h, d: struct.pack("<Q", 10**8 + 1) + packed(h, d)[8:],
    "a header that is no JSON": lambda h, d: packed(b"{" * 64, d),
    "a header that is a list": lambda h, d: packed([h], d),
    "a dtype that nobody knows": lambda h, d: changed(h, d, dtype="F13"),
    "two tensors in one place": overlapping,
    "bytes of no tensor": holed,
    "a shape beyond 64 bits": lambda h, d: changed(h, d, shape=[2**62, 2**62]),
    "a shape of another size": lambda h, d: changed(h, d, shape=[3]),
    "an end before its beginning": swapped,
    "one name twice": doubled,
    "bytes behind its end": lambda h, d: packed(h, d) + bytes(16),
    "a pointer of Git LFS": lambda h, d: LFS,
}


def refused(folder, action=source.Source.load):
    """Return why a model's folder is refused; one line."""
    with pytest.raises(InputError) as caught:
        action(source.find(str(folder), "float32", offline=True))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_malformed_files_are_refused(folder, passed):
    file, count = folder / WEIGHTS, 0
    content = file.read_bytes()
    for name, make in MALFORMED.items():
        file.write_bytes(make(*parts(content)))
        said = refused(folder)
        assert str(file) in said, name
        assert re.search("not a valid safetensors file: .+|is a Git LFS", said), name
        count += 1
    file.write_bytes(content)
    sums.write(folder, [file])
    source.find(str(folder), "float32", offline=True).load()
    whole = safetensors.numpy.load(content)
    key = min(whole)
    whole[key].flat[0] = np.nan
    file.write_bytes(safetensors.numpy.save(whole))
    assert f"{key} has 1 of {whole[key].size} that are NaN or Inf in float32" in refused(folder)
    flipped = bytearray(content)
    flipped[-1000] ^= 4
    file.write_bytes(flipped)
    assert "its bits have changed" in refused(folder, source.Source.digest)
    total = len(MALFORMED) + 2
    passed("W1", f"{count + 2} of {total} malformed files refused by name, no model made")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_values_that_are_not_finite_are_counted(dtype):
    """Every pattern of two bytes; of more, the edges of the exponent and chance."""
    size = np.dtype(dtype).itemsize
    if size == 2:
        bits = np.arange(2**16, dtype=np.uint16)
    else:
        rng = np.random.default_rng(0)
        ends = [np.array(x, dtype) for x in (np.inf, -np.inf, np.nan, 0.0, -0.0)]
        edges = np.array(ends).view(f"u{size}")
        drawn = rng.integers(0, 2 ** (8 * size), 300_000, np.uint64).astype(f"u{size}")
        bits = np.concatenate([edges, edges - 1, edges + 1, drawn])
    values = bits.view(dtype)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(values)
    want = np.count_nonzero(~good)
    assert finite.count_bad(values) == want > 0
    assert finite.count_bad(values[good]) == 0
    assert finite.count_bad(values[:0]) == 0
    raw = np.concatenate([np.zeros(1, np.uint8), bits.view(np.uint8)])[1:]  # as in a file
    assert finite.count_bad(raw.view(dtype).reshape(1, -1)) == want


def test_looking_for_them_copies_no_tensor(tmp_path):
    file = tmp_path / "tensor"
    with file.open("wb") as handle:
        handle.truncate(64 * 2**20)
    tracemalloc.start()
    assert finite.count_bad(np.memmap(file, np.float32, "r")) == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 2**20


def write_orbax(folder, values):
    """Write a converted checkpoint as it is, values that are not finite included."""
    cfg = checkpoint.read_config(folder)
    tree = huggingface.abstract(cfg)
    leaves = [values[rules.LLAVA.key_of(path)] for path in huggingface.flatten(tree)]
    with ocp.StandardCheckpointer() as checkpointer:
        params = jax.tree.unflatten(jax.tree.structure(tree), leaves)
        checkpointer.save((folder / "params").absolute(), params)
    (folder / "conversion.json").write_text("{}")


@pytest.mark.parametrize("form", ["hub", "orbax", "clip"])
def test_weights_that_are_no_numbers_are_named_together(config, folder, form, passed):
    place = folder / "clip" if form == "clip" else folder
    whole = safetensors.numpy.load_file(place / WEIGHTS)
    keys = sorted(whole)[::2][:20]
    for number, key in enumerate(keys):
        whole[key].flat[: 1 + number % 3] = [np.nan, np.inf, -np.inf][: 1 + number % 3]
    if form == "orbax":
        write_orbax(folder, whole)
    else:
        safetensors.numpy.save_file(whole, place / WEIGHTS)
    if form == "clip":
        model = source.find(config.model, None, offline=True)
        found = relevance.find(dataclasses.replace(config, clip=str(place)), model)
        with pytest.raises(InputError, match="--clip=") as caught:
            found.engine  # noqa: B018
        said = str(caught.value)
    else:
        said = refused(folder)
    named = re.findall(r"(\S+) has (\d) of (\d+) that are NaN or Inf in float32", said)
    assert len(named) == 12
    path = rules.LLAVA.path_of if form == "orbax" else str
    want = {str(path(key)): 1 + number % 3 for number, key in enumerate(keys)}
    assert f"({len(keys)} tensors)" in said
    assert f"and {len(keys) - 12} more" in said
    for name, count, size in named:
        assert want[name] == int(count) <= int(size)
    passed(f"W2 {form}", f"{len(keys)} of {len(keys)} tensors counted, {len(named)} named")


def test_a_value_too_large_for_the_dtype_is_named(folder, tmp_path):
    whole = safetensors.numpy.load_file(folder / WEIGHTS)
    key = "language_model.lm_head.weight"
    whole[key][3, :2] = 1e5
    safetensors.numpy.save_file(whole, folder / WEIGHTS)
    source.find(str(folder), "float32", offline=True).load()
    with pytest.raises(InputError, match=rf"{key} has 2 of \d+ that are NaN or Inf in float16"):
        source.find(str(folder), "float16", offline=True).load()
    with pytest.raises(checkpoint.ConversionError, match=key):
        conversion.convert(folder, tmp_path / "half", np.float16)
    assert not (tmp_path / "half").exists()


def test_every_key_is_accounted_for(folder, passed):
    """Each tensor missing, misnamed, transposed, with a row more, in turn."""
    cfg = checkpoint.read_config(folder)
    targets = {p: leaf.shape for p, leaf in huggingface.flatten(huggingface.abstract(cfg)).items()}
    shapes = {k: t.shape for k, t in tensors.tensors(folder, rules.LLAVA.ignored).items()}
    assert len(rules.LLAVA.match(shapes, targets)) == len(shapes) == len(targets)
    cases = 0

    def named(sources, *needles):
        nonlocal cases
        with pytest.raises(checkpoint.ConversionError) as caught:
            rules.LLAVA.match(sources, targets)
        assert all(needle in str(caught.value) for needle in needles), needles
        cases += 1

    for key, shape in shapes.items():
        rest = {k: s for k, s in shapes.items() if k != key}
        named(rest, f"missing tensor {key}")
        named(rest | {f"{key}_2": shape}, f"missing tensor {key}", f"extra tensor {key}_2")
        named(shapes | {key: (shape[0] + 1, *shape[1:])}, f"{key} has shape")
        if shape != shape[::-1]:
            named(shapes | {key: shape[::-1]}, f"{key} has shape {list(shape[::-1])}")
    passed("W3 keys", f"{len(shapes)} of {len(shapes)} keys accounted for in {cases} cases")


def sharded(folder, index=lambda names: names, second=lambda tensors: tensors):
    """Divide a folder's weights into two files with an index, one or the other changed."""
    whole = safetensors.numpy.load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    one, two = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    halves = {file: {k: whole[k] for k in sorted(whole)[n::2]} for n, file in enumerate((one, two))}
    names = {key: file for file, half in halves.items() for key in half}
    halves[two] = second(halves[two])
    for file, half in halves.items():
        safetensors.numpy.save_file(half, folder / file)
    content = {"weight_map": index(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def rewritten(change):
    def write(folder):
        whole = safetensors.numpy.load_file(folder / WEIGHTS)
        safetensors.numpy.save_file(change(whole), folder / WEIGHTS)

    return write


def configured(**fields):
    def write(folder):
        content = json.loads((folder / "config.json").read_text())
        content["text_config"] |= fields
        (folder / "config.json").write_text(json.dumps(content))

    return write


HEAD, NORM = "language_model.lm_head.weight", "language_model.model.norm.weight"
OTHERS = {
    "a weight of whole numbers": (
        rewritten(lambda w: w | {NORM: w[NORM].astype(np.int32)}),
        rf"dtype not one of .*{NORM}.*I32",
    ),
    "a tied head": (rewritten(lambda w: {k: v for k, v in w.items() if k != HEAD}), HEAD),
    "a tied head that is said": (configured(tie_word_embeddings=True), "tie_word_embeddings=True"),
    "a vocabulary of 32064 for 512": (configured(vocab_size=32064), rf"{HEAD} has shape .*32064"),
    "an index that names the wrong file": (
        lambda f: sharded(f, lambda n: n | {min(n): n[sorted(n)[1]]}),
        "misplaces 1 tensors, first .+",
    ),
    "an index that names a tensor of no file": (
        lambda f: sharded(f, lambda n: n | {"made.up": min(n.values())}),
        "misplaces 1 tensors, first made.up",
    ),
    "an index without a file": (
        lambda f: sharded(f, lambda n: n | {"made.up": "model-00003-of-00002.safetensors"}),
        "names files that are not there: .*00003",
    ),
    "two files that hold one tensor": (
        lambda f: sharded(f, second=lambda w: w | {HEAD: np.ones(3, np.float32)}),
        f"{HEAD} is in model-00001.* and in model-00002",
    ),
    "an index of a file elsewhere": (
        lambda f: sharded(f, lambda n: n | {min(n): "../secret/model.safetensors"}),
        r"'\.\./secret/model\.safetensors' is no file of its folder",
    ),
    "an index of a list": (lambda f: sharded(f, list), "is no file of its folder"),
    "sizes that are no sizes": (
        configured(num_hidden_layers=10**30, hidden_size="48", num_attention_heads=0),
        r"hidden_layers=1000000.*hidden_size='48'|hidden_size='48'.*hidden_layers=1000000",
    ),
}


def test_another_models_weights_are_refused(tiny, tmp_path, passed):
    for number, (change, named) in enumerate(OTHERS.values()):
        folder = pathlib.Path(shutil.copytree(tiny, tmp_path / str(number)))
        change(folder)
        said = refused(folder)
        assert re.search(named, said), said
    passed("W3", f"{len(OTHERS)} of {len(OTHERS)} other models, files and indexes refused by name")


PICKLED = ("pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.ckpt")


def test_pickles_are_refused_and_never_run(folder, sentinel, pickled, passed):
    zipped, content = io.BytesIO(), pickled()
    with zipfile.ZipFile(zipped, "w") as archive:  # as torch.save writes it
        archive.writestr("archive/data.pkl", content)
    forms = [pickled(2), pickled(5), zipped.getvalue()]
    weights = (folder / WEIGHTS).read_bytes()
    for name, form in itertools.product(PICKLED, forms):
        (folder / name).write_bytes(form)  # beside weights it is not looked at
        found = source.find(str(folder), "float32", offline=True)
        found.digest()
        found.load()
        (folder / WEIGHTS).unlink()
        said = refused(folder)
        assert f"{name} is a pickle, which can run code" in said
        assert "safetensors" in said
        (folder / WEIGHTS).write_bytes(form)  # under a name that promises safety
        assert f"{folder / WEIGHTS} is a pickle, which can run code" in refused(folder)
        (folder / WEIGHTS).write_bytes(weights)
        (folder / name).unlink()
    assert not sentinel.exists()
    pickle.loads(content)
    assert sentinel.exists(), "the pickle is hostile"
    total = len(PICKLED) * len(forms)
    passed("W4", f"{total} of {total} pickles refused with the hint, none ran")


CONTENTS = {
    "is empty: the download did not finish": b"",
    "is a Git LFS pointer": LFS,
    "is a web page": HTML,
    "is a pickle": pickle.dumps([1.0] * 100),
    "is compressed by gzip": gzip.compress(b"{}"),
    "is a zip archive": b"PK\x03\x04" + bytes(60),
    "begins with nothing but zeros": bytes(1000),
}


def _input(action, name):
    def said(folder):
        with pytest.raises(InputError) as caught:
            action(folder / name)
        return str(caught.value)

    return said


def _rows(lines, file):
    return counts.checked([row for _, row in lines], {}, str(file))


def _picture(folder):
    with pytest.raises(images.ImageError) as caught:
        images.read(folder / "picture.jpg")
    return str(caught.value)


def _without(name):
    def said(folder):
        (folder / name).unlink(missing_ok=True)
        return refused(folder)

    return said


READERS = {
    WEIGHTS: refused,
    "model.safetensors.index.json": _without(WEIGHTS),
    "config.json": refused,
    "tokenizer.json": refused,
    "tokenizer.model": _without("tokenizer.json"),
    "a.json": _input(lambda file: files.json_value(file, dict), "a.json"),
    "a.jsonl": _input(lambda file: _rows(files.json_lines(file), file), "a.jsonl"),
    "a.tsv": _input(lambda file: _rows(files.tab_separated(file), file), "a.tsv"),
    "data/a-0.parquet": _input(lambda place: tables.Tables(place, "").open("x", "a", []), ""),
    "picture.jpg": _picture,
}


def test_what_was_saved_in_a_files_place_is_said(tiny, tmp_path, passed):
    cases = 0
    for number, (name, action) in enumerate(READERS.items()):
        folder = pathlib.Path(shutil.copytree(tiny, tmp_path / str(number)))
        (folder / "data").mkdir()
        for said, content in CONTENTS.items():
            if name.startswith("a.") and not content:  # lines may be none; who asks says so
                said = "has no questions" if name != "a.json" else said
            (folder / name).write_bytes(content)
            message = action(folder)
            assert said in message, message
            assert pathlib.PurePath(name).name in message
            assert "\n" not in message
            cases += 1
    kinds = f"{len(READERS)} kinds of files, {len(CONTENTS)} contents"
    passed("W5", f"{cases} of {cases} said in plain words ({kinds})")


def test_files_that_are_in_order_are_nothing_else(tiny, fixtures_dir):
    kept = [*tiny.rglob("*"), *fixtures_dir.rglob("*")]
    kept = [file for file in kept if file.is_file() and file.stat().st_size]
    for file in kept:
        if not file.name.startswith("bad_"):
            assert diagnosis.of_file(file) is None, file
    assert len(kept) > 100
    assert diagnosis.of_file(tiny / "absent") is None
