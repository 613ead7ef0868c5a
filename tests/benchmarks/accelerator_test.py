"""The measurement of stages, run as its owner runs it, on the embedded model's shapes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from llava_jax import config, costs

ROOT = pathlib.Path(__file__).parents[2]
CFG = config.pocket()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accelerator")
    flags = ["--model=pocket", "--mesh=model:2", "--budget=16", "--side=64,128"]
    flags += [f"--out={folder}", f"--trace={folder / 'trace'}"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.accelerator", *flags],
        check=True,
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        timeout=300,
        capture_output=True,
    )
    assert [*(folder / "trace" / "pope").rglob("*.xplane.pb")], "a profile"
    return json.loads((folder / "accelerator-cpu.json").read_text("utf-8"))


def test_rates_are_operations_over_time(found):
    ceiling = found["ceiling"]
    square = 2 * ceiling["side"] ** 3 / ceiling["seconds"]["median"]
    assert ceiling["FLOP/s"] == pytest.approx(2 * square), "of two devices"
    for part in found["benchmarks"].values():
        assert part["stages"].keys() == {"vision", "prefix, K = 16", "suffix, K = 16"}
        for entry in part["stages"].values():
            assert len(entry["seconds"]["rounds"]) == 5
            rate = entry["FLOP"] / entry["seconds"]["median"]
            assert entry["FLOP/s"] == pytest.approx(rate)
            assert entry["utilisation"] == pytest.approx(rate / ceiling["FLOP/s"])
            each = entry["tokens"] / entry["seconds"]["median"]
            assert entry["tokens per second"] == pytest.approx(each)


def test_operations_are_those_of_the_passes(found):
    part = found["benchmarks"]["pope"]
    pictures, stages = part["pictures per pass"], part["stages"]
    assert pictures == 1, "on a CPU"
    assert stages["vision"]["FLOP"] == costs.encode_flops(CFG.vision)
    added = 16 + 4  # K, and what POPE's questions begin with
    prefix = costs.project_flops(CFG, 16) + costs.extend_flops(CFG.text, 35, added)
    assert stages["prefix, K = 16"]["FLOP"] == prefix
    assert stages["prefix, K = 16"]["tokens"] == added
    suffix, tokens = stages["suffix, K = 16"]["FLOP"], stages["suffix, K = 16"]["tokens"]
    assert 10 * 20 < tokens < 11 * 25, "10 or 11 questions"
    several = costs.answer_flops(CFG.text, 35 + added, tokens // 10) * 10
    assert suffix == pytest.approx(several, rel=0.04)


def test_the_projection_is_of_all_settings(found):
    parts = found["benchmarks"].values()
    assert found["minutes, projected"] == pytest.approx(
        sum(part["minutes, projected"] for part in parts)
    )
    pope = found["benchmarks"]["pope"]
    seconds = sum(entry["seconds"]["median"] for entry in pope["stages"].values())
    # 500 pictures, 20 settings of which most keep more than 16 tokens.
    assert 60 * pope["minutes, projected"] > 500 * seconds
