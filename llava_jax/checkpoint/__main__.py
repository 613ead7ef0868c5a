"""Convert a published LLaVA folder into the form that it is run from.

    python -m llava_jax.checkpoint --src=llava-1.5-7b-hf --dst=llava-1.5-7b [--dry_run]
    python -m llava_jax.checkpoint --src=llava-v1.5-7b --vision_tower=clip-vit-large-patch14-336 …

The second is for checkpoints of LLaVA's own code, whose vision tower is a CLIP of its own.

Of ``--form=orbax`` every device reads its own part; ``--form=safetensors`` is mapped on CPU.

Exit codes: 0 complete, 1 usage, 2 refused, 130 Ctrl-C.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("src", None, "folder with config.json and weights", required=True)
flags.DEFINE_string("vision_tower", None, "CLIP's folder, where src is of LLaVA's own code")
flags.DEFINE_string("dst", None, "folder to make; not needed with --dry_run")
flags.DEFINE_enum("dtype", "float16", ["float32", "float16", "bfloat16"], "of the stored weights")
flags.DEFINE_enum(
    *("form", "orbax", ["orbax", "safetensors"]),
    "orbax restores into any mesh; safetensors is aligned, so that a CPU maps it without reading",
)
flags.DEFINE_enum("quantize", None, ["int8", "int4"], "the decoder's matrices; orbax only")
flags.DEFINE_bool("dry_run", False, "check every key and shape from the headers, write nothing")


def parse(argv: Sequence[str]) -> None:
    """Parse a command line; end with one line if it cannot be understood."""
    try:
        rest = FLAGS(argv)
    except (flags.Error, ValueError) as error:
        sys.exit(_end(f"usage: {error}", 1))
    except RecursionError:  # of absl, looking for names like it
        sys.exit(_end(f"usage: a flag's name is too long: {max(argv, key=len)[:500]}…", 1))
    if len(rest) > 1:
        sys.exit(_end(f"usage: unexpected argument {rest[1]!r}", 1))
    if not FLAGS.dry_run and not FLAGS.dst:
        sys.exit(_end("usage: --dst=… is needed unless --dry_run is given", 1))
    if FLAGS.quantize and FLAGS.form != "orbax":
        sys.exit(_end(f"usage: --quantize={FLAGS.quantize} needs --form=orbax", 1))


def main(_: object) -> int:
    """Check or convert; returns the exit code."""
    logging.set_verbosity(logging.WARNING)  # jax tells of devices that are not there
    try:
        _convert(pathlib.Path(FLAGS.src))
    except (OSError, ValueError) as error:
        return _end(f"refused: {error}", 2)
    except KeyboardInterrupt:
        return _end("stopped by Ctrl-C; the same command begins again", 130)
    return 0


def _convert(src: pathlib.Path) -> None:
    from llava_jax.checkpoint import conversion

    tower = pathlib.Path(FLAGS.vision_tower) if FLAGS.vision_tower else None
    if FLAGS.dry_run:
        sources = conversion.Published.find(src, tower).sources
        size = sum(tensor.nbytes for tensor in sources.values())
        print(f"{src}: {len(sources)} tensors fill the model exactly, {size / 1e9:.3f} GB")
    else:
        how = (FLAGS.dtype, FLAGS.form, FLAGS.quantize, tower)
        record = conversion.convert(src, pathlib.Path(FLAGS.dst), *how)
        integers = f", the decoder's matrices in {FLAGS.quantize}" if FLAGS.quantize else ""
        print(f"{FLAGS.dst}: {record['parameters']} parameters in {record['dtype']}{integers}")


def _end(line: str, code: int) -> int:
    """Say in one line how it ended, and return the code."""
    letters = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print("".join(letters), file=sys.stderr)
    return code


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
