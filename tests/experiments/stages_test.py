"""Whole runs of pruners of every stage: each row proves what its question was answered from."""

import dataclasses
import json

import numpy as np
import pytest

import pruning
from experiments import pope
from experiments.harness import answering, batching, command, records
from experiments.harness.errors import InputError, UsageError
from experiments.harness.stopwatch import Stopwatch
from experiments.reporting import aggregate, tables
from llava_jax import cutting, images, prompts
from pruning import batches

INSIDE = ("fastv", "pyramiddrop", "dart", "sparsevlm")
MADE = ("visionzip", "prunesid", "prumerge", "prumerge_plus", "tome")


def run(config, **changes):
    """Return setting id → records, by key."""
    config = dataclasses.replace(config, **{"hyperparameters": {}} | changes)
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    return {f.name: records.read_records(f) for f in command.answer(work).folders}


def masks(rows):
    """Return bool[rows, 17], the last for CLS."""
    found = [records.unpack_mask(row.kept, 17) for row in rows.values()]
    return np.stack([np.pad(mask, (0, 17 - len(mask))) for mask in found])


def by_image(rows):
    """Return image → the masks of its rows."""
    found = {}
    for row in rows.values():
        found.setdefault(row.image, []).append(row.kept)
    return found


def differ(a, b):
    """Return whether every answer of two settings differs."""
    pairs = [(a[key].log_masses, b[key].log_masses) for key in a]
    return all(np.abs(np.subtract(*pair)).max() > 1e-6 for pair in pairs)


@pytest.mark.parametrize("name", ["cdpruner", "trim"])
def test_a_question_keeps_tokens_of_its_own(config, name):
    found = run(config, pruners=(name,), budgets=(4,))
    rows = found[next(n for n in found if n.startswith(name))]
    assert (masks(rows).sum(axis=1) == 4).all()
    assert any(len(set(kept)) > 1 for kept in by_image(rows).values())
    assert differ(rows, found["none"])


def test_the_other_sign_keeps_other_tokens(config):
    one, other = (
        run(config, pruners=("trim",), budgets=(4,), relevant=r, out=f"{config.out}-{r}")
        for r in ("dissimilar", "similar")
    )
    assert (masks(one["trim_k4_mean"]) != masks(other["trim_k4_mean"])).any(axis=1).all()


@pytest.mark.parametrize("name", INSIDE)
def test_tokens_are_taken_out_inside(config, name):
    found = run(config, pruners=(name,), budgets=(12,))
    folder = next(n for n in found if n.startswith(name))
    rows, pruner = found[folder], pruning.get(name)()
    last = pruner.cuts(12, 16, 3)[-1]
    assert (masks(rows).sum(axis=1) <= last.keep).all()
    if not last.merged:
        assert (masks(rows).sum(axis=1) == last.keep).all()
    assert any(len(set(kept)) > 1 for kept in by_image(rows).values())
    assert differ(rows, found["none"])


BY_RANK = {"pruners": ("sparsevlm",), "hyperparameters": {"sparsevlm_version": ("1.0",)}}


def test_every_question_keeps_a_number_of_its_own(config):
    found = run(config, budgets=(8,), **BY_RANK)
    rows = found["sparsevlm_k8_1.0"]
    counts = dict(zip(rows, masks(rows).sum(axis=1), strict=True))
    assert len(set(counts.values())) > 2
    assert min(counts.values()) >= 1
    for key, count in counts.items():  # attention of rank 16 drops nothing
        change = np.subtract(rows[key].log_masses, found["none"][key].log_masses)
        assert (np.abs(change).max() > 1e-5) == (count < 16)
    (plan,) = (json.loads(f.read_text())["plan"] for f in _run_files(config) if "1.0" in str(f))
    assert plan["visual_tokens_per_layer"] == [16, 16, 16]  # no question has more


def test_a_stage_that_leaves_more_than_was_chosen_fails_the_run(config, monkeypatch):
    monkeypatch.setattr(cutting, "_take_living", lambda tokens, index, merged, alive: tokens)
    with pytest.raises(RuntimeError, match=r"sparsevlm chose .* but 16 to 16 were left"):
        run(config, budgets=(8,), **BY_RANK)


@pytest.mark.parametrize("name", MADE)
def test_tokens_that_were_made_are_handed_over(config, name):
    found = run(config, pruners=(name,), budgets=(5,))
    rows = found[next(n for n in found if n.startswith(name))]
    assert (masks(rows).sum(axis=1) == 5).all()
    with_cls = masks(rows)[:, 16]
    assert (with_cls == (name in ("visionzip", "prunesid"))).all()
    assert all(len(set(kept)) == 1 for kept in by_image(rows).values())
    assert differ(rows, found["none"])


@pytest.mark.parametrize("name", ["fastv", "cdpruner"])
def test_a_stage_that_does_not_prune_fails_the_run(config, monkeypatch, name):
    monkeypatch.setattr(cutting, "_take", lambda tokens, index, merged: tokens)
    every = np.arange(16, dtype=np.int32)[None, None]
    monkeypatch.setattr(
        answering.selection,
        "handed_over",
        lambda chosen, setting, x: answering.selection.Handed(x, every, every),
    )
    with pytest.raises(RuntimeError, match="4"):
        run(config, pruners=(name,), budgets=(4,))


def test_what_a_setting_comes_to_is_recorded(config):
    run(config, pruners=("fastv", "saliency"), budgets=(4,))
    out = {f.parent.name: json.loads(f.read_text()) for f in _run_files(config)}
    inside = next(run for name, run in out.items() if name.startswith("fastv"))
    assert inside["plan"]["visual_tokens_per_layer"] == [16, 4, 4]
    assert out["saliency_k4"]["plan"]["visual_tokens_per_layer"] == [4, 4, 4]
    assert inside["plan"]["flop"] > out["saliency_k4"]["plan"]["flop"]
    folders = [f.parent for f in _run_files(config)]
    entries = aggregate.results(folders[0].parent, folders, pope.BENCHMARK, "default")["settings"]
    assert {e["visual_tokens"] for e in entries} == {16, 8, 4}
    text = tables.render(entries, pope.SPLITS)
    assert text.splitlines()[0].split()[:3] == ["all", "n", "tokens"]


def _run_files(config):
    return sorted(pope.pathlib.Path(config.out).glob("*/run.json"))


def test_order_and_positions_are_those_of_the_flags(config):
    usual = run(config, pruners=("prunesid", "cdpruner"), budgets=(4,))
    for change in ({"order": "selection"}, {"positions": "original"}):
        other = run(config, pruners=("prunesid", "cdpruner"), budgets=(4,), **change)
        for name in ("prunesid_k4", "cdpruner_k4"):
            changed = other[f"{name}_{next(iter(change.values()))}"]
            assert any(
                np.abs(np.subtract(row.log_masses, usual[name][key].log_masses)).max() > 1e-6
                for key, row in changed.items()
            )
            assert {k: row.kept for k, row in changed.items()} == {
                k: row.kept for k, row in usual[name].items()
            }


def test_a_missing_dual_encoder_is_refused_by_its_flag(config, tmp_path):
    with pytest.raises(InputError, match=f"--clip={tmp_path}"):
        run(config, clip=str(tmp_path), pruners=("cdpruner",))
    run(config, clip=str(tmp_path), pruners=("saliency",))  # it is not read


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("fastv", {"fastv_variant": ("twice",)}, "fastv_variant"),
        ("fastv", {"fastv_layer": (0,)}, "fastv_layer"),
        ("pyramiddrop", {"pyramiddrop_layers": ("8-8",)}, "pyramiddrop_layers"),
        ("sparsevlm", {"sparsevlm_version": ("3",)}, "sparsevlm_version"),
        ("saliency", {"saliency_layers": ("22-20",)}, "saliency_layers"),
        ("trim", {"trim_rest": ("sum",)}, "trim_rest"),
    ],
)
def test_a_bad_hyperparameter_is_refused_by_name(config, name, change, named):
    config = dataclasses.replace(config, pruners=(name,), hyperparameters=change)
    with pytest.raises(UsageError, match=named):
        command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))


def test_saliency_of_several_layers_is_their_sum(config):
    change = {"saliency_layers": ("0-22",)}
    config = dataclasses.replace(config, pruners=("saliency",), hyperparameters=change)
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    folder = command.answer(work).folders[1]
    assert folder.name == "saliency_k4_0-22"
    engine = work.inputs.source.load()
    dataset, group = work.inputs.dataset, work.inputs.plan.groups[0]
    pixels = images.preprocess(dataset.read_image(group.image), 32)[None]
    seen = engine.encode(pixels, ("saliency_by_layer",), (0, 1, 2)).saliency_by_layer
    want = np.sort(pruning.saliency_top_k(seen[0].sum(axis=0), 4))
    row = records.read_records(folder)[group.rows[0].key]
    np.testing.assert_array_equal(np.flatnonzero(records.unpack_mask(row.kept, 16)), want)


def test_alphas_and_budgets_share_a_program_and_each_gamma_has_one(config):
    grid = {"alpha": (0.0, 0.5, 1.0), "gamma": (1.0, 2.0)}
    config = dataclasses.replace(
        config, pruners=("scope",), budgets=(3, 5, 7), hyperparameters=grid
    )
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    batches._select.clear_cache()
    assert len(command.answer(work).folders) == 1 + 3 * 2 * 3
    assert batches._select._cache_size() == 1 + 2  # full tokens, and two gammas


def test_relevance_is_that_of_each_question_by_itself(config):
    config = dataclasses.replace(config, pruners=("trim",), hyperparameters={})
    inputs = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False)).inputs
    clip, groups = inputs.clip, inputs.plan.groups[:2]
    row = groups[0].rows[0]
    longer = dataclasses.replace(row, user_text="Really? " * 9 + row.user_text)
    groups = (batching.ImageGroup(row.image, ((longer,), (row,))), groups[1])
    suffixes = {**inputs.plan.suffixes, longer.user_text: (5,)}
    batch = batching.collate(groups, suffixes)
    features = np.random.default_rng(0).normal(size=(2, 16, 32)).astype(np.float32)
    got, counts = clip.relevance(features, batch), set()
    for g, group in enumerate(batch.groups):
        for q, question in enumerate(group.questions):
            text = prompts.without_instruction(question[0].user_text)
            assert question[0].user_text.startswith(text + "\nAnswer")
            pieces = clip.tokenizer.pieces(text, clip.cfg.text.num_positions)
            counts.add(len(pieces))
            parts = clip.engine.patches(features[g]), clip.engine.texts(pieces)
            want = pruning.cdpruner_relevance(*parts)
            np.testing.assert_allclose(got[g, q], want, atol=1e-5)
    assert len(counts) > 1  # of pieces, so that some occur more often than others
