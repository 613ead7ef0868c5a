"""Pruners of other distributions: found by their entry points, flags and all, or named if not."""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import warnings

import pytest

import pruning
from experiments.harness import errors, pruners
from pruning import base

EXAMPLE = pathlib.Path(__file__).parents[1] / "third_party" / "llava-jax-example"
GROUP = "llava_jax.pruners"


def write_distribution(site, name, points):
    """Write what an installer leaves of a distribution with entry points."""
    info = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [f"{point} = {module}\n" for point, module in points.items()]
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(lines))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a folder with the example installed, without pip: it builds with setuptools."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    for package in project["tool"]["setuptools"]["packages"]:
        shutil.copytree(EXAMPLE / package, site / package)
    project = project["project"]
    write_distribution(site, project["name"], project["entry-points"][GROUP])
    return site


def python(site, *arguments, cwd):
    environment = {"PYTHONPATH": str(site), "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def pope(site, folder, *flags):
    flags = ("--budget=32", "--limit=1", f"--cache={folder}/cache", *flags)
    return python(site, "-m", "experiments.pope", *flags, cwd=folder)


def test_it_runs_by_its_name_and_flag(site, tmp_path):
    planned = pope(site, tmp_path, "--pruner=norm", "--norm_power=2", "--dry_run")
    assert planned.returncode == errors.COMPLETE, planned.stderr
    assert "norm" in planned.stdout
    done = pope(site, tmp_path, "--pruner=norm", "--norm_power=1")
    assert done.returncode == errors.COMPLETE, done.stderr
    results = json.loads((tmp_path / "runs/pope/results.json").read_text())
    (norm,) = [setting for setting in results["settings"] if setting["pruner"] == "norm"]
    assert (norm["budget"], norm["norm_power"]) == (32, 1.0)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--pruner=norm", "--norm_power=0"], "norm_power must be finite and > 0, got 0.0"),
        (["--pruner=norm", "--norm_power=high"], "norm_power"),
        (["--pruner=saliency", "--norm_power=2"], "norm has it"),
        (["--pruner=norms"], "known: "),
    ],
)
def test_a_wrong_flag_is_refused(site, tmp_path, flags, named):
    refused = pope(site, tmp_path, *flags)
    assert refused.returncode == errors.USAGE
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr


def test_it_keeps_every_promise(site, tmp_path):
    code = 'import pruning, pruning.testing\npruning.testing.check(pruning.get("norm")())'
    checked = python(site, "-W", "error", "-c", code, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("pip", "setuptools"))),
    reason="needs pip and setuptools, which the extra `reference` brings",
)
def test_pip_installs_the_same_entry_points(site, tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "copy")  # a build writes into its folder
    how = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", *how, f"--target={target}"]
    subprocess.run([*command, str(tmp_path / "copy")], check=True, capture_output=True)
    found = [
        {point.name: point.value for point in distribution.entry_points}
        for folder in (site, target)
        for distribution in importlib.metadata.distributions(path=[str(folder)])
    ]
    assert found == [{"norm": "llava_jax_example.norm"}] * 2
    assert (target / "llava_jax_example" / "norm.py").is_file()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a module under an entry point for one test."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(base, "_PRUNERS", dict(base._PRUNERS))
    modules = []

    def write(distribution, module, source, point):
        (tmp_path / f"{module}.py").write_text(source)
        write_distribution(tmp_path, distribution, {point: module})
        modules.append(module)
        importlib.invalidate_caches()

    caches = (base._load_entry_points, pruners.hyperparameters)
    for cache in caches:
        cache.cache_clear()
    yield write
    for cache in caches:
        cache.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


SOURCE = """
from typing import ClassVar
from pruning import {how}, Stage, saliency_top_k

@{decorator}("{name}")
class Mine:
    stage: ClassVar[Stage] = Stage.VISION
    needs: ClassVar[tuple[str, ...]] = ("saliency",)
    nested: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    uses_raster: ClassVar[bool] = True
    mine_size: float = {default}

    def __call__(self, tokens, budget, key):
        return saliency_top_k(tokens.saliency, budget)
"""


def source(name, decorator="register", default="1.5"):
    how = "register" if decorator == "register" else "base"
    return SOURCE.format(how=how, decorator=decorator, name=name, default=default)


@pytest.mark.parametrize("decorator", ["register", "base.register"])
def test_a_class_is_read_and_loaded(install, decorator):
    install("mine-dist", "mine_module", source("mine", decorator), "mine")
    (size,) = pruners.hyperparameters()["mine"].values()
    assert size.default == 1.5
    assert "mine_module" not in sys.modules
    assert pruning.get("scope") is pruning.Scope
    assert "mine_module" not in sys.modules  # built-in ones need no other distribution
    assert pruning.get("mine").__module__ == "mine_module"
    assert "mine" in pruning.names()


def test_a_module_that_fails_breaks_its_own_name_only(install):
    install("broken-dist", "broken_module", "import nothing_of_that_name", "broken")
    assert pruning.get("scope") is pruning.Scope
    with pytest.raises(ValueError, match=r"'broken' of .* broken-dist .*No module .*nothing_of"):
        pruning.get("broken")
    with pytest.warns(UserWarning, match="broken-dist"):
        assert "broken" not in pruning.names()
    with pytest.warns(UserWarning, match="broken-dist"), pytest.raises(ValueError, match="scope"):
        pruning.get("scoop")


@pytest.mark.parametrize("text", ["def", source("hard", default="2 ** 0.5")])
def test_a_module_that_cannot_be_read_is_a_warning(install, text):
    install("hard-dist", "hard_module", text, "hard")
    with pytest.warns(UserWarning, match="hard-dist brings hard, whose flags cannot be read"):
        found = pruners.hyperparameters()
    assert found["hard"] == {}
    assert found["scope"]


def test_a_module_that_is_not_there_is_a_warning(install, tmp_path):
    install("gone-dist", "gone_module", "", "gone")
    (tmp_path / "gone_module.py").unlink()
    with pytest.warns(UserWarning, match="no source of the module 'gone_module'"):
        assert pruners.hyperparameters()["gone"] == {}


def test_a_module_without_the_name_is_named(install):
    install("other-dist", "other_module", source("other"), "another")
    with pytest.raises(ValueError, match=r"other-dist .*registers no pruner of that name"):
        pruning.get("another")


def test_a_name_that_is_taken_is_refused(install):
    install("scope-dist", "scope_module", source("scope"), "scope")
    message = r"two pruners are called 'scope', by llava-jax and .* scope-dist \(scope_module\)"
    with pytest.raises(errors.UsageError, match=message):
        pruners.hyperparameters()
    with pytest.warns(UserWarning, match=r"scope-dist .*'scope' is taken by Scope"):
        pruning.names()
    assert pruning.get("scope") is pruning.Scope


def test_nothing_is_said_where_all_is_well(install):
    install("mine-dist", "mine_module", source("mine"), "mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruners.hyperparameters()
        pruning.names()
