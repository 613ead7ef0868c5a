"""Aligned safetensors: what others read too, and what is mapped and not copied."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from llava_jax import checkpoint, sums, testing
from llava_jax.checkpoint import aligned, conversion, huggingface, tensors

SHAPES = {"odd": (3,), "first": (4, 16), "empty": (0, 7), "second": (32,), "scalar": ()}


def write(file, dtype=np.float32, shapes=SHAPES):
    rng = np.random.default_rng(0)
    values = {key: rng.normal(size=shape).astype(dtype) for key, shape in shapes.items()}
    keys = aligned.order(shapes, np.dtype(dtype))
    aligned.write(file, shapes, np.dtype(dtype), (values[key] for key in keys))
    return values


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_library_reads_it(tmp_path, dtype):
    want = write(tmp_path / "model.safetensors", dtype)
    got = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert got[key].dtype == dtype
        np.testing.assert_array_equal(got[key], value)


def test_tensors_begin_at_multiples_of_64_bytes(tmp_path):
    write(tmp_path / "model.safetensors")
    found = tensors.tensors(tmp_path, ignored="")
    for key in ("first", "second", "odd"):  # the odd one is the first of those that come last
        assert found[key].offset % aligned.ALIGNMENT == 0, key


def test_a_value_that_is_not_what_was_said_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"a is float32\[2\], not float32\[3\]"):
        aligned.write(tmp_path / "m", {"a": (3,)}, np.dtype(np.float32), [np.zeros(2, np.float32)])
    with pytest.raises(ValueError, match="shorter"):
        aligned.write(tmp_path / "m", {"a": (3,)}, np.dtype(np.float32), [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_converted_folder_is_a_hugging_face_folder(tmp_path, dtype):
    cfg = testing.write_checkpoint(tmp_path / "model")
    record = conversion.convert(tmp_path / "model", tmp_path / "new", dtype, "safetensors")
    assert record["form"] == "safetensors"
    assert record["dtype"] == np.dtype(dtype).name
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        *("SHA256SUMS", "config.json", "conversion.json", "model.safetensors", "tokenizer.json")
    }
    want = checkpoint.load(tmp_path / "model", cfg, dtype)
    got = checkpoint.load(tmp_path / "new", cfg, dtype)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert checkpoint.digest(tmp_path / "new") != checkpoint.digest(tmp_path / "model")
    with pytest.raises(FileExistsError, match="already"):
        conversion.convert(tmp_path / "model", tmp_path / "new", dtype, "safetensors")


def test_a_converted_folder_is_mapped_where_it_lies(tmp_path):
    cfg = testing.write_checkpoint(tmp_path / "model")
    conversion.convert(tmp_path / "model", tmp_path / "new", np.float32, "safetensors")
    sources = huggingface.plan(tmp_path / "new", cfg)
    mapped = {path: sources[path].read() for path in sources}
    placed = dict(
        zip(mapped, jax.tree.leaves(huggingface.place(mapped.items(), cfg, None)), strict=True)
    )
    copied = [
        path
        for path, leaf in placed.items()
        if leaf.unsafe_buffer_pointer() != mapped[path].ctypes.data
    ]
    aligned_by_size = [p for p, tensor in sources.items() if tensor.nbytes % 64 == 0]
    assert len(aligned_by_size) > 0.9 * len(sources)
    assert not set(copied) & set(aligned_by_size)


def test_a_damaged_copy_and_a_kill_are_noticed(tmp_path):
    cfg = testing.write_checkpoint(tmp_path / "model")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".model.safetensors.01234567").write_bytes(b"cut sho")
    with pytest.raises(FileNotFoundError):
        tensors.files(tmp_path / "new")
    conversion.convert(tmp_path / "model", tmp_path / "new", np.float32, "safetensors")
    file = tmp_path / "new" / tensors.SINGLE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="bits have changed"):
        checkpoint.digest(tmp_path / "new")
    (tmp_path / "new" / sums.NAME).unlink()
    assert checkpoint.load(tmp_path / "new", cfg, np.float32)


def test_values_that_are_not_finite_leave_no_model(tmp_path):
    testing.write_checkpoint(tmp_path / "model")
    whole = safetensors.numpy.load_file(tmp_path / "model" / tensors.SINGLE)
    whole["language_model.model.norm.weight"][3] = 1e30
    safetensors.numpy.save_file(whole, tmp_path / "model" / tensors.SINGLE)
    with pytest.raises(checkpoint.ConversionError, match="1 of 48 that are NaN or Inf in float16"):
        conversion.convert(tmp_path / "model", tmp_path / "new", np.float16, "safetensors")
    assert not list((tmp_path / "new").iterdir())


def test_the_header_says_nothing_else(tmp_path):
    write(tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert set(header) == set(SHAPES)
    assert 8 + length + max(part["data_offsets"][1] for part in header.values()) == len(content)
