"""run.json and flags.txt of a setting: whether each says what it is and what the other says."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.harness import records
from experiments.reporting.verification import findings
from experiments.reporting.verification.findings import Finding

FLAGS = "flags.txt"
_USED = {
    "schema": int,
    "fingerprint": str,
    "setting": dict,
    "identity": dict,
    "identity.schema": int,
    "identity.benchmark": str,
    "identity.confidence.route": str,
    "identity.data.rows": int,
    "identity.data.sha256": str,
    "identity.setting": dict,
    "expected.rows": int,
    "expected.sha256": str,
    "plan": dict,
    "versions": dict,
}
"""What is used of a run.json, by its way there."""


def read(folder: pathlib.Path) -> tuple[dict[str, Any], list[Finding]]:
    """Read a setting's run.json and compare it with itself and with flags.txt.

    Args:
        folder: of the setting.

    Returns:
        (its contents, empty if they are not those of a run; what does not agree).
    """
    file = folder / records.RUN
    run, found = findings.mapping(file)
    if found and not run:
        return {}, found
    if lacking := list(_lacking(run)):
        what = "is not there, or of another kind"
        return {}, [*found, *(Finding(file, name, what) for name in lacking)]
    return run, [*found, *_identity(file, run), *_flags(folder / FLAGS, run)]


def _lacking(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is used of a run.json and is not there."""
    for name, kind in _USED.items():
        value: Any = run
        for word in name.split("."):
            value = value.get(word) if isinstance(value, dict) else None
        if type(value) is not kind:
            yield name


def _identity(file: pathlib.Path, run: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield where a run.json contradicts itself."""
    identity, data = run["identity"], run["identity"]["data"]
    digest = hashlib.sha256(records.canonical(identity)).hexdigest()
    if run["fingerprint"] != digest:
        what = findings.unlike(run["fingerprint"], digest)
        yield Finding(file, "fingerprint", f"does not fit the identity: it {what}")
    for name, here, there in (
        ("schema", run["schema"], identity["schema"]),
        ("setting", run["setting"], identity["setting"]),
        ("expected.rows", run["expected"]["rows"], data["rows"]),
    ):
        if here != there:
            yield Finding(file, name, f"is {here!r:.80}, the identity has {there!r:.80}")


def _flags(file: pathlib.Path, run: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the flags of a setting that would not run it again."""
    data = findings.content(file)
    if isinstance(data, Finding):
        yield data
        return
    if not data:
        return  # of a run inside another tool, which no command line runs again
    given = {}
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n")[:-1], 1):
        name, equals, value = line.partition("=")
        if not name.startswith("--") or (not equals and name != "--fork"):
            yield Finding(file, f"line {number}", f"is no flag with a value: {line!r:.80}")
        given[name.removeprefix("--")] = value
    if not data.endswith(b"\n"):
        yield Finding(file, "", "does not end with a newline")
    for name, value in _held(run, given).items():
        if value is not None and given.get(name) != _spelt(value):
            what = f"is {given.get(name)!r:.80}, run.json has {value!r:.80}"
            yield Finding(file, f"--{name}", what)


def _held(run: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Return flag → value as run.json has it, of the flags that it knows."""
    identity, setting = run["identity"], run["setting"]
    asked = identity.get("asked")
    answered = {**identity["confidence"], "dtype": identity.get("dtype")}
    answered["quantize"] = identity.get("quantization")
    return {
        "kv_eviction": "none",
        **(asked if isinstance(asked, dict) else {}),
        "preprocessing": str(identity.get("preprocessing")).partition("-")[0],
        **{name: value for name, value in answered.items() if name in given},  # else by default
        **({"pruner": "none"} if setting.get("pruner") == "none" else setting),
    }


def _spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
