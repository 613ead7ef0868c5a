"""Checkpoints: every key is accounted for, and a damaged file is refused."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator

import atheris

from llava_jax import testing
from llava_jax.checkpoint import huggingface, rules, tensors

_MOST_KEYS = 12


@functools.cache
def _shapes(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Return path → shape of a tiny model's parameters."""
    testing.write_checkpoint(folder)
    cfg = huggingface.read_config(folder)
    return {p: leaf.shape for p, leaf in huggingface.flatten(huggingface.abstract(cfg)).items()}


class Names:
    """Names and shapes of a checkpoint's tensors: some left out, some changed, some added."""

    longest = 2048

    def __init__(self, folder: pathlib.Path):
        self._targets = _shapes(folder / "tiny")
        self._right = {rules.LLAVA.key_of(path): path for path in self._targets}
        for key, path in self._right.items():
            assert rules.LLAVA.path_of(key) == path, f"{key} does not lead back to {path}"

    def seeds(self) -> Iterator[bytes]:
        yield b""
        yield b"\1\2model.language_model.layers.0.self_attn.q_proj.weight"
        yield from (bytes([number]) + key.encode() for number, key in enumerate(self._right))

    def __call__(self, data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        sources = {key: self._targets[path] for key, path in self._right.items()}
        keys = list(sources)
        for _ in range(provider.ConsumeIntInRange(0, _MOST_KEYS)):
            key = keys[provider.ConsumeIntInRange(0, len(keys) - 1)]
            match provider.ConsumeIntInRange(0, 4):
                case 0:
                    sources.pop(key, None)
                case 1:
                    sources[key] = tuple(provider.ConsumeIntList(3, 2))
                case 2:
                    place = provider.ConsumeIntInRange(0, len(key))
                    sources[key[:place] + provider.ConsumeUnicode(3) + key[place:]] = (1,)
                case 3:
                    sources["model." + key] = sources.get(key, ())
                case 4:
                    sources[provider.ConsumeUnicode(40)] = (2, 2)
        _judge(sources, self._targets)


def _judge(sources: dict[str, tuple[int, ...]], targets: dict[str, tuple[int, ...]]) -> None:
    try:
        found = rules.LLAVA.match(sources, targets)
    except rules.ConversionError:
        exact = {rules.LLAVA.key_of(path): shape for path, shape in targets.items()}
        assert sources != exact, "an exact checkpoint is refused"
        return
    assert set(found) == set(targets), "a parameter is not filled"
    assert sorted(found.values()) == sorted(sources), "a tensor is in no parameter, or in two"
    assert all(sources[key] == targets[path] for path, key in found.items())


_RAW = 255
_HEADERS = (
    (
        16,
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}',
    ),
    (2, b'{"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}'),
    (0, b'{"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}'),
    (8, b'{"x.rotary_emb.inv_freq":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}'),
    (0, b"{}"),
)


class Weights:
    """A safetensors file: the first byte says how many bytes stand behind the header, the rest.

    The header's length is written as it is, which random bytes hardly ever are; a first byte of
    255 takes the rest for a whole file.
    """

    longest = 4096

    def __init__(self, folder: pathlib.Path):
        self._folder = folder / "weights"
        self._folder.mkdir()

    def seeds(self) -> Iterator[bytes]:
        for size, header in _HEADERS:
            yield bytes([size]) + header
            yield bytes([_RAW]) + len(header).to_bytes(8, "little") + header + bytes(size)
        yield bytes([_RAW]) + b"version https://git-lfs.github.com/spec/v1\n"

    def __call__(self, data: bytes) -> None:
        size, content = (data or b"\0")[0], data[1:]
        if size != _RAW:
            content = len(content).to_bytes(8, "little") + content + bytes(size)
        (self._folder / tensors.SINGLE).write_bytes(content)
        try:
            found = tensors.tensors(self._folder, rules.LLAVA.ignored)
        except (ValueError, OSError):
            return
        for key, tensor in found.items():
            assert 8 <= tensor.offset <= tensor.offset + tensor.nbytes <= len(content), key
