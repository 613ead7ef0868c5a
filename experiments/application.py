"""Joins the two programs for a benchmark's command line: answer, then report.

Both are imported when the command line has been understood: jax takes half a second, help and a
mistyped flag should not.
"""

from __future__ import annotations

import functools
import logging as python_logging
import os
import pathlib
import shlex
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import absl.flags
from absl import logging

from experiments.harness import errors, flags, program, terminal
from experiments.harness.benchmark import Benchmark, Dataset
from experiments.harness.config import RunConfig

if TYPE_CHECKING:
    from experiments.harness import command

absl.flags.disclaim_key_flags()  # as in harness.flags


def start(benchmark: Benchmark) -> None:
    """Define the flags, run the benchmark and exit with its code."""
    command_line = shlex.join(["python", "-m", f"experiments.{benchmark.name}", *sys.argv[1:]])
    resume = f"nothing answered is lost, the same command resumes: {command_line}"
    define = functools.partial(flags.define, benchmark)
    program.run(functools.partial(_main, benchmark, resume), define=define, resume=resume)


def _main(benchmark: Benchmark, resume: str) -> int:
    """Run and report; return the exit code."""
    python_logging.getLogger("jax").setLevel(python_logging.WARNING)  # whatever --verbosity says
    config = flags.run_config(benchmark)
    if config.predictions:
        return _score(benchmark, config, pathlib.Path(config.predictions))
    from experiments.harness import command
    from experiments.harness.stopwatch import Stopwatch

    keep_programs(pathlib.Path(config.cache) / "programs")
    watch = Stopwatch(exact=logging.level_debug())
    work = command.prepare(benchmark, config, watch)
    if work is None:
        return errors.COMPLETE
    outcome = answer(benchmark, work, resume)
    with watch.stage("report"):
        code = report(benchmark, config, outcome)
    work.send()
    if watch.exact:
        print(watch.table(), file=sys.stderr)
    return code


def answer(benchmark: Benchmark, work: command.Work, resume: str) -> command.Outcome:
    """Answer what is not answered yet; the report's program is compiled beside.

    Args:
        benchmark: what is asked.
        work: the run.
        resume: what a line about an interruption ends with.
    """
    from experiments.harness import command

    inputs, generated = work.inputs, work.inputs.plan.max_new_tokens is not None
    compiling = _compile_statistics(benchmark, inputs.config, inputs.dataset, generated=generated)
    return command.answer(work, compiling.start, resume)


def keep_programs(folder: pathlib.Path) -> None:
    """Keep compiled programs between runs, unless JAX's own variable says where."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logging.warning("compiled programs are not kept: %s", error)
    else:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _score(benchmark: Benchmark, config: RunConfig, file: pathlib.Path) -> int:
    """Score stored answers without a model."""
    from experiments.harness import command, stored
    from experiments.reporting import tables

    dataset = command.read(benchmark, config)
    answers = stored.read(file, dataset.examples)
    heading = f"{benchmark.name}: {len(answers)} answers of {file}, data {config.data}"
    print(terminal.inert(heading) + "\n")
    print(tables.render_scores([(file.name, benchmark.score(answers))]))
    return errors.COMPLETE


def _compile_statistics(
    benchmark: Benchmark, config: RunConfig, dataset: Dataset, *, generated: bool
) -> threading.Thread:
    """Return a thread that compiles the report's program beside the model's answers."""
    from experiments.reporting import evaluation

    examples, num_splits = dataset.examples, len(benchmark.splits)
    num_choices = max(len(example.choices) for example in examples)
    shape = (len(examples), num_choices, len(dataset.images), num_splits)
    how = {"generated": generated}
    return threading.Thread(target=evaluation.compile_ahead, args=(*shape, config.mode), kwargs=how)


def incomplete(config: RunConfig, outcome: command.Outcome) -> int | None:
    """Say why a run cannot be reported; return the exit code, None if it can."""
    out, place = config.folder, outcome.place
    if not place.leads:
        print(f"{outcome.answered} answers now; process 0 of {place.count} reports")
        return errors.COMPLETE
    if outcome.missing and place.count > 1:
        processes = ", ".join(map(str, outcome.processes))
        line = f"{outcome.missing} of {outcome.expected} answers are not in {out}"
        why = f"processes {processes} failed, or write to another folder"
        return errors.end(f"{line}: {why}; the same command resumes", errors.INTERRUPTED)
    if outcome.missing:
        processes = ", ".join(map(str, outcome.processes))
        print(
            f"{outcome.answered} answers now; {outcome.missing} of {outcome.expected} are missing, "
            f"of --process_id={processes}; whoever comes last reports"
        )
        return errors.COMPLETE
    if outcome.failed and not config.allow_failed:
        line = f"{outcome.failed} rows failed, see {out}/*/failures-*.jsonl; no metric is computed"
        return errors.end(f"{line} without them unless --allow_failed is given", errors.FAILED_ROWS)
    if outcome.failed == outcome.expected:
        return errors.end(f"no row was answered, see {out}/*/failures-*.jsonl", errors.FAILED_ROWS)
    return None


def report(benchmark: Benchmark, config: RunConfig, outcome: command.Outcome) -> int:
    """Print the tables of the settings asked for; return the exit code."""
    from experiments.reporting import aggregate, tables

    if (code := incomplete(config, outcome)) is not None:
        return code
    out = config.folder
    found = aggregate.results(out, outcome.folders, benchmark, config.mode)
    names = [folder.name for folder in outcome.folders]
    entries = sorted(
        (e for e in found["settings"] if e["setting"] in names),
        key=lambda e: names.index(e["setting"]),
    )
    asked = aggregate.over_seeds(entries)
    print(terminal.inert(_heading(benchmark, config, entries, outcome)) + "\n")
    print(tables.render(entries, benchmark.splits))
    said = [{**entry, **entry["per_token"]} for entry in entries if "per_token" in entry]
    if said:
        print("\nconfidence per token: the geometric mean of the tokens' probabilities\n")
        print(tables.render(said, ()))
    print("\n" + tables.render_scores([(e["setting"], e["scores"]) for e in entries]))
    if asked:
        print("\n" + tables.render_over_seeds(asked))
    print("\n" + terminal.inert(f"{config.out.rstrip('/')}/{aggregate.RESULTS}"))
    return errors.FAILED_ROWS if outcome.failed else errors.COMPLETE


def _heading(
    benchmark: Benchmark,
    config: RunConfig,
    entries: Sequence[dict[str, Any]],
    outcome: command.Outcome,
) -> str:
    """Return what was run, how it was measured, and whether rows are missing."""
    how = {
        "default": "95 % intervals by resampling pictures",
        "paper": "95 % intervals by resampling rows, as in the paper",
    }[config.mode]
    state = f"{outcome.answered} answers now" if outcome.answered else "complete, nothing to do"
    failed = f"; {outcome.failed} ROWS FAILED and are left out" if outcome.failed else ""
    rows, pictures = entries[0]["n"], entries[0]["images"]
    asked = ", ".join(f"{name} {value}" for name, value in entries[0]["asked"].items())
    return (
        f"{benchmark.name}: {rows} rows on {pictures} pictures; model {config.model}, "
        f"data {entries[0]['source']}; {entries[0]['route']}, {asked}; "
        f"mode {config.mode}: {how}; {state}{failed}"
    )
