r"""Draw scenes of the embedded world side by side.

    python -m experiments.scenes --out=docs/scenes.jpg

Pictures of the validation world: the test world is for testing.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags
from PIL import Image

from experiments import scenes
from experiments.harness import errors, program

flags.DEFINE_string("out", None, "picture file to write", required=True)
flags.DEFINE_integer("first", 0, "index of the first scene", lower_bound=0)
flags.DEFINE_integer("rows", 3, "of pictures", lower_bound=1)
flags.DEFINE_integer("columns", 4, "of pictures", lower_bound=1)

_GAP = 6  # pixels of white between pictures


def sheet(first: int, rows: int, columns: int) -> np.ndarray:
    """Lay scenes out row by row, uint8[H, W, 3]."""
    world = scenes.world("validation")
    pictures = [scenes.scene(world, first + i).image for i in range(rows * columns)]
    framed = [np.pad(p, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for p in pictures]
    lines = [np.hstack(framed[i * columns : (i + 1) * columns]) for i in range(rows)]
    return np.vstack(lines)[:-_GAP, :-_GAP]


def main() -> None:
    """Read the flags and write the picture."""
    out = pathlib.Path(flags.FLAGS.out)
    if out.suffix.lower() not in Image.registered_extensions():
        raise errors.UsageError(f"--out={out} does not end as pictures do, such as .jpg")
    out.parent.mkdir(parents=True, exist_ok=True)
    values = flags.FLAGS
    Image.fromarray(sheet(values.first, values.rows, values.columns)).save(out, quality=88)


if __name__ == "__main__":
    program.run(main)
