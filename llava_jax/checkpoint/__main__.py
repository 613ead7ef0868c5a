"""Convert a Hugging Face LLaVA folder into an Orbax checkpoint.

    python -m llava_jax.checkpoint --src=llava-1.5-7b-hf --dst=llava-1.5-7b [--dry_run]

Exit codes: 0 complete, 1 usage, 2 refused, 130 Ctrl-C.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("src", None, "Hugging Face folder: config.json and safetensors", required=True)
flags.DEFINE_string("dst", None, "folder to make; not needed with --dry_run")
flags.DEFINE_enum("dtype", "float16", ["float32", "float16", "bfloat16"], "of the stored weights")
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


def main(_: object) -> int:
    """Check or convert; returns the exit code."""
    try:
        _convert(pathlib.Path(FLAGS.src))
    except (OSError, ValueError) as error:
        return _end(f"refused: {error}", 2)
    except KeyboardInterrupt:
        return _end("stopped by Ctrl-C; the same command begins again", 130)
    return 0


def _convert(src: pathlib.Path) -> None:
    from llava_jax.checkpoint import huggingface, store

    if FLAGS.dry_run:
        sources = huggingface.plan(src, huggingface.read_config(src))
        size = sum(tensor.nbytes for tensor in sources.values())
        print(f"{src}: {len(sources)} tensors fill the model exactly, {size / 1e9:.3f} GB")
    else:
        record = store.convert(src, pathlib.Path(FLAGS.dst), FLAGS.dtype)
        print(f"{FLAGS.dst}: {record['parameters']} parameters in {record['dtype']}")


def _end(line: str, code: int) -> int:
    """Say in one line how it ended, and return the code."""
    letters = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print("".join(letters), file=sys.stderr)
    return code


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
