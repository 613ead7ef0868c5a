"""What a benchmark, its flags and a tokenizer cannot do together, before weights are loaded."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Sequence

from experiments.harness import objects
from experiments.harness.benchmark import Benchmark, Dataset
from experiments.harness.config import RunConfig
from experiments.harness.errors import NO_SPACE, InputError, UsageError
from experiments.harness.grid import Setting
from experiments.harness.plan import Plan
from experiments.harness.source import Source
from experiments.harness.tiling import Division
from llava_jax.config import LlavaNextConfig
from llava_jax.eviction import Eviction


def refuse_place(config: RunConfig) -> None:
    """Refuse a run folder or a share of its pictures that cannot be.

    Raises:
        UsageError: flags that do not go together.
        InputError: nothing can be written there.
    """
    if config.process_id >= config.num_processes:
        raise UsageError(
            f"--process_id={config.process_id}: with --num_processes={config.num_processes} it is "
            f"one of 0..{config.num_processes - 1}"
        )
    if config.offline and objects.is_url(config.out):
        raise UsageError(f"--out={config.out} needs a connection, which --offline forbids")
    if not config.dry_run and not objects.is_url(config.out):
        refuse_unwritable("out", config.out)


def refuse_unwritable(flag: str, folder: str) -> None:
    """Refuse a folder that cannot be made or written into; make none.

    Args:
        flag: that names it.
        folder: to be made later.

    Raises:
        UsageError: it has no name.
        InputError: it is a file, below one, or nothing can be written there.
    """
    if not folder:
        raise UsageError(f"--{flag}= is empty; it names a folder")
    path = pathlib.Path(folder).absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise InputError(f"--{flag}={folder} cannot be made: {there} is no folder")
    try:
        pathlib.Path(tempfile.mkdtemp(dir=there)).rmdir()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise InputError(f"--{flag}={folder}: nothing can be written in {there}: {error}") from None


def new_tokens(benchmark: Benchmark, config: RunConfig) -> int | None:
    """Return how many tokens an answer may have; None if the first token is read and none said.

    Raises:
        UsageError: flags about answers that do not go together.
    """
    name, route = benchmark.name, config.route or benchmark.default_route
    if config.options != "valid" and not benchmark.lettered:
        raise UsageError(f"--options={config.options}: {name} has no lettered options")
    if config.options != "valid" and config.mode != "paper":
        raise UsageError(
            f"--options={config.options}: a right answer may be none of them, which only "
            "--mode=paper admits"
        )
    if route == "first_token" and benchmark.open:
        raise UsageError(f"--route=first_token: the answers of {name} are open; use generate")
    if route == "first_token" and config.max_new_tokens:
        raise UsageError("--max_new_tokens is of --route=generate")
    if route == "first_token":
        return None
    return config.max_new_tokens or benchmark.max_new_tokens


def eviction(config: RunConfig, said: int | None) -> Eviction | None:
    """Return which prompt tokens stay in the cache of a generated answer; None for all.

    Args:
        config: the flags.
        said: tokens that an answer may have; None if none is said.

    Raises:
        UsageError: flags about the cache that do not go together.
    """
    flag = f"--kv_eviction={config.kv_eviction}"
    if config.kv_eviction == "none":
        if config.kv_budget is not None:
            raise UsageError("--kv_budget is of --kv_eviction=snapkv or window")
        return None
    if said is None:
        raise UsageError(f"{flag} is of --route=generate: a first token reads the whole prompt")
    if config.kv_budget is None:
        raise UsageError(f"{flag} needs --kv_budget, the prompt tokens that are kept")
    try:
        return Eviction(config.kv_eviction, config.kv_budget, config.kv_window)
    except ValueError as error:
        raise UsageError(f"{flag} --kv_budget={config.kv_budget}: {error}") from None


def refuse_eviction(plan: Plan, source: Source) -> None:
    """Raise UsageError if nothing would be evicted."""
    if plan.eviction is None:
        return
    square = source.cfg.vision.num_tokens
    longest = len(plan.prompt_ids) + max(k.num_tokens if k else square for k in plan.kinds)
    longest += max(map(len, plan.suffixes.values()))
    if plan.eviction.budget >= longest:
        raise UsageError(
            f"--kv_budget={plan.eviction.budget} evicts nothing: the longest prompt has {longest} "
            "tokens"
        )


def refuse_tiles(grid: Sequence[Setting], source: Source) -> None:
    """Raise UsageError if a pruner is not offered for a LLaVA-NeXT, whose pictures are in tiles."""
    if not isinstance(source.cfg, LlavaNextConfig):
        return
    for setting in grid:
        if setting.inside or setting.by_question:
            acts = "acts inside the decoder" if setting.inside else "looks at the question"
            raise UsageError(
                f"--pruner={setting.name} {acts}, which is not offered for a LLaVA-NeXT such as "
                f"{source.folder}"
            )


def refuse_budgets(plan: Plan, grid: Sequence[Setting]) -> None:
    """Raise UsageError if a picture in tiles cannot keep what a setting asks for."""
    for setting in (setting for setting in grid if setting.tiles):
        for image, layout in plan.layouts.items():
            division = Division(layout, str(setting.tiles))
            if not division.parts <= setting.budget <= division.most:
                raise UsageError(
                    f"--budget={setting.budget} is outside {division.parts}..{division.most}, "
                    f"which the {layout.num_tiles} tiles of picture {image:.80} can keep with "
                    f"--tiles={setting.tiles}"
                )


def refuse_masks(grid: Sequence[Setting], source: Source) -> None:
    """Raise UsageError if a pruner hides tokens instead of taking them out."""
    sizes = (source.cfg.vision.num_tokens, source.cfg.text.num_layers)
    for setting in grid:
        if any(cut.how == "mask" for cut in setting.cuts(*sizes)):
            raise UsageError(
                f"--route=generate: {setting.id} hides tokens and leaves them, which is offered "
                "for the first token only; drop gives the same answers as mask"
            )


def check_answers(dataset: Dataset, source: Source) -> None:
    """Refuse a tokenizer that cannot tell the answers apart, before the weights are loaded."""
    for choices in dict.fromkeys(e.choices for e in dataset.examples if e.choices):
        try:
            ids = [source.tokenizer.answer_ids(spellings) for spellings in choices]
        except ValueError as error:
            raise InputError(f"the tokenizer of {source.folder} splits answers: {error}") from None
        flat = [token for part in ids for token in part]
        if len(set(flat)) < len(flat) or max(flat) >= source.cfg.real_vocab_size:
            raise InputError(f"the tokenizer of {source.folder} gives {choices} the ids {ids}")
