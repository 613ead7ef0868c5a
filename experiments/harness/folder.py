"""A setting's folder: what the run is (run.json), its records, and the seal.

run.json   identity, its fingerprint, versions, expected keys, batch plan; written once
flags.txt  --flagfile=<folder>/flags.txt runs it again

Records (``shards``) and the seal (``sealing``) are beside them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from experiments.harness import records, sealing
from experiments.harness.errors import InputError
from llava_jax import atomic

FLAGS = "flags.txt"
_PACKAGES = ("llava-jax", "jax", "jaxlib", "flax", "numpy", "pillow", "tokenizers")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the sha256 of a run's identity."""
    return hashlib.sha256(records.canonical(identity)).hexdigest()


class RunFolder:
    """A setting's folder, made or found.

    Attributes:
        path: the folder.
        run: first 16 digits of the fingerprint, as records carry it.
        keys: expected, in the order of the plan.
    """

    def __init__(self, path: pathlib.Path, identity: Mapping[str, Any], keys: Sequence[str]):
        self.path = path
        self.run = fingerprint(identity)[:16]
        self._identity = identity
        self.keys = keys

    @classmethod
    def open(
        cls,
        path: pathlib.Path,
        identity: Mapping[str, Any],
        keys: Sequence[str],
        *,
        plan: Mapping[str, Any],
        setting: Mapping[str, Any],
        source: str,
        flagfile: str,
        fork: bool,
    ) -> RunFolder:
        """Make the folder or resume in it.

        Args:
            path: ``<out>/<setting id>``.
            identity: all that decides the answers.
            keys: expected keys, in the order of the plan.
            plan: the batch plan.
            setting: as results.json shows it.
            source: where the questions were read, for people: it does not decide an answer.
            flagfile: contents of flags.txt.
            fork: where the folder holds another run, use ``<path>+<fingerprint>`` instead.

        Raises:
            InputError: it holds another run; the differences are named.
        """
        found = _read_run(path)
        if found and found["identity"] != identity and fork:
            flagfile += "--fork\n"
            path = path.with_name(f"{path.name}+{fingerprint(identity)[:8]}")
            found = _read_run(path)
        folder = cls(path, identity, keys)
        content = {
            "schema": records.SCHEMA,
            "fingerprint": fingerprint(identity),
            "identity": identity,
            "setting": setting,
            "expected": {
                "rows": len(keys),
                "sha256": hashlib.sha256(records.canonical(keys)).hexdigest(),
            },
            "plan": plan,
            "source": source,
        }
        if found:
            folder._refuse_difference(found, content)
            _warn_of_versions(path, found.get("versions", {}))
        else:
            _make(path)
            atomic.write(path / FLAGS, flagfile)
            atomic.write(path / records.RUN, content | {"versions": versions()})
        return folder

    def _refuse_difference(self, found: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        differences = [
            line
            for part in ("identity", "expected")
            for line in _differences(found[part], content[part], f"{part}.")
        ]
        if differences:
            raise InputError(
                f"{self.path} holds another run: {'; '.join(differences)} "
                "(--fork starts a folder of its own, --out names another)"
            )

    @property
    def sealed(self) -> bool:
        """Whether no answer is missing, and nothing was changed since that was found."""
        return sealing.is_sealed(self.path)

    def done(self) -> frozenset[str]:
        """Return the keys that have a record, whichever process wrote it.

        Raises:
            InputError: records of another run.
        """
        found = records.read_records(self.path)
        if foreign := {record.run for record in found.values()} - {self.run}:
            raise InputError(f"{self.path} has records of another run {foreign.pop()}")
        return frozenset(found)

    def failed(self) -> frozenset[str]:
        """Return the keys that failed, whichever process asked, and have no record."""
        return frozenset(records.read_failures(self.path)) & set(self.keys) - self.done()

    def seal(self) -> bool:
        """Seal the folder if no expected record is missing; return whether it is sealed."""
        return sealing.seal(self.path, self.keys)


def _warn_of_versions(path: pathlib.Path, found: Mapping[str, str]) -> None:
    """Say that a run goes on with other software than it began with."""
    if changed := _differences(found, versions(), ""):
        logging.warning("%s was begun with other versions: %s", path, "; ".join(changed))


def _make(path: pathlib.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the run folder {path} cannot be made: {error.strerror}") from None


def _read_run(path: pathlib.Path) -> dict[str, Any] | None:
    file = path / records.RUN
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
        return {name: found[name] for name in ("identity", "expected", "versions")}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file} does not describe a run; name another --out") from None


def _differences(old: Any, new: Any, name: str) -> list[str]:
    """Return ``name: old → new`` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [
            line
            for key in keys
            for line in _differences(old.get(key), new.get(key), f"{name}{key}.")
        ]
    return [] if old == new else [f"{name.rstrip('.')}: {_short(old)} → {_short(new)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    found = {name: _version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | found


def _version(package: str) -> str:
    """Return a package's version; this one may be used from its folder, without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
