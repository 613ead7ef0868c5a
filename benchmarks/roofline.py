"""The whole paper on paper: operations, bytes and minutes on accelerators, from the code's counts.

    python -m benchmarks.roofline    # writes benchmarks/roofline.md

Axis letters: G pictures of a pass, Q questions, K kept, T suffix.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app

from benchmarks import projection, stages, workload
from benchmarks.devices import DEVICES, MFU
from benchmarks.harness import RESULTS
from benchmarks.projection import STUDIES, Row
from benchmarks.stages import Work
from experiments.studies import definition
from llava_jax import atomic, config
from llava_jax.config import LlavaConfig

MODELS = {"LLaVA-1.5-7B": config.llava_1_5_7b(), "LLaVA-1.5-13B": config.llava_1_5_13b()}
SHOWN = (64, 128, 192, 576)
"""Tokens kept in the table of stages."""
_FILE = pathlib.Path(__file__).with_suffix(".md")


def paper_table(rows: Sequence[Row]) -> str:
    """Return the paper's table: PFLOP and minutes, naive / ours."""
    head = ["work", "settings", "answers", "PFLOP", "×", *(f"{d.name}, min" for d in DEVICES)]
    lines = []
    for row in rows:
        naive, ours = row.flops
        minutes = [_pair(*(t / 60 for t in row.seconds[d.name])) for d in DEVICES]
        pflop = _pair(naive / 1e15, ours / 1e15)
        counts = [str(row.settings), f"{row.answers:,}"]
        lines.append([row.name, *counts, pflop, f"{naive / ours:.1f}", *minutes])
    return _table(head, lines)


def stage_table(cfg: LlavaConfig) -> str:
    """Return POPE's stages for one pass: operations, bytes, what they wait for, milliseconds."""
    run, size = definition.read("tables")[0], workload.SIZES["pope"]
    grid = [s for s in workload.settings(run, cfg.vision.num_tokens) if not s.inside]
    head = ["K", "stage", "TFLOP", "GB", "FLOP/byte"]
    head += [f"{d.name}, ms" for d in DEVICES]
    plan = projection.plans(run, size, cfg, grid)[DEVICES[0].name]
    count = len(plan.batches)
    works = [("", "vision", stages.vision(plan, cfg))]
    for setting in sorted((s for s in grid if s.budget in SHOWN), key=lambda s: s.budget):
        found = stages.decoder(plan, setting, cfg, 0)
        works += [(str(setting.budget), name, found[name]) for name in stages.DECODER[:3]]
    return _table(head, [_stage_line(k, name, work * (1 / count)) for k, name, work in works])


def _stage_line(budget: str, name: str, work: Work) -> list[str]:
    times = [f"{1e3 * d.seconds(work):.3g} ({d.bound(work)})" for d in DEVICES]
    numbers = [f"{work.flops / 1e12:.3g}", f"{work.bytes / 1e9:.3g}"]
    return [budget, name, *numbers, f"{work.flops / work.bytes:.0f}", *times]


def _pair(naive: float, ours: float) -> str:
    return f"{_number(naive)} / {_number(ours)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def padding(cfg: LlavaConfig) -> str:
    """Return, per benchmark, pictures a pass and computed over real question tokens."""
    lines = []
    for run in {run.benchmark: run for study in STUDIES for run in definition.read(study)}.values():
        grid = list(workload.settings(run, cfg.vision.num_tokens))
        plan = projection.plans(run, workload.SIZES[run.benchmark], cfg, grid)[DEVICES[0].name]
        shapes = stages.passes(plan).items()
        computed = sum(n * each.images * each.questions * each.suffix for each, n in shapes)
        asked = [plan.suffixes[q[0].user_text] for group in plan.groups for q in group.questions]
        real = sum(map(len, asked))
        name, count = run.benchmark, len(plan.batches)
        lines.append(
            [name, str(plan.images_per_batch), f"{real / count:.0f}", f"{computed / real:.2f}"]
        )
    return _table(["benchmark", "pictures", "question tokens", "computed / asked"], lines)


def measured() -> str:
    """Return what was measured on accelerators, from the files that are there."""
    parts = [_accelerator(_read(file)) for file in sorted(RESULTS.glob("accelerator-*.json"))]
    if not parts:
        parts.append(
            "**No stage was measured on an accelerator**: there is no `results/accelerator-*.json` "
            "(`python -m benchmarks.accelerator` writes one)."
        )
    if (file := RESULTS / "pope-h200.json").is_file():
        parts.append(_whole_passes(_read(file)))
    return "\n\n".join(parts)


def _accelerator(found: Mapping[str, Any]) -> str:
    """Return the table of a file of ``benchmarks.accelerator``."""
    rows = [
        [
            f"{name}, {stage}",
            f"{1e3 * entry['seconds']['median']:.3g}",
            f"{entry['tokens per second']:.0f}",
            f"{entry['FLOP/s'] / 1e12:.3g}",
            f"{entry['utilisation']:.0%}",
        ]
        for name, part in found["benchmarks"].items()
        for stage, entry in part["stages"].items()
    ]
    head = ["stage", "ms", "tokens/s", "TFLOP/s", "of the fastest product"]
    ceiling = found["ceiling"]["FLOP/s"] / 1e12
    minutes = found["minutes, projected"]
    what = f"{found['devices']} × {found['device']}, {found['model']}, {found['dtype']}"
    return (
        f"{what}: the fastest product has {ceiling:.3g} TFLOP/s; at these rates "
        f"{STUDIES['tables']} take {minutes:.3g} min.\n\n{_table(head, rows)}"
    )


def _whole_passes(found: Mapping[str, Any]) -> str:
    """Return what ``benchmarks.pope`` measured on one H200."""
    (h200, *_) = DEVICES
    rows = []
    for result in found["results"]:
        rate, seconds = result["TFLOP/s of ours"], result["seconds"]["ours"]["median"]
        share = f"{1e12 * rate / h200.peak:.0%}"
        rows.append([str(result["budget"]), f"{1e3 * seconds:.0f}", f"{rate:.0f}", share])
    head = ["K", "ms", "TFLOP/s", "of the data sheet's peak"]
    return (
        "`benchmarks.pope` measured whole passes of its own (8 pictures, 10 questions each, vision "
        f"included, 7B, random float16 weights) on one H200:\n\n{_table(head, rows)}"
    )


def _read(file: pathlib.Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8"))


def page() -> str:
    """Return benchmarks/roofline.md."""
    sheets = _table(
        ["device", "TFLOP/s", "TB/s", "GB", "source"],
        [
            [
                f"{d.name}, data:{d.replicas},model:{d.chips}",
                *(f"{d.replicas * d.chips * x:.4g}" for x in (d.peak / 1e12, d.bandwidth / 1e12)),
                f"{d.replicas * d.chips * d.memory / 1e9:.4g}",
                d.source,
            ]
            for d in DEVICES
        ],
    )
    parts = [_HEAD, measured(), "## Devices", sheets, _RULES]
    for name, cfg in MODELS.items():
        parts += [f"## {name}: the paper", _PAPER, paper_table(projection.paper(cfg))]
        parts += [f"## {name}: one pass of POPE", _STAGES, stage_table(cfg)]
    first = next(iter(MODELS.values()))
    return "\n\n".join([*parts, "## Sizes", _SIZES, padding(first)]) + "\n"


_HEAD = """# Roofline: the paper on accelerators

Projections from data sheets and the code's own counts (`experiments.harness.accounts`,
`llava_jax.costs`, `llava_jax.traffic`); `python -m benchmarks.roofline` writes this page."""

_RULES = f"""A stage takes max(operations / ({MFU:.0%} of the peak), bytes / bandwidth), a run the
sum of its stages. Operations shown are those of prompts and answers; the time is that of padding as
well. Bytes: every product reads its matrix once a pass and its rows once and writes its result;
attention weights are written and read twice in float32. Not counted: reading and scaling pictures,
choosing tokens, the exchange between chips, launching programs and compiling them. The TPU's vision
tower is taken to be divided among all chips, though a replica's chips see the same pictures; it has
less than 2 % of the operations of any line."""

_PAPER = """PFLOP and minutes are *question by question* / shared. Question by question: every row
by itself, tower and all, one after the other, at the same share of the peak, which a prompt of one
or two hundred tokens hardly reaches. × is the ratio of operations. The study of γ has more settings
than Tables 5 and 6 print, as they do not say their α (`experiments/studies/gamma.toml`)."""

_STAGES = """The H200's plan, a mean pass of it, in milliseconds on each device, and what they wait
for. The vision tower runs once for all settings; the head's bytes are those of its matrix."""

_SIZES = """Counted in the files that LLaVA-1.5 is evaluated with (`benchmarks/workload.py`): rows,
pictures, distinct questions, 35 tokens before the picture, and mean, 99th percentile and maximum of
those after it. Assumed:

* lengths are log-normal between these, in a random order; pictures have equally many questions;
* SEED's questions have 80 tokens (99th percentile 160, at most 240) and a picture each, videos
  included: its files were not there to be counted; lmms-eval's wording is as long as LLaVA's;
* generated answers have 1 token, GQA's 1.4 and TextVQA's 3.1 (means of LLaVA-1.5-13B's answers),
  the longest of a pass 3 and 8.

A pass on the H200; what is computed is padded to the longest question of the pass, and its pictures
are so many that 2,048 tokens of the longest question of all would fill it:"""


def main(_: Sequence[str]) -> None:
    """Write the page."""
    atomic.write(_FILE, page())


if __name__ == "__main__":
    app.run(main)
