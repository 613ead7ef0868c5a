"""Settings of every test: eight virtual CPU devices, strict shapes, golden folders."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # eigenvalues beside other tests: threads would wait

# Most of the time is compiling, and programs are small: optimise them less (`XLA_FLAGS= pytest`
# runs what users run). Another jax may not know these flags, and would end the process.
if importlib.metadata.version("jax").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true "
        "--xla_backend_optimization_level=0",
    )

# Programs are compiled once per test run, by whichever worker or process needs them first.
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the folder
    _PROGRAMS = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, _PROGRAMS, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS
    os.environ["HF_DATASETS_CACHE"] = _PROGRAMS
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import io
import pathlib
import subprocess
import sys

import hypothesis
import jax
import pytest

from experiments.harness.config import RunConfig
from llava_jax import testing

jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run; `--hypothesis-profile=default` draws new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

HERE = pathlib.Path(__file__).parent
MANY_MAPS = 20_000


def pytest_addoption(parser):
    # pytest has a --fixtures of its own, hence --fixtures-dir.
    parser.addoption("--golden", default=HERE / "golden", help="folder with pruners/, calibration/")
    parser.addoption("--fixtures-dir", default=HERE / "fixtures", help="made-up benchmark files")
    parser.addoption("--tokenizer", help="folder with a Llama tokenizer.json, for golden ids")


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Forget compiled programs before their memory maps are more than Linux gives a process.

    Every program takes some of 65,530, and the compiler dies when none is left.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def golden_dir(request):
    return pathlib.Path(request.config.getoption("--golden"))


@pytest.fixture(scope="session")
def fixtures_dir(request):
    return pathlib.Path(request.config.getoption("--fixtures-dir"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    testing.write_checkpoint(folder)
    testing.write_clip(folder / "clip")
    return folder


@pytest.fixture(scope="session")
def sentencepiece_model():
    """Train a SentencePiece model of a few pieces, in the manner of Vicuna's."""
    sentencepiece = pytest.importorskip("sentencepiece")
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["USER: Is it? Yes No"] * 20 + ["ASSISTANT: Yes Yes No No"] * 20),
        model_writer=content,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return content.getvalue()


@pytest.fixture
def config(tiny, fixtures_dir, tmp_path):
    return RunConfig(
        model=str(tiny),
        data=str(fixtures_dir / "raw" / "pope"),
        clip=None,
        relevant=None,
        pruners=("scope", "random"),
        budgets=(4,),
        hyperparameters={"alpha": (0.0, 1.0)},
        seeds=(0, 1),
        limit=None,
        order="raster",
        positions="contiguous",
        tiles=None,
        mode="default",
        route=None,
        max_new_tokens=None,
        kv_eviction="none",
        kv_budget=None,
        kv_window=32,
        prompt_style="llava",
        options="valid",
        own={},
        predictions=None,
        dtype=None,
        quantize=None,
        mesh=None,
        distributed="auto",
        preprocessing="pad",
        out=str(tmp_path / "run"),
        num_processes=1,
        process_id=0,
        fork=False,
        allow_failed=False,
        offline=True,
        dry_run=False,
        cache=str(tmp_path / "cache"),
        cache_gib=0.0,
    )


@pytest.fixture(scope="session")
def launch():
    """Start an entry point as a process of its own, as a user does."""

    def start(folder, *flags, program="pope", env=None, **how):
        return subprocess.Popen(
            [sys.executable, "-m", f"experiments.{program}", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"} | (env or {}),
            **how,
        )

    return start


@pytest.fixture(scope="session")
def command(launch):
    """Run an entry point to its end; return (exit code, stdout, stderr)."""

    def run(folder, *flags, timeout=300, **how):
        process = launch(folder, *flags, **how)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    return run
