"""Whole runs of the harness with a tiny model, in this process."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import pruning
from experiments import pope
from experiments.harness import answering, command, memory, plan, progress, records, selection
from experiments.harness.benchmark import YES_NO
from experiments.harness.errors import InputError, InterruptedRunError, UsageError
from experiments.harness.grid import settings
from experiments.harness.source import find
from experiments.harness.stopwatch import Stopwatch
from experiments.reporting import aggregate, tables
from llava_jax import images, model, prompts, testing
from llava_jax.engine import Engine

LOG_MASS = 1e-5


def run(config):
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    return work and command.answer(work)


def contents(outcome):
    """Return the bytes of every record file."""
    return {
        file.relative_to(folder.parent): file.read_bytes()
        for folder in outcome.folders
        for file in folder.glob("records-*.jsonl")
    }


def out_folder(config):
    return pathlib.Path(config.out)


def read(folder):
    return records.read_records(folder)


def test_a_grid_is_answered_and_sealed(config):
    config = dataclasses.replace(config, budgets=(4, 8))
    outcome = run(config)
    rows = len(command.read(pope.BENCHMARK, config).examples)
    assert [folder.name for folder in outcome.folders] == [
        "none",
        "scope_k4_alpha0_gamma1_multiply",
        "scope_k8_alpha0_gamma1_multiply",
        "scope_k4_alpha1_gamma1_multiply",
        "scope_k8_alpha1_gamma1_multiply",
        *(f"random_k{k}_seed{s}" for k in (4, 8) for s in (0, 1)),
    ]
    assert outcome.answered == rows * len(outcome.folders)
    for folder in outcome.folders:
        assert len(read(folder)) == rows
        assert json.loads((folder / "SEALED").read_text())["rows"] == rows
    before = {f: f.stat().st_mtime_ns for d in outcome.folders for f in d.iterdir()}
    again = run(config)
    assert again.answered == 0
    assert {f: f.stat().st_mtime_ns for d in again.folders for f in d.iterdir()} == before


def test_every_row_kept_what_the_pruner_chose(config):
    """The answers, too, are those of a model that sees only these tokens."""
    config = dataclasses.replace(config, pruners=("saliency", "scope"), hyperparameters={})
    outcome = run(config)
    source = find(config.model, None, offline=True)
    engine, dataset = source.load(), command.read(pope.BENCHMARK, config)
    yes, no = (list(source.tokenizer.answer_ids(spellings)) for spellings in YES_NO)
    prompt = np.asarray(source.tokenizer.first(prompts.vicuna_v1("")[0]))
    apply = jax.jit(model.apply, static_argnames="cfg")
    image = dataset.images[1]
    examples = [example for example in dataset.examples if example.image == image]
    pixels = images.preprocess(dataset.read_image(image), source.cfg.vision.image_size)[None]
    seen = engine.encode(pixels, ("features", "saliency"))
    chosen = {
        "none": np.arange(16),
        "saliency": pruning.saliency_top_k(seen.saliency[0], 4),
        "scope": pruning.scope(seen.features[0], seen.saliency[0], 4),
    }
    for folder in outcome.folders:
        keep, rows = np.sort(chosen[folder.name.split("_")[0]]), read(folder)
        for example in examples:
            mask = records.unpack_mask(rows[example.key].kept, 16)
            np.testing.assert_array_equal(np.flatnonzero(mask), keep)
            assert rows[example.key].budget == len(keep)
        ids = np.asarray(source.tokenizer.rest(prompts.vicuna_v1(examples[0].user_text)[1]))
        length = np.array([[len(ids)]])
        logits = apply(
            engine.params, pixels, prompt, ids[None, None], length, cfg=source.cfg, keep=keep[None]
        )
        logp, row = np.asarray(jax.nn.log_softmax(logits[0, 0])), rows[examples[0].key]
        want = [np.logaddexp.reduce(logp[ids]) for ids in (yes, no)]
        np.testing.assert_allclose(row.log_masses, want, atol=LOG_MASS)
        assert row.token == logp.argmax()


def test_a_pruner_that_is_not_obeyed_fails_the_run(config, monkeypatch):
    """A harness that ignores the pruner's choice cannot pass: the prefix proves K."""
    original = selection.handed_over
    every = np.arange(16)[None]
    monkeypatch.setattr(
        selection, "handed_over", lambda chosen, s, x: selection.Handed(x, every, every)
    )
    with pytest.raises(RuntimeError, match="K = 4"):
        run(config)
    twice = selection.Selection(np.zeros((1, 16), np.int32))
    setting = settings(16, config)[1]
    with pytest.raises(RuntimeError, match="scope did not keep 4"):
        original(twice, setting, None)


def test_shared_positives_get_identical_masses_in_all_splits(config):
    outcome = run(config)
    examples = command.read(pope.BENCHMARK, config).examples
    for folder in outcome.folders:
        rows = read(folder)
        seen = {}
        for example in examples:
            evidence = dataclasses.replace(rows[example.key], key="", split="")
            first = seen.setdefault((example.image, example.user_text), evidence)
            assert first == evidence
        assert len(seen) < len(rows)


def test_batches_of_one_and_of_many_agree(config, monkeypatch):
    one = run(config)
    monkeypatch.setattr(memory, "images_per_batch", lambda *_: 4)
    many = run(dataclasses.replace(config, out=config.out + "-many"))
    for a, b in zip(one.folders, many.folders, strict=True):
        rows, others = read(a), read(b)
        for key, row in rows.items():
            assert row.kept == others[key].kept
            np.testing.assert_allclose(row.log_masses, others[key].log_masses, atol=LOG_MASS)


def test_kept_features_change_no_record(config, monkeypatch):
    """The cache off, empty, full, half deleted and damaged: the same bytes of records."""
    config = dataclasses.replace(config, pruners=("scope",), hyperparameters={})
    kept = pathlib.Path(config.cache) / "features"
    want = contents(run(config))
    assert not kept.exists()

    def again(name):
        here = dataclasses.replace(config, out=config.out + name, cache_gib=1.0)
        assert contents(run(here)) == want

    encoded = []
    encode = Engine.encode
    monkeypatch.setattr(Engine, "encode", lambda *a: encoded.append(1) or encode(*a))
    pictures = len(command.read(pope.BENCHMARK, config).images)
    again("-empty")
    assert len(encoded) == pictures
    again("-full")
    assert len(encoded) == pictures, "the second run never asks the tower"
    files = sorted(file for file in kept.rglob("*") if file.is_file())
    assert len(files) == 2 * pictures  # features and saliency
    for file in files[:pictures]:
        file.unlink()
    files[-1].write_bytes(b"")
    again("-half")
    assert pictures < len(encoded) < 2 * pictures
    before = len(encoded)
    again("-whole")
    assert len(encoded) == before


def test_questions_that_begin_alike_are_answered_as_if_they_did_not(config, monkeypatch):
    one = run(config)
    monkeypatch.setattr(plan, "common_start", lambda sequences: [])
    other = run(dataclasses.replace(config, out=config.out + "-apart"))
    for a, b in zip(one.folders, other.folders, strict=True):
        rows, others = read(a), read(b)
        for key, row in rows.items():
            assert row.kept == others[key].kept
            np.testing.assert_allclose(row.log_masses, others[key].log_masses, atol=LOG_MASS)


@pytest.mark.parametrize("torn", [True, False])
def test_an_interrupted_run_ends_byte_identical(config, monkeypatch, torn):
    whole = contents(run(config))
    stopped = dataclasses.replace(config, out=config.out + "-stopped")
    advance, calls = progress.Progress.advance, []

    def stop_at_7(self, rows):
        calls.append(rows)
        advance(self, rows)
        if len(calls) == 7:
            raise InterruptedRunError("stop")

    monkeypatch.setattr(progress.Progress, "advance", stop_at_7)
    with pytest.raises(InterruptedRunError):
        run(stopped)
    if torn:  # some rows of a batch were written, the last one only in part
        (file,) = (out_folder(stopped) / "none").glob("records-*.jsonl")
        content = file.read_bytes()
        file.write_bytes(content[: len(content) - 700])
    monkeypatch.setattr(progress.Progress, "advance", advance)
    assert contents(run(stopped)) == whole


def test_a_setting_added_later_leaves_the_others_alone(config):
    first = run(dataclasses.replace(config, pruners=("scope",)))
    before = contents(first)
    later = run(dataclasses.replace(config, pruners=("scope",), budgets=(4, 8)))
    assert later.answered == 2 * len(command.read(pope.BENCHMARK, config).examples)
    assert {k: v for k, v in contents(later).items() if k in before} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"limit": 2}, "rows"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"preprocessing": "center_crop"}, "preprocessing"),
    ],
)
def test_another_run_in_the_folder_is_refused_with_the_difference(config, change, named):
    config = dataclasses.replace(config, pruners=("saliency",), budgets=(4,), hyperparameters={})
    before = contents(run(config))
    changed = dataclasses.replace(config, **change)
    with pytest.raises(InputError, match=named):
        run(changed)
    assert contents(run(config)) == before
    forked = run(dataclasses.replace(changed, fork=True))
    assert any("+" in folder.name for folder in forked.folders)
    assert run(dataclasses.replace(changed, fork=True)).answered == 0


def test_order_and_positions_have_folders_of_their_own(config):
    config = dataclasses.replace(config, pruners=("random",), hyperparameters={}, seeds=(0,))
    usual = run(config)
    changed = run(
        dataclasses.replace(config, order="selection", positions="original", seeds=(0, 1))
    )
    names = [folder.name for folder in changed.folders]
    assert names == ["none", *(f"random_k4_seed{s}_selection_original" for s in (0, 1))]
    (one, other) = (read(outcome.folders[1]) for outcome in (usual, changed))
    assert all(one[key].kept == other[key].kept for key in one)
    assert any(one[key].log_masses != other[key].log_masses for key in one)
    found = aggregate.results(out_folder(config), changed.folders, pope.BENCHMARK, "default")
    (seeds,) = found["over_seeds"]
    assert seeds["settings"] == names[1:]


def test_another_model_shape_with_the_same_weights_is_refused(config, tmp_path, tiny):
    model_folder = tmp_path / "model"
    shutil.copytree(tiny, model_folder)
    config = dataclasses.replace(
        config, model=str(model_folder), pruners=("none",), hyperparameters={}
    )
    run(config)
    content = json.loads((model_folder / "config.json").read_text())
    content["text_config"]["rope_theta"] = 500.0
    (model_folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="rope_theta"):
        run(config)


def test_a_row_damaged_after_sealing_is_redone(config):
    config = dataclasses.replace(config, pruners=("none",), hyperparameters={})
    outcome = run(config)
    (folder,) = outcome.folders
    want = read(folder)
    (file,) = folder.glob("records-*.jsonl")
    damaged = bytearray(file.read_bytes())
    damaged[500] ^= 4
    file.write_bytes(damaged)
    again = run(config)
    assert again.answered == 1
    assert read(folder) == want
    assert run(config).answered == 0


def test_a_tokenizer_that_splits_answers_is_refused(config, tmp_path, tiny):
    model_folder = tmp_path / "model"
    shutil.copytree(tiny, model_folder)
    testing.tiny_tokenizer(["Yes", "No", "no", "Is", "there", "?"]).save(
        str(model_folder / "tokenizer.json")
    )
    with pytest.raises(InputError, match=r"not single tokens.*yes"):
        run(dataclasses.replace(config, model=str(model_folder)))


@pytest.mark.golden
def test_unreadable_pictures_stop_the_run_or_are_counted(config, fixtures_dir):
    manifest = json.loads((fixtures_dir / "broken" / "manifest.json").read_text())
    checked = 0
    for entry in manifest["entries"]:
        if "skip_mode" not in entry or not entry["path"].startswith("pope"):
            continue
        data = str(fixtures_dir / "broken" / entry["path"])
        broken = dataclasses.replace(
            config, data=data, pruners=("none",), hyperparameters={}, out=config.out + entry["path"]
        )
        with pytest.raises(InputError, match=r"question .*picture"):
            run(broken)
        outcome = run(dataclasses.replace(broken, allow_failed=True))
        assert outcome.failed == entry["skip_mode"]["n_skipped"]
        assert outcome.answered == entry["skip_mode"]["n_scored"]
        assert outcome.missing == 0, "what failed is waited for by nobody"
        assert not (outcome.folders[0] / "SEALED").exists()
        checked += 1
    assert checked


def test_rows_that_are_not_finite_fail_alone(config, monkeypatch):
    answer = answering.answer

    def spoilt(*args):
        found = answer(*args)
        return found._replace(logits=found.logits.at[0, 0].set(np.nan))

    monkeypatch.setattr(answering, "answer", spoilt)
    outcome = run(dataclasses.replace(config, pruners=("none",), hyperparameters={}))
    assert outcome.failed > 0
    assert outcome.answered > outcome.failed
    (folder,) = outcome.folders
    (file,) = folder.glob("failures-*.jsonl")
    assert all("not finite" in row["reason"] for row in records.read(file))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budgets": (0,)}, "--budget=0"),
        ({"budgets": (17,)}, r"1\.\.16"),
        ({"pruners": ("saliency",)}, "alpha"),
        ({"hyperparameters": {"gamma": (-1.0,)}}, "gamma"),
        ({"options": "abcd"}, "lettered"),
        ({"hyperparameters": {"combine": ("divide",)}}, "divide"),
    ],
)
def test_impossible_settings_are_refused(config, change, named):
    with pytest.raises(UsageError, match=named):
        run(dataclasses.replace(config, **change))
    assert not out_folder(config).exists()


def test_results_hold_every_metric_with_its_interval(config):
    outcome = run(config)
    found = aggregate.results(out_folder(config), outcome.folders, pope.BENCHMARK, "default")
    names = [
        *("accuracy", "mean_confidence", "overconfidence", "ece", "brier", "nll", "aurc"),
        *("temperature", "temperature_grid", "cross_validated_ece"),
        *("accuracy_at_80", "answer_mass"),
        *("augrc", "confidence_auroc", "brier_multiclass", "smooth_ece"),
    ]
    assert len(found["settings"]) == len(outcome.folders)
    for entry in found["settings"]:
        assert sorted(entry["metrics"]) == sorted(names)
        assert list(entry["splits"]) == list(pope.SPLITS)
        assert entry["n"] == len(command.read(pope.BENCHMARK, config).examples)
        rows = read(out_folder(config) / entry["setting"]).values()
        right = [int(np.argmax(row.log_masses)) == row.label for row in rows]
        accuracy = entry["metrics"]["accuracy"]
        assert accuracy["value"] == pytest.approx(np.mean(right))
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    seeds = {(e["pruner"], e["budget"]): e for e in found["over_seeds"]}
    assert set(seeds) == {("random", 4)}
    values = [
        e["metrics"]["ece"]["value"]
        for e in found["settings"]
        if e["pruner"] == "random" and e["budget"] == 4
    ]
    assert not {"per_token", "records"} & set(seeds["random", 4])
    exact = seeds["random", 4]["scores"]["lmms_eval"]["accuracy"]
    accuracy = seeds["random", 4]["metrics"]["accuracy"]
    assert exact == pytest.approx(accuracy)  # its mean and sd are those of the likeliest choice
    ece = seeds["random", 4]["metrics"]["ece"]
    assert ece["mean"] == pytest.approx(np.mean(values))
    assert ece["sd"] == pytest.approx(np.std(values, ddof=1))
    stale = json.loads((out_folder(config) / "results.json").read_text())
    for entry in stale["settings"]:
        del entry["metrics"]["ece"]
    (out_folder(config) / "results.json").write_text(json.dumps(stale))
    again = aggregate.results(out_folder(config), outcome.folders, pope.BENCHMARK, "default")
    assert again == found, "entries that lack a metric are computed anew"
    text = tables.render(found["settings"], pope.SPLITS)
    assert "scope_k4_alpha1_gamma1_multiply" in text
    assert "adversarial" in text
    assert "2 seeds" in tables.render_over_seeds(found["over_seeds"])


@pytest.mark.parametrize("seal", ["", "[]", '{"rows": 1}'])
def test_a_seal_that_is_none_names_no_state(tmp_path, seal):
    """A setting beside those of the run, of which nobody has looked at the seal."""
    (tmp_path / "SEALED").write_text(seal)
    assert aggregate._state(tmp_path) is None


def test_dry_run_writes_nothing(config, capsys):
    assert run(dataclasses.replace(config, dry_run=True)) is None
    assert "distinct questions" in capsys.readouterr().out
    assert not out_folder(config).exists()
