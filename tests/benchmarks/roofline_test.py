"""Projections on accelerators: what they are made of, against the harness's own counts."""

import dataclasses
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    """Import the benchmarks, which are not installed, from the repository."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import devices, projection, roofline, stages, workload

    names = (devices, projection, roofline, stages, workload)
    return type("Bench", (), {module.__name__.split(".")[1]: module for module in names})


SMALL = {"rows": 90, "questions": 51, "pictures": 6}


@pytest.fixture
def pope(bench):
    """POPE with six pictures: (run, size, settings, model)."""
    from experiments.studies import definition
    from llava_jax import config

    run = definition.read("tables")[0]
    size = dataclasses.replace(bench.workload.SIZES["pope"], **SMALL)
    return run, size, bench.workload.settings(run, 576), config.llava_1_5_7b()


def test_sizes_are_kept(bench):
    for name in ("pope", "gqa", "scienceqa"):
        size = bench.workload.SIZES[name]
        groups = size.groups
        asked = [question for group in groups for question in group.questions]
        assert len(groups) == size.pictures
        assert len(asked) == size.questions
        assert sum(map(len, asked)) == size.rows
        assert max(len(group.questions) for group in groups) == size.most
        lengths = [int(question[0].user_text) for question in asked]
        assert max(lengths) == size.longest
        assert sum(lengths) / len(lengths) == pytest.approx(size.mean, rel=0.02)
        assert sorted(lengths)[int(0.99 * len(lengths))] == pytest.approx(size.high, rel=0.04)


def test_settings_are_the_studies(bench, pope):
    _, _, counted, _ = pope
    assert sum(counted.values()) == 20, "Tables 1 to 3 with three seeds, FastV and all tokens"
    costs = {(setting.name if setting.inside else "", setting.budget) for setting in counted}
    assert costs == {("", k) for k in (32, 64, 128, 192, 576)} | {("fastv", 128)}


def test_stages_add_up_to_what_the_harness_counts(bench, pope):
    from experiments.harness import accounts

    run, size, counted, cfg = pope
    plan = dataclasses.replace(bench.workload.plan(run, size), images_per_batch=2)
    for setting in counted:
        works = bench.stages.decoder(plan, setting, cfg, 0)
        total = sum(work.flops for work in works.values())
        assert total == accounts.flops(plan, setting, cfg)
        assert works["more tokens"].flops == works["more tokens"].bytes == 0
        naive = bench.stages.alone(plan, setting, cfg, 0.0)["first token"]
        assert naive.flops == accounts.flops_alone(plan, setting, cfg)


def test_padding_is_that_of_a_passs_longest_question(bench, pope):
    run, size, counted, cfg = pope
    plan = dataclasses.replace(bench.workload.plan(run, size), images_per_batch=6)
    tokens = sum(len(plan.suffixes[q[0].user_text]) for g in plan.groups for q in g.questions)
    (shape,) = bench.stages.passes(plan)
    assert (shape.images, shape.questions, shape.suffix) == (6, 12, 28)
    for setting in counted:
        work = bench.stages.decoder(plan, setting, cfg, 0)["suffix"]
        if not setting.inside:
            share = 6 * 12 * 28 / tokens - 1
            assert work.padding / work.flops == pytest.approx(share, rel=0.03)


def test_questions_of_equal_length_need_no_padding(bench, pope):
    run, size, counted, cfg = pope
    equal = {"questions": 48, "most": 8, "mean": 28, "high": 28, "longest": 28}
    plan = bench.workload.plan(run, dataclasses.replace(size, **equal))
    for setting in counted:
        work = bench.stages.decoder(plan, setting, cfg, 0)["suffix"]
        assert work.padding == 0


def test_fewer_passes_move_fewer_bytes(bench, pope):
    run, size, counted, cfg = pope
    plan = bench.workload.plan(run, size)
    setting = next(iter(counted))
    alone, all_ = (
        bench.stages.decoder(dataclasses.replace(plan, images_per_batch=g), setting, cfg, 0)
        for g in (1, 6)
    )
    weights = 31 * 2 * 202_375_168  # bytes of 31 decoder layers
    fewer = (alone["suffix"].bytes - all_["suffix"].bytes) / weights
    assert 4 < fewer < 5, "five passes fewer; more padding in the one that is left"
    assert alone["suffix"].flops == all_["suffix"].flops


def test_generated_text_reads_the_weights_for_every_token(bench, pope):
    run, size, counted, cfg = pope
    plan = dataclasses.replace(bench.workload.plan(run, size), images_per_batch=6)
    setting = next(iter(counted))
    once, twice = (bench.stages.decoder(plan, setting, cfg, n)["more tokens"] for n in (1, 2))
    assert once.bytes > 2 * 6.6e9
    assert (twice.bytes, twice.flops) == (2 * once.bytes, 2 * once.flops)
    assert bench.devices.DEVICES[0].bound(once) == "memory"


def test_a_device_takes_the_longer_of_computing_and_moving(bench):
    device = bench.devices.Device("x", peak=100, bandwidth=10, memory=1, source="")
    work = bench.stages.Work
    assert device.seconds(work(flops=90, bytes=1)) == pytest.approx(2)
    assert device.seconds(work(flops=45, bytes=1, padding=45)) == pytest.approx(2)
    assert device.seconds(work(flops=90, bytes=30)) == 3
    assert device.seconds(work(90, 1), work(90, 30)) == pytest.approx(5)
    assert (device.bound(work(90, 1)), device.bound(work(90, 30))) == ("compute", "memory")
    four = dataclasses.replace(device, chips=2, replicas=2)
    assert four.seconds(work(flops=90, bytes=30)) == pytest.approx(0.75)


def test_a_benchmarks_lines(bench, pope):
    run, size, counted, cfg = pope
    before, inside = bench.projection.of_run("pope", run, size, cfg)
    assert (before.settings, inside.settings) == (19, 1)
    assert (before.answers, inside.name) == (19 * 90, "pope, FastV")
    both = before + inside
    assert both.settings == sum(counted.values())
    assert both.flops[0] == before.flops[0] + inside.flops[0]
    for naive, ours in before.seconds.values():
        assert naive > 4 * ours


def test_the_page_says_what_was_measured(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.roofline, "RESULTS", tmp_path)
    assert "No stage was measured" in bench.roofline.measured()
    stage = {"seconds": {"median": 0.25}, "tokens per second": 8.0, "FLOP/s": 2e12}
    found = {
        "device": "Chip 9",
        "devices": 4,
        "model": "7B",
        "dtype": "bfloat16",
        "ceiling": {"FLOP/s": 4e12},
        "minutes, projected": 12.5,
        "benchmarks": {"pope": {"stages": {"vision": stage | {"utilisation": 0.5}}}},
    }
    (tmp_path / "accelerator-chip-9.json").write_text(json.dumps(found))
    said = bench.roofline.measured()
    assert "No stage" not in said
    assert "4 × Chip 9" in said
    assert "| pope, vision | 250 | 8 | 2 | 50% |" in said
