"""Logs of other tools."""

from __future__ import annotations

import io
import json
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np

from experiments import logs
from experiments.harness.errors import InputError

_LOGS = pathlib.Path(__file__).parents[2] / "tests" / "logs"
_ROWS = b"id,group,confidence,correct\na,1,0.5,1\nb,1,1,0\n"
_MASSES = b"log_mass_0,log_mass_1,label,answer_log_mass,split\n-1,-2,0,-0.5,x\n-3,,0,-0.1,y\n"


class Logs:
    """The first byte says which format the rest is in."""

    longest = 8192

    def __init__(self, folder: pathlib.Path):
        (folder / "run").mkdir()
        self._files = (
            ("inspect", folder / "log.json", folder / "log.json"),
            ("inspect", folder / "log.eval", folder / "log.eval"),
            ("lmeval", folder / "samples_task.jsonl", folder / "samples_task.jsonl"),
            ("helm", folder / "run" / "per_instance_stats.json", folder / "run"),
            ("csv", folder / "rows.csv", folder / "rows.csv"),
            ("csv", folder / "rows.jsonl", folder / "rows.jsonl"),
        )

    def seeds(self) -> Iterator[bytes]:
        letter = json.loads((_LOGS / "inspect" / "letter.json").read_bytes())["samples"]
        yield b"\0" + json.dumps({"samples": letter[:2]}).encode()
        yield b"\1" + _archive()
        for samples in sorted((_LOGS / "lm_eval").glob("samples_*.jsonl")):
            yield b"\2" + b"".join(samples.read_bytes().splitlines(keepends=True)[:2])
        helm = json.loads((_LOGS / "helm" / "per_instance_stats.json").read_bytes())
        yield b"\3" + json.dumps(helm[:2]).encode()
        yield from (b"\4" + rows for rows in (_ROWS, _MASSES))
        yield b"\5" + b'{"confidence":0.5,"correct":true}\n{"confidence":1,"correct":"no"}\n'

    def __call__(self, data: bytes) -> None:
        form, file, path = self._files[(data or b"\0")[0] % len(self._files)]
        file.write_bytes(data[1:])
        try:
            rows = logs.read(f"{form}:{path}")
        except InputError:
            return
        _require_valid(rows)


def _archive() -> bytes:
    """Return a small .eval of the first samples of one that inspect wrote."""
    content = io.BytesIO()
    with zipfile.ZipFile(_LOGS / "inspect" / "deflated.eval") as log:
        names = [name for name in log.namelist() if name.startswith("samples/")][:2]
        with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as small:
            for name in names:
                small.writestr(name, log.read(name))
    return content.getvalue()


def _require_valid(rows: logs.Rows) -> None:
    """Raise unless rows are what the metrics take."""
    everyone = np.arange(len(rows.key))
    assert len(set(rows.key)) == len(rows.key) > 0
    chosen = np.argmax(rows.log_masses, axis=1) if rows.prediction is None else rows.prediction
    assert rows.valid[everyone, chosen].all()
    assert rows.valid[everyone, rows.label].all()
    assert np.isfinite(rows.log_masses[rows.valid]).all()
    assert rows.answer_log_mass is None or (rows.answer_log_mass <= 0).all()
