"""A setting that lacks no answer is sealed: sorted into one table, and hashed.

records.parquet     the rows sorted by key, compressed; for other tools, ours read the records
SEALED              written last: rows, the sha256 of the sorted lines, that of every file
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from absl import logging

from experiments.harness import records
from llava_jax import atomic

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "records.parquet"


def is_sealed(folder: pathlib.Path) -> bool:
    """Return whether every expected record is there, and the files are those that were sealed.

    Otherwise the seal is broken, and missing answers are redone.
    """
    file = folder / records.SEALED
    if not file.is_file():
        return False
    try:
        if json.loads(file.read_text("utf-8"))["files"] == _digests(folder):
            return True
    except (ValueError, KeyError, TypeError):
        pass  # not a seal of ours
    logging.warning("%s was changed after it was sealed; missing answers are redone", folder)
    file.unlink()
    return False


def seal(folder: pathlib.Path, keys: Collection[str]) -> bool:
    """Seal a setting's folder if no expected record is missing.

    Args:
        folder: of the setting.
        keys: expected.

    Returns:
        Whether it is sealed now.
    """
    found = records.read_lines(folder)
    if not found.keys() >= set(keys):
        return False
    lines = [found[key] for key in sorted(keys)]
    _write_table(folder / TABLE, lines)
    total = hashlib.sha256()
    for line in lines:
        total.update(line)
    content = {"rows": len(lines), "sha256": total.hexdigest(), "files": _digests(folder)}
    atomic.write(folder / records.SEALED, content)
    return True


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """Return the sha256 of every record file that has rows, and of the table."""
    files = [file for file in records.files(folder) if file.stat().st_size]
    files += [table for table in [folder / TABLE] if table.is_file()]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _write_table(file: pathlib.Path, lines: Sequence[bytes]) -> None:
    """Write canonical lines as Parquet; Arrow reads them itself, number by number."""
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet

    block = max(2**20, 2 * max(map(len, lines)))  # a row must fit into one
    table = pyarrow.json.read_json(
        pa.BufferReader(b"".join(lines)),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=block),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=_schema()),
    )
    with atomic.writing(file) as handle:
        pyarrow.parquet.write_table(table, handle, compression="zstd")


def _schema() -> pa.Schema:
    """Return the table's columns: a record's fields and the line's own two."""
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    kinds = {
        "label": pa.int32(),
        "log_masses": numbers,
        "answer_log_mass": pa.float64(),
        "token": pa.int32(),
        "text_log_probs": numbers,
        "budget": pa.int32(),
    }
    names = [*records.Record.__dataclass_fields__, "crc"]
    columns = [(name, kinds.get(name, pa.string())) for name in names]
    return pa.schema([*columns, ("v", pa.int32())])
