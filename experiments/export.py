"""Write a finished setting as a log of another evaluation tool.

    python -m experiments.export --run=runs/pope/none --to=inspect:pope.eval
    python -m experiments.export --run=runs/pope/none --to=lmms:logs --model_name=llava-1.5-7b

``--run`` is a setting's folder inside a run folder. Records, questions and run.json are read; no
model is loaded. The same setting gives the same bytes. What each format holds is said in
``experiments/exports``. Exit codes: 0 complete, 1 usage, 2 refused.
"""

from __future__ import annotations

import datetime
import pathlib

from absl import flags

from experiments import exports
from experiments.exports import finished
from experiments.harness import errors, program, terminal


def start() -> None:
    """Define the flags, write the log and exit with the code."""
    formats = ", ".join(f"{name}:PATH" for name in exports.WRITERS)
    run = flags.DEFINE_string("run", None, "a setting's folder, <out>/<setting>", required=True)
    to = flags.DEFINE_string("to", None, f"the log, one of {formats}", required=True)
    model = flags.DEFINE_string(
        "model_name", None, "what the log calls the model (default: by its weights)"
    )
    date = flags.DEFINE_string("date", None, "of the log, ISO 8601 (default: the last record's)")
    allow_failed = flags.DEFINE_bool("allow_failed", False, "export although answers are missing")

    def main() -> None:
        write = exports.writer(str(to.value))
        found = finished.read(
            pathlib.Path(str(run.value)),
            model=model.value,
            when=_date(date.value),
            allow_failed=bool(allow_failed.value),
        )
        written, name = write(found), found.benchmark.name
        print(terminal.inert(f"{written}: {len(found.rows)} answers of {name}, {found.name}"))

    program.run(main)


def _date(text: str | None) -> datetime.datetime | None:
    """Return the time that ``--date`` names, that of Greenwich unless it says another."""
    if text is None:
        return None
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise errors.UsageError(f"--date={text} is no time like 2026-01-31T12:00:00") from None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


if __name__ == "__main__":
    start()
