"""The grid of a run: every pruner with every hyper-parameter, budget and seed asked for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pruning
from experiments.harness.config import FULL, RunConfig
from experiments.harness.errors import UsageError
from experiments.harness.tiling import EACH, Division
from llava_jax.anyres import Layout


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of the grid: a pruner with its hyper-parameters, a budget and a seed.

    Attributes:
        pruner: instance of a registered class.
        budget: tokens to keep, K.
        seed: of stochastic pruners; None for the others, which do not depend on it.
        order: how kept tokens are handed over, ``raster`` or ``selection``.
        positions: ``contiguous`` or ``original``.
        tiles: of a LLaVA-NeXT's picture, whether ``each`` has a share of the budget or ``all`` have
            it together; None of a LLaVA-1.5, and where all tokens are kept.
    """

    pruner: Any
    budget: int
    seed: int | None
    order: str = "raster"
    positions: str = "contiguous"
    tiles: str | None = None

    @property
    def name(self) -> str:
        """The pruner's name."""
        return self.pruner.name

    @property
    def id(self) -> str:
        """Name of the setting's folder."""
        if self.name == FULL:
            return FULL
        values = {"k": self.budget} | pruning.hyperparameters(self.pruner)
        values |= {} if self.seed is None else {"seed": self.seed}
        given = {name: value for name, value in values.items() if value is not None}
        words = [
            self.name,
            *(_plain(name.removeprefix(f"{self.name}_"), value) for name, value in given.items()),
        ]
        words += [self.order, self.positions, *([self.tiles] if self.tiles else [])]
        return "_".join(word for word in words if word not in _USUAL)

    @property
    def inside(self) -> bool:
        """Whether tokens are taken out between decoder layers."""
        return self.pruner.stage is pruning.Stage.DECODER

    @property
    def by_question(self) -> bool:
        """Whether every question has visual tokens of its own from the decoder's input on."""
        return self.pruner.stage is pruning.Stage.QUESTION

    @property
    def reads_clip(self) -> bool:
        """Whether the picture is compared with the question in a dual encoder."""
        return "relevance" in self.pruner.needs

    def handed(self, layout: Layout | None) -> int:
        """Return how many tokens the decoder is given of a picture.

        Args:
            layout: of its tiles, None of a LLaVA-1.5. Where each tile has a share, what does not
                divide is not spent; where all tokens are kept, newlines are counted too.
        """
        if layout is None:
            return self.budget
        if self.tiles is None:
            return layout.num_tokens
        division = Division(layout, self.tiles)
        return division.parts * division.budget(self.budget)

    def cuts(self, num_tokens: int, num_layers: int) -> tuple[pruning.Cut, ...]:
        """Return where tokens are taken out of the decoder.

        Args:
            num_tokens: N of the model.
            num_layers: of its decoder.
        """
        return self.pruner.cuts(self.budget, num_tokens, num_layers) if self.inside else ()

    def tokens_per_layer(self, num_tokens: int, num_layers: int) -> tuple[int, ...]:
        """Return how many visual tokens each decoder layer runs on, at most."""
        if not self.inside:
            return (self.budget,) * num_layers
        cuts = self.cuts(num_tokens, num_layers)
        return pruning.tokens_per_layer(cuts, num_tokens, num_layers)

    def describe(self) -> dict[str, Any]:
        """Return the setting as results.json shows it."""
        fields = pruning.hyperparameters(self.pruner)
        values = {name: _json(v) for name, v in fields.items() if v is not None}
        own = {"pruner": self.name, "budget": self.budget, "seed": self.seed}
        own |= {"order": self.order, "positions": self.positions}
        return own | ({"tiles": self.tiles} if self.tiles else {}) | values


_USUAL = ("raster", "contiguous", EACH, "float32", "exact")
"""Words that a folder's name leaves out."""


def _plain(name: str, value: Any) -> str:
    """Spell a value for a folder name; a word speaks for itself."""
    if isinstance(value, str):
        return value
    return f"{name}{value:.10g}" if isinstance(value, float) else f"{name}{value}"


def _json(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)


def check(config: RunConfig) -> None:
    """Refuse hyper-parameters, before any file is read.

    Raises:
        UsageError: a pruner that cannot be loaded, a hyper-parameter that no listed pruner has, or
            a value it cannot take.
    """
    try:
        classes = [pruning.get(name) for name in config.pruners]
        _refuse_unused(config)
        for cls in classes:
            for values in _grid(cls, config.hyperparameters):
                cls(**values).check()
    except ValueError as error:
        raise UsageError(str(error)) from None


def settings(num_tokens: int, *configs: RunConfig) -> tuple[Setting, ...]:
    """Return the distinct settings of one or several grids, full tokens first.

    Args:
        num_tokens: N of the model.
        configs: whose grids they are.

    Raises:
        UsageError: a budget out of range.
    """
    found = [Setting(pruning.get(FULL)(), num_tokens, None)]
    for config in configs:
        found += _pruned(config, num_tokens)
    return tuple({setting.id: setting for setting in found}.values())


def _pruned(config: RunConfig, num_tokens: int) -> list[Setting]:
    """Return the settings of a grid, full tokens left out."""
    wrong = [k for k in config.budgets if not 1 <= k <= num_tokens]
    if wrong and set(config.pruners) != {FULL}:
        raise UsageError(f"--budget={wrong[0]} is outside 1..{num_tokens}, the model's tokens")
    found: list[Setting] = []
    for name in config.pruners:
        if name == FULL:
            continue
        cls = pruning.get(name)
        for values in _grid(cls, config.hyperparameters):
            pruner = cls(**values)
            seeds: Sequence[int | None] = config.seeds if pruner.stochastic else (None,)
            how: dict[str, Any] = {"order": config.order, "positions": config.positions}
            how |= {"tiles": config.tiles}
            if cls.stage is pruning.Stage.DECODER:  # it gets all tokens as they are
                how = {}
            found += [Setting(pruner, k, s, **how) for k in config.budgets for s in seeds]
    return found


def _grid(cls: Any, given: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return every combination of the given values that the pruner has fields for."""
    names = [name for name in pruning.hyperparameters(cls) if name in given]
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(given[name] for name in names))
    ]


def _refuse_unused(config: RunConfig) -> None:
    """Raise UsageError if a hyper-parameter was given that no listed pruner has."""
    owners = {name: pruning.hyperparameters(pruning.get(name)) for name in config.pruners}
    for flag in config.hyperparameters:
        if not any(flag in fields for fields in owners.values()):
            have = [n for n in pruning.names() if flag in pruning.hyperparameters(pruning.get(n))]
            raise UsageError(
                f"--{flag} is not a hyper-parameter of {', '.join(config.pruners)}; "
                f"{', '.join(have)} has it"
            )
