"""Convert a Hugging Face LLaVA folder into an Orbax checkpoint.

python -m llava_jax.checkpoint --src=llava-1.5-7b-hf --dst=llava-1.5-7b [--dry_run]
"""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("src", None, "Hugging Face folder: config.json and safetensors", required=True)
flags.DEFINE_string("dst", None, "folder to make; not needed with --dry_run")
flags.DEFINE_enum("dtype", "float16", ["float32", "float16", "bfloat16"], "of the stored weights")
flags.DEFINE_bool("dry_run", False, "check every key and shape from the headers, write nothing")


def main(argv: list[str]) -> int:
    """Check or convert; returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if not FLAGS.dry_run and not FLAGS.dst:
        raise app.UsageError("--dst is needed unless --dry_run is given")
    from llava_jax.checkpoint import huggingface, store

    src = pathlib.Path(FLAGS.src)
    try:
        if FLAGS.dry_run:
            sources = huggingface.plan(src, huggingface.read_config(src))
            size = sum(tensor.nbytes for tensor in sources.values())
            print(f"{src}: {len(sources)} tensors fill the model exactly, {size / 1e9:.3f} GB")
        else:
            record = store.convert(src, pathlib.Path(FLAGS.dst), FLAGS.dtype)
            print(f"{FLAGS.dst}: {record['parameters']} parameters in {record['dtype']}")
    except (OSError, ValueError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    app.run(main)
