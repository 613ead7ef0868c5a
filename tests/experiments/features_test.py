"""The cache of vision outputs: never wrong, never in the way, never much too large."""

import pathlib
import random
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import loading
from experiments.harness.features import FeatureCache

OUTPUTS = {"features": np.arange(12, dtype=np.float32).reshape(3, 4), "saliency": np.ones(3)}
PICTURE = "ab" * 32


def cache(folder, limit=1 << 20, **identity):
    return FeatureCache(folder, limit, {"weights": "w"} | identity)


def files(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_what_is_kept_is_found(tmp_path):
    cache(tmp_path).put(PICTURE, OUTPUTS)
    found = cache(tmp_path).get(PICTURE, ("features", "saliency"))
    for name, value in OUTPUTS.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
    assert {file.suffix for file in files(tmp_path)} == {".features", ".saliency"}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_bits(tmp_path, dtype):
    value = np.asarray(jnp.linspace(-3, 3, 17, dtype=dtype))
    cache(tmp_path).put(PICTURE, {"features": value})
    found = cache(tmp_path).get(PICTURE, ("features",))["features"]
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(found.view(np.uint16), value.view(np.uint16))


def test_anything_else_is_not_found(tmp_path):
    cache(tmp_path).put(PICTURE, {"features": OUTPUTS["features"]})
    assert cache(tmp_path).get(PICTURE, ("features",))
    assert cache(tmp_path).get(PICTURE, ("features", "saliency")) is None
    assert cache(tmp_path).get("cd" * 32, ("features",)) is None
    assert cache(tmp_path, weights="other").get(PICTURE, ("features",)) is None
    assert cache(tmp_path, dtype="float16").get(PICTURE, ("features",)) is None
    assert cache(tmp_path).get(None, ("features",)) is None


def test_an_output_is_added_to_those_that_are_there(tmp_path):
    cache(tmp_path).put(PICTURE, {"features": OUTPUTS["features"]})
    cache(tmp_path).put(PICTURE, {"saliency": OUTPUTS["saliency"]})
    assert len(cache(tmp_path).get(PICTURE, tuple(OUTPUTS))) == 2


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_never_believed(tmp_path, seed):
    cache(tmp_path).put(PICTURE, {"features": OUTPUTS["features"]})
    (file,) = files(tmp_path)
    content, rng = bytearray(file.read_bytes()), random.Random(seed)
    if seed % 2:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        content = content[: rng.randrange(len(content))]
    file.write_bytes(content)
    assert cache(tmp_path).get(PICTURE, ("features",)) is None


def test_a_limit_drops_what_was_used_longest_ago(tmp_path):
    value = {"features": np.zeros(1000, np.float32)}
    size = 4 * 1000 + 60
    small = cache(tmp_path, limit=4 * size)
    for number in range(4):
        small.put(f"{number}" * 64, value)
        time.sleep(0.01)
    assert small.get("0" * 64, ("features",))  # used now
    time.sleep(0.01)
    for number in range(4, 6):
        small.put(f"{number}" * 64, value)
        time.sleep(0.01)
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 4 * size
    assert small.get("5" * 64, ("features",))
    assert small.get("1" * 64, ("features",)) is None
    assert small.get("0" * 64, ("features",))


def test_what_is_replaced_counts_once_and_what_a_kill_left_counts(tmp_path):
    kept = cache(tmp_path)
    for _ in range(3):
        kept.put(PICTURE, OUTPUTS)
    assert kept._size == sum(file.stat().st_size for file in files(tmp_path))
    torn = files(tmp_path)[0].with_name(".torn.features.1")
    torn.write_bytes(b"x" * 5000)
    assert cache(tmp_path)._size == kept._size + 5000


def test_a_foreign_file_is_not_believed(tmp_path):
    cache(tmp_path).put(PICTURE, {"features": OUTPUTS["features"]})
    files(tmp_path)[0].write_bytes(b"5\nabc")
    assert cache(tmp_path).get(PICTURE, ("features",)) is None


def test_no_limit_keeps_nothing(tmp_path):
    off = cache(tmp_path / "none", limit=0)
    off.put(PICTURE, OUTPUTS)
    assert off.get(PICTURE, ("features",)) is None
    assert not (tmp_path / "none").exists()


def test_a_full_disk_ends_the_keeping_not_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "replace", full)
    kept = cache(tmp_path)
    kept.put(PICTURE, OUTPUTS)
    assert kept.limit == 0
    assert not files(tmp_path)


def test_threads_run_ahead_in_order_and_not_too_far():
    begun, lock = [], threading.Lock()

    def work(item):
        with lock:
            begun.append(item)
        time.sleep(0.005 * (item % 3))
        return item

    seen = []
    for item in loading.ahead(work, range(20), count=3):
        seen.append(item)
        assert len(begun) <= item + 1 + 4
    assert seen == list(range(20))
    assert sorted(begun) == seen


def test_an_error_of_a_thread_arrives():
    def fail(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(loading.ahead(fail, range(5)))
