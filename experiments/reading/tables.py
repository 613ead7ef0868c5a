"""Tables of the hub: parquet files, named one by one, pictures left as the bytes they are.

``datasets`` keeps an Arrow copy on disk and reads rows when they are asked for, so pictures need
no memory. It is given explicit files: a folder that it opens by itself shares its cached copy with
any other folder of the same name and README (datasets 5.2), and would serve the other's rows.
``load_dataset`` would ask a server on every call, offline or not.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from experiments.harness.errors import InputError
from llava_jax import diagnosis

if TYPE_CHECKING:
    import datasets

_ROWS = 64  # at a time


class Tables:
    """A folder of parquet files in the layout of the hub, ``<config>/<split>-*.parquet``.

    Attributes:
        folder: where they lie.
        name: for people: the folder, or hub id and revision.
    """

    def __init__(self, folder: pathlib.Path, name: str):
        self.folder = folder
        self.name = name

    def files(self, config: str, split: str) -> list[pathlib.Path]:
        """Return the files of a split; those of a data set's only config lie in ``data``."""
        found = sorted(self.folder.glob(f"{config}/{split}-*.parquet"))
        return found or sorted(self.folder.glob(f"data/{split}-*.parquet"))

    def has(self, config: str, split: str) -> bool:
        """Return whether a config has a folder of its own with a split's files."""
        return any(self.folder.glob(f"{config}/{split}-*.parquet"))

    def open(self, config: str, split: str, columns: Sequence[str]) -> Table:
        """Open a split.

        Args:
            config: of the data set.
            split: of the config.
            columns: that it must have.

        Raises:
            InputError: there are no such files, or they cannot be read or lack a column.
        """
        files = self.files(config, split)
        if not files:
            raise InputError(f"{self.name} has no {config}/{split}-*.parquet")
        rows = _read(files)
        if absent := [name for name in columns if name not in rows.column_names]:
            have = ", ".join(rows.column_names)
            raise InputError(f"{files[0]} lacks the column {', '.join(absent)}; it has {have}")
        return Table(rows, f"{self.name} {config}/{split}")


class Table:
    """Rows of a split.

    Attributes:
        name: for people.
        columns: that it has.
    """

    def __init__(self, rows: datasets.Dataset, name: str):
        # Cells as they are stored: no picture is decoded.
        self._rows: Any = rows.with_format("arrow")
        self.name = name
        self.columns = tuple(rows.column_names)

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield some columns of every row."""
        for batch in self._rows.select_columns(list(columns)).iter(batch_size=_ROWS):
            yield from batch.to_pylist()

    def digests(self, column: str = "image", frame: int = 0) -> list[str]:
        """Return the sha256 of every row's picture, the first 16 digits; empty without one.

        Args:
            column: of the pictures.
            frame: which, where a row has several; −1 is the one in the middle.
        """
        contents = (_content(row[column], frame) for row in self.rows([column]))
        return [hashlib.sha256(x).hexdigest()[:16] if x else "" for x in contents]

    def picture(self, row: int, column: str = "image", frame: int = 0) -> bytes:
        """Return a row's picture as a file's bytes; none if it has no picture."""
        return _content(self._rows[row].column(column)[0].as_py(), frame)


def _content(cell: Any, frame: int) -> bytes:
    """Return the bytes of a picture, or of one of several."""
    if isinstance(cell, list):
        cell = cell[len(cell) // 2 if frame < 0 else frame] if cell else None
    return (cell or {}).get("bytes") or b""


def _read(files: Sequence[pathlib.Path]) -> datasets.Dataset:
    """Open parquet files, in their order."""
    import datasets

    datasets.disable_progress_bars()
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    copy = hashlib.sha256(repr(states).encode()).hexdigest()[:16]  # datasets' own looks at less
    folder = pathlib.Path(datasets.config.HF_DATASETS_CACHE) / f"llava_jax-{copy}"
    try:
        return datasets.Dataset.from_parquet(list(map(str, files)), cache_dir=str(folder))
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        for file in files:
            if what := diagnosis.of_file(file):
                raise InputError(f"{file} {what}") from None
        reason = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        raise InputError(f"{files[0]} cannot be read: {reason}") from None
