"""The package is used alone, and under any name."""

import pathlib
import shutil
import subprocess
import sys

import pytest

import calibration

FOLDER = pathlib.Path(calibration.__file__).parent
PROGRAM = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {others}:
            raise ModuleNotFoundError(f"{{name}} must not be needed")

sys.meta_path.insert(0, Refuse())
import jax, numpy as np
import {package} as package
from {package} import checked
rng = np.random.default_rng(0)
report = package.evaluate(
    np.log(rng.dirichlet([1, 1], 12)).astype(np.float32), rng.integers(0, 2, 12),
    key=jax.random.key(0), num_resamples=5,
)
print(float(report.metrics["accuracy"].value), checked.__name__)
"""
OTHERS = {
    *("llava_jax", "pruning", "experiments", "flax", "transformers", "datasets", "orbax"),
    *("torch", "matplotlib", "sklearn", "safetensors", "tokenizers", "PIL", "hypothesis"),
}


@pytest.mark.parametrize("name", ["calibration", "measures"])
def test_it_needs_nothing_else_and_no_name(tmp_path, name):
    shutil.copytree(FOLDER, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    program = PROGRAM.format(others=OTHERS, package=name)
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[1] == f"{name}.checked"
