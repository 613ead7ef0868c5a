"""Fuzz one reader: bytes that reach new code are kept and changed further.

    pip install -e '.[fuzz]'
    python -m benchmarks.fuzz --target=records --seconds=60

Begins with the target's seeds. The first input that a reader answers with anything but its own
refusal ends the run with exit code 77 and is left in the folder ``--artifacts``.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import atheris
from absl import app, flags, logging

with atheris.instrument_imports(include=["experiments", "llava_jax.checkpoint"]):
    from benchmarks.fuzz import changes, targets

_TARGET = flags.DEFINE_enum("target", "records", sorted(targets.TARGETS), "the reader")
_SECONDS = flags.DEFINE_integer("seconds", 60, "for how long", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 1, "of the changes", lower_bound=1)
_ARTIFACTS = flags.DEFINE_string("artifacts", "/tmp", "folder for what is found")


def main(argv: list[str]) -> None:
    """Fuzz the target that the flags name until its time is over."""
    del argv
    logging.set_verbosity(logging.ERROR)
    shared = pathlib.Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        target = targets.TARGETS[_TARGET.value](pathlib.Path(folder))
        corpus = pathlib.Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed{number:03d}").write_bytes(seed)
        options = {
            "max_total_time": _SECONDS.value,
            "seed": _SEED.value,
            "max_len": target.longest,
            "rss_limit_mb": 2048,
            "timeout": 10,
            "print_final_stats": 1,
            "artifact_prefix": f"{_ARTIFACTS.value}/{_TARGET.value}-",
        }
        flags_of_libfuzzer = [f"-{name}={value}" for name, value in options.items()]
        atheris.Setup(
            [sys.argv[0], str(corpus), *flags_of_libfuzzer],
            target,
            custom_mutator=changes.change,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    app.run(main)
