"""Files of a model whose bits have changed, and conversions that did not come to their end."""

import hashlib
import pathlib
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments.harness import source
from experiments.harness.errors import InputError
from llava_jax import checkpoint, prompts, sums
from llava_jax.checkpoint import conversion, tensors

WEIGHTS = "model.safetensors"
HTML = b"<!DOCTYPE html>\n<html></html>\n"
CONVERT = [sys.executable, "-m", "llava_jax.checkpoint"]


@pytest.fixture
def folder(tiny, tmp_path):
    return pathlib.Path(shutil.copytree(tiny, tmp_path / "model"))


def refused(folder, action=source.Source.load):
    """Return why a model's folder is refused; one line."""
    with pytest.raises(InputError) as caught:
        action(source.find(str(folder), "float32", offline=True))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.times(40, 2000)
def test_a_flipped_bit_is_refused_where_somebody_says_what_is_right(folder, times, passed):
    rng, refusals = random.Random(0), 0
    blobs = folder / "blobs"
    blobs.mkdir()
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    sums.write(folder, [folder / WEIGHTS, folder / "tokenizer.json"])
    for name in (WEIGHTS, "tokenizer.json"):
        blob = blobs / sums.of_file(folder / name)
        shutil.copyfile(folder / name, blob)
        (snapshot / name).symlink_to(blob)
    shutil.copyfile(folder / "config.json", blobs / ("1" * 40))  # a small one, by its git sha1
    (snapshot / "config.json").symlink_to(blobs / ("1" * 40))
    for place in (folder, snapshot):
        found = source.find(str(place), None, offline=True)
        found.digest()
        file = (place / WEIGHTS).resolve()
        content = bytearray(file.read_bytes())
        for _ in range(times // 2):
            where, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
            content[where] ^= bit
            file.write_bytes(content)
            with pytest.raises(InputError, match=rf"{WEIGHTS} has sha256 .* its bits have changed"):
                found.digest()
            content[where] ^= bit
            refusals += 1
        file.write_bytes(content)
        found.digest()
        tokenizer = (place / "tokenizer.json").resolve()
        tokenizer.write_text(tokenizer.read_text() + " ")
        assert "tokenizer.json has sha256" in refused(place)
    passed("W1 bits", f"{refusals} of {times // 2 * 2} flipped bits refused, both sources")


def test_a_list_of_sums_is_read_as_coreutils_reads_it(folder):
    right = sums.of_file(folder / WEIGHTS)
    for line in (f"{right}  {WEIGHTS}", f"{right.upper()} *./{WEIGHTS}"):
        (folder / "SHA256SUMS").write_text(f"{line}\n{'0' * 64}  pytorch_model.bin\n")
        checkpoint.digest(folder)
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  {WEIGHTS}\n")
    assert f"{WEIGHTS} has sha256 {right[:12]}…, SHA256SUMS says 000000000000…" in refused(
        folder, source.Source.digest
    )
    for content in (HTML.decode(), f"{right[:63]}  {WEIGHTS}\n"):
        (folder / "SHA256SUMS").write_text(content)
        assert "SHA256SUMS line 1 is not '<sha256>  <file>'" in refused(
            folder, source.Source.digest
        )


def test_a_tokenizer_is_verified_too(folder):
    sums.write(folder, [folder / "tokenizer.json"])
    prompts.Tokenizer.from_folder(folder)
    prompts.ClipTokenizer.from_folder(folder / "clip")
    with (folder / "tokenizer.json").open("a") as handle:
        handle.write("\n")
    with pytest.raises(ValueError, match=r"tokenizer\.json has sha256"):
        prompts.Tokenizer.from_folder(folder)


def test_the_embedded_model_says_what_it_is():
    found = source.find("pocket", None, offline=True)
    for place in (found.folder, found.folder / "clip"):
        listed = (place / "SHA256SUMS").read_text().splitlines()
        assert [line.split()[1] for line in listed] == [WEIGHTS, "tokenizer.json"]
        checkpoint.digest(place)
    prompts.ClipTokenizer.from_folder(found.folder / "clip")


def test_a_damaged_conversion_is_refused(folder, tmp_path, passed):
    """Every file gone, cut or with a bit flipped, which Orbax alone may load as other numbers."""
    dst, refusals = tmp_path / "converted", 0
    conversion.convert(folder, dst, np.float32)
    kept = [p for p in dst.rglob("*") if p.is_file() and p.name not in ("SHA256SUMS",)]
    kept.remove(dst / "conversion.json")  # without it there is no conversion
    found = source.find(str(dst), None, offline=True)
    found.digest()
    for file in kept:
        content = file.read_bytes()
        flipped = bytes([content[0] ^ 1]) + content[1:]
        for damaged in (None, content[:-1], flipped):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            with pytest.raises(InputError, match=r"has sha256|which is not there"):
                found.digest()
            refusals += 1
        file.write_bytes(content)
    assert found.digest()
    # Without sums Orbax still must not end in a traceback.
    (dst / "SHA256SUMS").unlink()
    (dst / "params" / "_METADATA").write_text("{}")
    assert "params cannot be restored" in refused(dst)
    passed("W1 orbax", f"{refusals} of {3 * len(kept)} damaged files refused")


def sums_of(folder):
    """Return the sha256 of everything a conversion decides; Orbax draws names of its files."""
    cfg = checkpoint.read_config(folder)
    leaves = jax.tree.leaves(checkpoint.load(folder, cfg, np.float32))
    total = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves))
    for name in ("config.json", "tokenizer.json", "conversion.json"):
        total.update((folder / name).read_bytes())
    names = sorted(path.name for path in folder.iterdir())
    return total.hexdigest(), names


@pytest.mark.times(2, 20)
def test_a_conversion_that_is_killed(folder, tmp_path, times, passed):
    clean, rng, early = tmp_path / "clean", random.Random(0), 0
    begun = time.monotonic()
    conversion.convert(folder, clean, np.float32)
    needed, want = time.monotonic() - begun, sums_of(clean)
    for number in range(times):
        dst = tmp_path / f"killed-{number}"
        process = subprocess.Popen(
            [*CONVERT, f"--src={folder}", f"--dst={dst}", "--dtype=float32"],
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None and not dst.exists():
            time.sleep(0.001)
        time.sleep(number / times * rng.random() * needed)  # the first at once
        process.kill()
        process.wait()
        if tensors.is_orbax(dst):
            assert sums_of(dst) == want
            continue
        early += 1
        with pytest.raises(FileNotFoundError, match=r"^no (config|model)"):
            checkpoint.load(dst, checkpoint.read_config(dst), np.float32)
        for name in (".config.json.0123abcd", ".SHA256SUMS.0123abcd"):
            (dst / name).write_text("cut sho")  # what a kill within a write leaves
        conversion.convert(folder, dst, np.float32)
        assert sums_of(dst) == want
        checkpoint.digest(dst)
    passed("K5", f"{times} kills, {early} before the end: absent or whole, then as a clean one")
