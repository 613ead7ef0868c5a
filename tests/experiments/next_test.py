"""Whole runs of a tiny LLaVA-NeXT, against the library picture by picture."""

import base64
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import pruning
from experiments import catalogue, pope, showing
from experiments.harness import accounts, command, memory, records, selection
from experiments.harness.benchmark import YES_NO
from experiments.harness.errors import InputError, UsageError
from experiments.harness.source import find
from experiments.harness.stopwatch import Stopwatch
from experiments.plugins.answerer import Answerer
from experiments.reporting import runs
from llava_jax import anyres, assembly, costs, model, prompts, testing
from llava_jax.engine import Engine

LOG_MASS = 1e-5
SIZES = ((64, 48), (20, 61), (100, 30), (80, 60), (13, 21))
"""Of the pictures: five, three, four, five and three tiles; the first and fourth lie alike."""
N = 16


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    testing.write_next_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, fixtures_dir):
    """POPE's made-up questions about pictures of odd shapes."""
    folder = tmp_path_factory.mktemp("data") / "pope"
    shutil.copytree(fixtures_dir / "raw" / "pope", folder)
    for size, file in zip(SIZES, sorted(folder.glob("val2014/*")), strict=True):
        width, height = size
        drawn = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(drawn).save(file, "PNG")
    return folder


@pytest.fixture
def config(config, model_folder, data):
    return dataclasses.replace(
        config,
        model=str(model_folder),
        data=str(data),
        pruners=("saliency", "random"),
        budgets=(10,),
        hyperparameters={},
        seeds=(0,),
        preprocessing=None,
    )


@pytest.fixture(scope="module")
def loaded(model_folder):
    source = find(str(model_folder), None, offline=True)
    return source, source.load()


def run(config):
    return command.answer(command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False)))


def read(outcome):
    return {folder.name: records.read_records(folder) for folder in outcome.folders}


def contents(outcome):
    return [file.read_bytes() for folder in outcome.folders for file in records.files(folder)]


class Library:
    """The library called by hand, for one picture."""

    def __init__(self, loaded, dataset, image):
        self.source, self.engine = loaded
        self.cfg, tokenizer = self.source.cfg, self.source.tokenizer
        picture = dataset.read_image(image)
        self.layout = anyres.layout(picture.size, self.cfg)
        self.pixels = anyres.tiles(picture, self.cfg)
        self.example = next(example for example in dataset.examples if example.image == image)
        self.prompt = np.asarray(tokenizer.first(prompts.vicuna_v1("")[0]))
        ids = np.asarray(tokenizer.rest(prompts.vicuna_v1(self.example.user_text)[1]))
        self.asked = ids[None, None], np.array([[len(ids)]])

    def answer(self, features, kept):
        """Return the log masses of yes and no after tokens float[M, Dv], int[K] of them."""
        prefix = self.engine.prefill(self.engine.begin(self.prompt), features[None], kept[None])
        return self.masses(self.engine.answer(prefix, *self.asked))

    def apply(self, kept):
        """Return the same from the picture's pixels, in one function."""
        apply, how = jax.jit(model.apply, static_argnames="cfg"), {"cfg": self.cfg}
        given = self.pixels[None], self.prompt, *self.asked
        return self.masses(apply(self.engine.params, *given, **how, keep=kept[None]))

    def masses(self, logits):
        log_probs = np.asarray(jax.nn.log_softmax(logits[0, 0]))
        sets = [list(self.source.tokenizer.answer_ids(spellings)) for spellings in YES_NO]
        return [np.logaddexp.reduce(log_probs[ids]) for ids in sets]


def prune(name, tokens, budget, key):
    """Return what a published method chooses of float[N, Dv] and float[N]."""
    features, saliency = tokens
    if name == "scope":
        return pruning.scope(features, saliency, budget)
    if name == "saliency":
        return pruning.saliency_top_k(saliency, budget)
    return pruning.random_subset(key, len(features), budget)


def chosen(name, seen, layout, budget, tiles, key):
    """Return the tokens of a picture in the decoder's order, tile by tile or all at once."""
    features, saliency = seen.features, seen.saliency
    if tiles == "each":
        parts = [
            t * N
            + prune(
                name,
                (features[t], saliency[t]),
                budget // layout.num_tiles,
                jax.random.fold_in(key, t),
            )
            for t in range(layout.num_tiles)
        ]
        return assembly.order(layout, jnp.concatenate(parts))
    shown = np.flatnonzero(assembly.shown(layout))
    whole = features.reshape(-1, features.shape[-1])[shown], saliency.ravel()[shown]
    return assembly.order(layout, shown[prune(name, whole, budget, key)])


def check_kept(row, keep, layout, setting, budget):
    """Check that a record's bits are the tokens kept, so many in the tiles where they should be."""
    count = layout.num_tiles * N
    kept = records.unpack_mask(row.kept, count)
    np.testing.assert_array_equal(np.flatnonzero(kept), np.unique(keep[keep < count]))
    assert np.unpackbits(np.frombuffer(base64.b64decode(row.kept), np.uint8)).size == count
    if not budget:
        assert len(keep) == layout.num_tokens
        return
    assert row.budget == budget
    if setting.endswith("_all"):
        assert kept.sum() == budget
    else:
        assert (kept.reshape(-1, N).sum(axis=1) == budget // layout.num_tiles).all()


@pytest.mark.parametrize("tiles", ["each", "all"])
def test_answers_are_those_of_the_library_picture_by_picture(config, loaded, tiles):
    pruners = ("scope", "saliency", "random")
    changes = {"pruners": pruners, "budgets": (10, 21), "tiles": tiles, "limit": 2}
    config = dataclasses.replace(config, **changes)
    rows, end = read(run(config)), "" if tiles == "each" else "_all"
    names = [f"scope_k{k}_alpha1_gamma1_multiply" for k in (10, 21)]
    names += [f"saliency_k{k}" for k in (10, 21)] + [f"random_k{k}_seed0" for k in (10, 21)]
    assert list(rows) == ["none", *(name + end for name in names)]
    dataset = command.read(pope.BENCHMARK, config)
    for image in dataset.images:
        library = Library(loaded, dataset, image)
        seen = library.engine.encode(library.pixels, ("features", "saliency"))
        features = seen.features.reshape(-1, seen.features.shape[-1])
        keep = assembly.sequence(library.layout)
        for name, found in rows.items():
            method, budget = ([*name.replace("_k", "_").split("_"), "0"])[:2]
            if name != "none":
                key = pruning.image_key(0, image)
                keep = chosen(method, seen, library.layout, int(budget), tiles, key)
            row = found[library.example.key]
            check_kept(row, np.asarray(keep), library.layout, name, int(budget))
            want = library.answer(features, keep)
            np.testing.assert_allclose(row.log_masses, want, atol=LOG_MASS)
        if image == dataset.images[0]:  # of the last setting, from the pixels on
            np.testing.assert_allclose(library.apply(keep), want, atol=LOG_MASS)


def test_merged_tokens_come_tile_by_tile(config, loaded):
    outcome = run(dataclasses.replace(config, pruners=("visionzip",), limit=1))
    rows, dataset = records.read_records(outcome.folders[1]), command.read(pope.BENCHMARK, config)
    library, method = Library(loaded, dataset, dataset.images[0]), pruning.get("visionzip")
    seen, made, marks = library.engine.encode(library.pixels, method.needs), [], []
    for t in range(5):
        tokens = pruning.Tokens(**{name: seen.require(name)[t] for name in method.needs})
        merged = method()(tokens, 2, jax.random.key(0))
        index = np.asarray(merged.index)
        made.append(np.asarray(merged.features)[np.argsort(index)])
        marks += np.where(index < 0, 5 * N + t, t * N + index).tolist()
    row = rows[library.example.key]
    assert set(np.flatnonzero(records.unpack_mask(row.kept, 5 * N + 5))) == set(marks)
    want = library.answer(np.concatenate(made), np.arange(10))
    np.testing.assert_allclose(row.log_masses, want, atol=LOG_MASS)


@pytest.mark.parametrize("tiles", ["each", "all"])
def test_every_pruner_before_the_decoder_takes_tiles(config, tiles):
    """Those that read CLS and its attention by layer, and those that merge, too."""
    names = [n for n in pruning.names() if pruning.get(n).stage is pruning.Stage.VISION]
    grid = {"pruners": tuple(names), "budgets": (12,), "tiles": tiles}
    rows = read(run(dataclasses.replace(config, limit=1, **grid)))
    assert len(rows) == len(names)
    shown = assembly.shown(anyres.Layout((2, 2), 4, (1, 0)))
    del rows["none"]
    for found in rows.values():
        for row in found.values():
            kept = records.unpack_mask(row.kept, 5 * N + 5)  # without CLS there are fewer bits
            patches, cls = kept[: 5 * N], np.pad(kept[5 * N :], (0, 5 * N + 5 - kept.size))
            if tiles == "each":
                assert (patches.reshape(5, N).sum(axis=1) + cls == 12 // 5).all()
            else:
                assert kept.sum() == 12
                assert not (patches & ~shown).any()
                assert not cls[1:].any()


def test_a_pruner_that_is_not_obeyed_fails_the_run(config, monkeypatch):
    every = np.tile(np.arange(N), (5, 1))
    monkeypatch.setattr(
        selection, "handed_over", lambda chosen, s, x: selection.Handed(x, every, every)
    )
    with pytest.raises(RuntimeError, match=r"80 visual tokens, not K = 10"):
        run(config)


def test_batches_of_one_and_of_many_agree_and_have_one_layout(config, monkeypatch):
    one = run(config)
    monkeypatch.setattr(memory, "images_per_batch", lambda *_: 3)
    many = dataclasses.replace(config, out=config.out + "-many")
    work = command.prepare(pope.BENCHMARK, many, Stopwatch(exact=False))
    batches = work.inputs.plan.batches
    assert sorted(map(len, batches)) == [1, 1, 1, 2]
    assert {len({work.inputs.plan.layout(g) for g in groups}) for groups in batches} == {1}
    for name, rows in read(command.answer(work)).items():
        others = read(one)[name]
        for key, row in rows.items():
            assert row.kept == others[key].kept
            np.testing.assert_allclose(row.log_masses, others[key].log_masses, atol=LOG_MASS)


def test_the_same_command_answers_nothing_and_kept_features_change_nothing(config, monkeypatch):
    config = dataclasses.replace(config, limit=3)
    want = contents(run(config))
    assert run(config).answered == 0
    encoded, encode = [], Engine.encode
    monkeypatch.setattr(Engine, "encode", lambda *a: encoded.append(1) or encode(*a))
    for name in ("-empty", "-full"):
        again = dataclasses.replace(config, out=config.out + name, cache_gib=1.0)
        assert contents(run(again)) == want
    assert len(encoded) == 3, "the second run never asks the tower"
    other = {"out": config.out + "-other", "preprocessing": "anyres_huggingface"}
    run(dataclasses.replace(config, cache_gib=1.0, **other))
    assert len(encoded) == 6


def test_kept_features_are_of_the_same_pinpoints(config, model_folder, tmp_path):
    """Another list of the same weights sees other tiles."""
    config = dataclasses.replace(config, pruners=("saliency",), limit=1, cache_gib=1.0)
    run(config)
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    described = json.loads((other / "config.json").read_text())
    described["image_grid_pinpoints"] = [[32, 64], [64, 32]]
    (other / "config.json").write_text(json.dumps(described))
    config = dataclasses.replace(config, model=str(other), out=config.out + "-other")
    for row in read(run(config))["none"].values():
        assert records.unpack_mask(row.kept, 5 * N).size == 3 * N


def test_tokens_in_the_order_of_selection_are_the_same_in_another_order(config):
    config = dataclasses.replace(config, pruners=("saliency",), limit=1)
    usual = read(run(config))["saliency_k10"]
    other = read(run(dataclasses.replace(config, order="selection")))["saliency_k10_selection"]
    assert all(usual[key].kept == other[key].kept for key in usual)
    assert all(usual[key].log_masses != other[key].log_masses for key in usual)


def test_a_run_says_how_the_model_saw(config):
    outcome = run(dataclasses.replace(config, limit=1, pruners=("saliency",)))
    full, pruned = (json.loads((f / "run.json").read_text()) for f in outcome.folders)
    assert full["identity"]["preprocessing"] == "anyres-pillow-bicubic-32"
    assert full["identity"]["model"]["grid_pinpoints"][0] == [32, 64]
    assert "tiles" not in full["setting"]
    assert pruned["setting"]["tiles"] == "each"
    assert pruned["plan"]["visual_tokens_per_layer"] == [10.0] * 3
    assert "--tiles=each\n" in (outcome.folders[1] / "flags.txt").read_text()
    folder = outcome.folders[0].parent
    showing.write([runs.load(folder, catalogue.get)], folder / "a.html")
    assert '"side":null' in (folder / "a.html").read_text(), "no grid is drawn"


def test_a_plan_counts_tiles(config, capsys):
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    plan, cfg, (full, ten, _) = work.inputs.plan, work.inputs.source.cfg, work.settings
    s, c = len(plan.prompt_ids), len(plan.common_ids)
    texts = [[len(plan.suffixes[q[0].user_text]) for q in g.questions] for g in plan.groups]
    own = sum(map(sum, texts))
    assert accounts.tokens(plan, ten, N) == s + (10 + 9 + 8 + 10 + 9) + 5 * c + own
    lengths = [anyres.layout(size, cfg).num_tokens for size in SIZES]
    assert accounts.tokens(plan, full, N) == s + sum(lengths) + 5 * c + own
    tiles = 5 + 3 + 4 + 5 + 3
    assert accounts.vision_flops(plan, cfg) == tiles * costs.encode_flops(cfg.vision)
    decoder = costs.extend_flops(cfg.text, 0, s)
    for k, asked in zip(lengths, texts, strict=True):
        decoder += costs.project_flops(cfg, k) + costs.extend_flops(cfg.text, s, k + c)
        decoder += sum(costs.answer_flops(cfg.text, s + k + c, text) for text in asked)
    assert accounts.flops(plan, full, cfg) == decoder
    bare = dataclasses.replace(plan, layouts={})
    more = accounts.flops_alone(plan, ten, cfg) - accounts.flops_alone(bare, ten, cfg)
    assert more > 4 * 18 * (tiles - 5) / 5 * costs.encode_flops(cfg.vision)
    need = costs.peak_bytes(cfg, costs.Batch(5, 0, 0, 0), 4)
    assert memory.peak(plan, [ten], cfg, 4, 1) >= need > memory.peak(bare, [ten], cfg, 4, 0)
    assert (
        command.prepare(
            pope.BENCHMARK, dataclasses.replace(config, dry_run=True), Stopwatch(exact=False)
        )
        is None
    )
    assert f"tiles: 3-5 a picture, {min(lengths)}-{max(lengths)} tokens" in capsys.readouterr().out


def test_a_picture_that_cannot_be_read_fails_as_ever(config, data, tmp_path):
    shutil.copytree(data, tmp_path / "pope")
    first = min((tmp_path / "pope").glob("val2014/*"))
    first.write_bytes(first.read_bytes()[:300])
    config = dataclasses.replace(config, data=str(tmp_path / "pope"), pruners=("saliency",))
    with pytest.raises(InputError, match=first.name):
        run(config)
    outcome = run(dataclasses.replace(config, allow_failed=True, limit=2, out=config.out + "-2"))
    assert outcome.failed == 2 * 18
    assert {row.image for row in read(outcome)["none"].values()}.isdisjoint({first.name})


def test_a_picture_that_changes_under_a_run_is_no_answer(config, data, tmp_path):
    shutil.copytree(data, tmp_path / "pope")
    config = dataclasses.replace(config, data=str(tmp_path / "pope"), limit=1)
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    first, second = sorted((tmp_path / "pope").glob("val2014/*"))[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(InputError, match="has changed"):
        command.answer(work)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pruners": ("fastv",)}, "--pruner=fastv acts inside the decoder"),
        ({"pruners": ("cdpruner",)}, "--pruner=cdpruner looks at the question"),
        ({"positions": "original"}, "--positions=original"),
        ({"preprocessing": "pad"}, "--preprocessing=pad: .* takes anyres or anyres_huggingface"),
        ({"budgets": (4,)}, r"--budget=4 is outside 5\.\.80, which the 5 tiles"),
        ({"budgets": (49,)}, r"--budget=49 is outside 3\.\.48, which the 3 tiles"),
        ({"budgets": (81,)}, r"--budget=81 is outside 1\.\.80"),
        ({"budgets": (65,), "tiles": "all"}, r"--budget=65 is outside 1\.\.\d\d, .*--tiles=all"),
    ],
)
def test_what_is_not_offered_is_refused_in_one_line(config, change, named):
    with pytest.raises(UsageError, match=named) as refused:
        run(dataclasses.replace(config, **change))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("change", [{"tiles": "each"}, {"preprocessing": "anyres"}])
def test_a_llava_1_5_has_no_tiles(config, tiny, change):
    with pytest.raises(UsageError, match=r"is a LLaVA-1\.5"):
        run(dataclasses.replace(config, model=str(tiny), **change))


def test_other_tools_are_not_given_one(config):
    with pytest.raises(UsageError, match="not offered inside other tools"):
        Answerer(config, None)
