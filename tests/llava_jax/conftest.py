"""Torch's archives, written without torch."""

import struct
import zipfile

import numpy as np
import pytest

STORAGES = {"f8": "DoubleStorage", "f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage"}


class TorchArchive:
    """The instructions that torch.save pickles a dictionary of tensors with, and its zip file.

    Every method but ``write`` returns the bytes of a program, which leaves one value on the stack.
    """

    @staticmethod
    def text(value):
        content = value.encode()
        return b"X" + struct.pack("<I", len(content)) + content

    @staticmethod
    def number(value):
        content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(content)]) + content

    @staticmethod
    def name(module, attribute):
        return f"c{module}\n{attribute}\n".encode()

    @staticmethod
    def group(*parts):
        return b"(" + b"".join(parts) + b"t"

    @staticmethod
    def call(target, *parts):
        return target + TorchArchive.group(*parts) + b"R"

    @staticmethod
    def mapping(pairs):
        """A dictionary of key → program, or of a list of such pairs."""
        items = pairs.items() if isinstance(pairs, dict) else pairs
        return b"}(" + b"".join(TorchArchive.text(key) + value for key, value in items) + b"u"

    @staticmethod
    def storage(kind, entry, size):
        at = TorchArchive
        what = at.name("torch", kind)
        return (
            at.group(*map(at.text, ["storage"]), what, *map(at.text, [entry, "cpu"]), size) + b"Q"
        )

    @staticmethod
    def tensor(storage, start, shape, strides):
        at = TorchArchive
        sizes = [at.group(*map(at.number, numbers)) for numbers in (shape, strides)]
        hooks = at.call(at.name("collections", "OrderedDict"))
        rebuild = at.name("torch._utils", "_rebuild_tensor_v2")
        return at.call(rebuild, storage, at.number(start), *sizes, b"\x89", hooks)

    @staticmethod
    def of(array, entry):
        """The program of a whole array."""
        at, kind = TorchArchive, STORAGES.get(array.dtype.str[1:], "BFloat16Storage")
        strides = np.cumprod([1, *array.shape[:0:-1]])[::-1].tolist() if array.ndim else []
        return at.tensor(at.storage(kind, entry, at.number(array.size)), 0, array.shape, strides)

    @staticmethod
    def write(file, arrays, program=None, change=dict, **how):
        """Write arrays as torch.save does; or their storages beside another program."""
        at = TorchArchive
        of = {key: at.of(array, str(i)) for i, (key, array) in enumerate(arrays.items())}
        program = at.mapping(of) if program is None else program
        entries = {"data.pkl": b"\x80\x02" + program + b".", "byteorder": b"little"}
        entries |= {f"data/{i}": array.tobytes() for i, array in enumerate(arrays.values())}
        with zipfile.ZipFile(file, "w", **how) as archive:
            for name, content in change(entries).items():
                archive.writestr(f"archive/{name}", content)


@pytest.fixture(scope="session")
def torch_archive():
    return TorchArchive
