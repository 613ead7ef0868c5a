"""Settings of every test: eight virtual CPU devices, strict shapes, golden folders."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import pathlib

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

HERE = pathlib.Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption("--golden", default=str(HERE / "golden"), help="folder with pruners/ and calibration/")
    parser.addoption("--fixtures", default=str(HERE / "fixtures"), help="made-up benchmark files")
    parser.addoption("--tokenizer", default=None, help="Llama tokenizer.json for the ids of the golden prompts")


@pytest.fixture(scope="session")
def golden_dir(request):
    return pathlib.Path(request.config.getoption("--golden"))


@pytest.fixture(scope="session")
def fixtures_dir(request):
    return pathlib.Path(request.config.getoption("--fixtures"))
