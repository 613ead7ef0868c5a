"""Torch's archives are read without torch, and nothing of them is ever run."""

import builtins
import collections
import itertools
import os
import pickle
import random
import re
import zipfile

import ml_dtypes
import numpy as np
import pytest

from llava_jax.checkpoint import pickled

IGNORED = r"ignored\..*"


def arrays():
    values = np.random.default_rng(0).standard_normal((3, 5))
    kinds = {"half": np.float16, "single": np.float32, "double": np.float64}
    found = {name: values.astype(dtype) for name, dtype in kinds.items()}
    found |= {"brain": values.astype(ml_dtypes.bfloat16), "scalar": np.array(2.5, np.float32)}
    return found | {"row": np.arange(7, dtype=np.float32), "ignored.ids": np.arange(4)}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "pytorch_model.bin"


def check(found, want):
    assert found.keys() == {key for key in want if not key.startswith("ignored.")}
    for key, tensor in found.items():
        assert tensor.dtype == want[key].dtype
        np.testing.assert_array_equal(tensor.read(), want[key], strict=True)


def refused(file):
    with pytest.raises(ValueError, match=str(file)) as caught:
        pickled.read(file, IGNORED)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors_are_mapped_where_they_lie(file, torch_archive):
    torch_archive.write(file, arrays())
    check(pickled.read(file, IGNORED), arrays())
    with pytest.raises(ValueError, match=r"ignored\.ids: LongStorage is not one of DoubleStorage"):
        pickled.read(file, "")


def test_views_of_one_storage_share_its_bytes(file, torch_archive):
    at, whole = torch_archive, np.arange(12, dtype=np.float32)
    stored = at.storage("FloatStorage", "0", at.number(12))
    views = {
        "rows": at.tensor(stored, 4, (2, 4), (4, 1)),
        "all": at.tensor(stored, 0, (3, 4), (4, 1)),
        "again": at.tensor(stored, 0, (3, 1, 4), (4, 99, 1)),
        "none": at.tensor(stored, 12, (0, 3), (3, 1)),
    }
    at.write(file, {"": whole}, at.mapping(views))
    found = pickled.read(file, IGNORED)
    np.testing.assert_array_equal(found["rows"].read(), whole.reshape(3, 4)[1:])
    np.testing.assert_array_equal(found["all"].read(), whole.reshape(3, 4))
    np.testing.assert_array_equal(found["again"].read(), whole.reshape(3, 1, 4))
    assert found["none"].shape == (0, 3)
    across = at.tensor(stored, 0, (4, 3), (1, 4))
    gaps = at.tensor(stored, 0, (2, 2), (4, 1))
    at.write(file, {"": whole}, at.mapping({"across": across, "fine": views["all"], "gaps": gaps}))
    said = refused(file)
    assert "across: shape (4, 3) in steps of (1, 4) is not contiguous; gaps: " in said
    assert "fine" not in said


def float_tensor(at, entry="0", size=4, start=0, shape=(4,), strides=(1,), kind="FloatStorage"):
    stored = at.storage(kind, entry, at.number(size))
    return at.mapping({"a": at.tensor(stored, start, shape, strides)})


WRONG = {
    "reaches out of its storage of 4": lambda at: float_tensor(at, start=1),
    "from 281474976710655 on reaches out": lambda at: float_tensor(at, start=2**48 - 1),
    r"data/0 has 16 bytes, not 5 of float32": lambda at: float_tensor(at, size=5),
    r"data/0 has 16 bytes, not 4 of float16": lambda at: float_tensor(at, kind="HalfStorage"),
    r"there is no entry 'data/1'": lambda at: float_tensor(at, entry="1"),
    "no storage where one should be": lambda at: float_tensor(at, entry="../../etc/passwd"),
    "IntStorage is not one of": lambda at: float_tensor(at, kind="IntStorage"),
    "'torch.UntypedStorage'": lambda at: float_tensor(at, kind="UntypedStorage"),
    "no storage where one": lambda at: float_tensor(at, size=-4),
    "something else than a tensor": lambda at: float_tensor(at, shape=(-4,)),
    r"something else than a tensor: \(_Name, tuple\)": lambda at: float_tensor(at, strides=()),
    "something else than": lambda at: float_tensor(at, shape=(1,) * 9, strides=(1,) * 9),
    "than a  ?tensor": lambda at: float_tensor(at, shape=(2**400,)),
    "a key that is no name, or twice: 'a'": lambda at: at.mapping([("a", b"N"), ("a", b"N")]),
    r"or twice: 'a\\nb'": lambda at: at.mapping({"a\nb": b"N"}),
    "a: NoneType is no tensor; b: dict is no tensor": lambda at: at.mapping({"a": b"N", "b": b"}"}),
    r"holds tuple|holds \('x'\), not a dictionary": lambda at: at.group(at.text("x")),
    "takes what is not on its stack": lambda at: b"NR",
    "has the instruction POP": lambda at: b"N0",
    "the instruction BINFLOAT": lambda at: b"G" + bytes(8),
    "not on its stack": lambda at: at.mapping({}) + b"t",
    "takes what is": lambda at: b"h\x07",
    "puts values into something else": lambda at: b")" + at.text("a") + b"Ns",
    "into something else than a dictionary": lambda at: b"}(" + at.text("a") + b"u",
}


@pytest.mark.parametrize("named", WRONG)
def test_programs_that_are_no_state_dict_are_refused(file, torch_archive, named):
    torch_archive.write(file, {"": np.zeros(4, np.float32)}, WRONG[named](torch_archive))
    with pytest.raises(ValueError, match=named):
        pickled.read(file, IGNORED)
    refused(file)


class Hostile:
    """Does something when it is unpickled."""

    def __init__(self, call, *given):
        self.how = (call, given)

    def __reduce__(self):
        return self.how


def hostile(sentinel):
    """Values that leave a file when they are unpickled."""
    opened = Hostile(os.open, str(sentinel), os.O_CREAT)
    return {
        "posix.system": Hostile(os.system, f"touch {sentinel}"),
        "builtins.eval": Hostile(builtins.eval, f"open({str(sentinel)!r}, 'w').close()"),
        "posix.open": {"a": Hostile(collections.OrderedDict, {"b": opened})},
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", hostile(""))
def test_hostile_pickles_are_refused_and_never_run(file, tmp_path, torch_archive, name, protocol):
    sentinel = tmp_path / "ran"
    content = pickle.dumps(hostile(sentinel)[name], protocol=protocol)
    torch_archive.write(file, {}, change=lambda found: found | {"data.pkl": content})
    said = refused(file)
    if protocol > 1:  # in the older ones it is refused that a pickle has lists, before its names
        what = name.removeprefix("builtins")  # which protocol 2 spells as Python 2 did
        assert f"{what}', which no tensor needs; it was not run" in said
    assert not sentinel.exists()
    pickle.loads(content)
    assert sentinel.exists(), "the pickle is hostile"


CALLS = {
    "os system": "a called function",
    "torch.storage _load_from_bytes": "what torch has for storages within a pickle",
    "torch load": "torch itself",
    "torch._utils _rebuild_tensor": "the older form",
    "torch._utils _rebuild_tensor_v2.__globals__": "a way into an admitted name",
    "collections OrderedDict.fromkeys": "a method of an admitted name",
    "builtins getattr": "any attribute",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_name_that_no_tensor_needs_is_refused_wherever_it_stands(file, torch_archive, name):
    at = torch_archive
    call = at.call(at.name(*name.split(" ")), at.text("true"))
    ordered = at.name("collections", "OrderedDict")
    places = [
        call,
        at.mapping({"a": call}),
        at.mapping({"ignored.a": call}),
        at.call(ordered, call),
        ordered + at.group() + b"R" + at.mapping({"_metadata": call}) + b"b",
        at.storage("FloatStorage", "0", call),
        at.mapping({}) + call + b"0",
    ]
    for program in places:
        at.write(file, {"": np.zeros(4, np.float32)}, program)
        assert repr(name.replace(" ", ".")) in refused(file)


def test_what_is_given_to_admitted_names_is_not_called(file, torch_archive):
    """Attributes set on an admitted name, arguments of a dictionary, a name as a key."""
    at = torch_archive
    ordered = at.name("collections", "OrderedDict")
    at.write(file, {}, at.call(ordered, at.mapping({"a": b"N"})))
    assert "something else than a tensor" in refused(file)
    at.write(file, {}, b"}" + ordered + b"Ns")
    assert "a key that is no name" in refused(file)
    at.write(file, {}, ordered + at.mapping({"__call__": b"N"}) + b"b")
    assert "holds _Name, not a dictionary" in refused(file)


def test_bombs_take_neither_time_nor_memory(file, torch_archive):
    at = torch_archive
    doubled = b")" + b"q\x00h\x00\x86" * 60_000  # a tuple of 2^60000 parts
    bombs = {
        "holds (tuple, tuple), not a dictionary": doubled,
        "no name, or twice: (tuple, tuple)": b"}" + doubled + b"Ns",
        "asks for ''": doubled + b"q\x00h\x00\x93",
        "no storage where one should be: (tuple, tuple)": doubled + b"Q",
        "4294967295": b"X\xff\xff\xff\xffa",
        "data.pkl has 5242": b"N" * (5 << 20),
    }
    for named, program in bombs.items():
        at.write(file, {}, program)
        assert named in refused(file)
    for program in (b"}r\xff\xff\xff\xff" + at.mapping({}), b"(" * 60_000 + b"}" * 60_000):
        at.write(file, {}, program)
        assert pickled.read(file, IGNORED) == {}


ARCHIVES = {
    "is compressed or encrypted; torch.save stores": {"compression": zipfile.ZIP_DEFLATED},
    "byte order b'big'; only little is read": {
        "change": lambda found: found | {"byteorder": b"big"}
    },
    "data/0 has 15 bytes, not 4 of float32": {
        "change": lambda found: found | {"data/0": bytes(15)}
    },
    "not with one data.pkl": {"change": lambda found: {"version": b"3"}},
}


@pytest.mark.parametrize("named", ARCHIVES)
def test_other_archives_are_refused(file, torch_archive, named):
    torch_archive.write(file, {"a": np.zeros(4, np.float32)}, **ARCHIVES[named])
    assert named in refused(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/data/0", "other/data.pkl"])
def test_two_entries_for_one_are_refused(file, torch_archive, name):
    torch_archive.write(file, {"a": np.zeros(4, np.float32)})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, b"")
    assert "not with one data.pkl and every entry once" in refused(file)


def test_an_entry_elsewhere_is_refused(file, torch_archive):
    """The list at the end of the file says where an entry begins; it may say anything."""
    torch_archive.write(file, {"a": np.zeros(4, np.float32)})
    content = file.read_bytes()
    listed = content.rindex(b"archive/data/0") - 4  # the offset stands before the name
    for offset in (len(content) - 60, len(content) + 1, 2**32 - 2, 1):
        file.write_bytes(content[:listed] + offset.to_bytes(4, "little") + content[listed + 4 :])
        assert re.search("data/0 does not lie within the file|no whole zip", refused(file))


def test_what_is_no_archive_is_said(file):
    for content, named in (
        (pickle.dumps({"a": 1}, protocol=2), "is a pickle, which can run code"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"<html>", "is a web page"),
        (b"", "is empty"),
        (b"a poem", "is no archive of torch.save"),
        (b"PK\x03\x04" + bytes(99), "is no whole zip archive"),
    ):
        file.write_bytes(content)
        assert f"{file} {named}" in refused(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "a")
    assert "not with one data.pkl" in refused(file)


def damaged(content, rng, number):
    """Return a file with some bytes changed, or cut short."""
    if number % 3 == 0:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 4])):
        changed[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(changed)


def test_any_damage_is_refused_or_touches_values_alone(file, torch_archive):
    torch_archive.write(file, arrays())
    whole, want, rng = file.read_bytes(), pickled.read(file, IGNORED), random.Random(0)
    refusals = 0
    for number in range(600):
        file.write_bytes(damaged(whole, rng, number))
        try:
            found = pickled.read(file, IGNORED)
        except ValueError:
            refused(file)
            refusals += 1
        else:
            assert found == want
    assert 300 < refusals < 550


def test_the_bits_of_the_pickle_are_checked(file, torch_archive):
    torch_archive.write(file, arrays())
    file.write_bytes(file.read_bytes().replace(b"brain", b"train"))
    assert "the bits of data.pkl have changed" in refused(file)


@pytest.mark.reference
def test_files_of_torch_itself(file):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()
    module["ignored.count"] = module.pop("1.num_batches_tracked")
    state, want = module.copy(), {key: x.numpy() for key, x in module.items()}
    for key, array in arrays().items():
        state[key] = torch.from_numpy(array.astype(np.float32)) if key == "brain" else array
    state = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}
    state["brain"] = state["brain"].bfloat16()
    state["learned"] = torch.nn.Parameter(state["single"])
    want |= arrays() | {"learned": arrays()["single"]}
    ordered = collections.OrderedDict(state)
    ordered._metadata = module._metadata
    for value, protocol in itertools.product((state, ordered), (2, 4)):
        torch.save(value, file, pickle_protocol=protocol)
        check(pickled.read(file, IGNORED), want)
    torch.save(state, file, _use_new_zipfile_serialization=False)
    assert "is a pickle, which can run code" in refused(file)
    torch.save({"a": torch.zeros(3).to(torch.complex64)}, file)
    assert "'torch.ComplexFloatStorage'" in refused(file)
    torch.save({"a": torch.zeros(2, 3).T}, file)
    assert "a: shape (3, 2) in steps of (1, 3) is not contiguous" in refused(file)
    torch.save(torch.nn.Linear(2, 2), file)
    assert "'torch.nn.modules.linear.Linear'" in refused(file)
