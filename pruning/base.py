"""What every pruner shares: its view of an image, protocol, registry.

Axes: G images in a batch · N visual tokens · K tokens kept · D width after the
projector · Dv width of the vision tower · Dk width of its keys · n vision layers.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, dataclass_transform

import jax

from .decoder import DecoderTokens


class Stage(enum.Enum):
    """Where a pruner acts, and so how far its work can be shared."""

    VISION = "vision"  # before the decoder, blind to the question: once per image
    QUESTION = "question"  # before the decoder, sees the question: once per question
    DECODER = "decoder"  # between two decoder layers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """Hold what a pruner may look at for one image; fields nobody needs stay None.

    Attributes:
      features: float[N, Dv], patches of vision layer −2 before the projector (scope,
        floc, vispruner).
      embeddings: float[N, D], patches after the projector (divprune, otprune, cdpruner,
        agilepruner).
      hidden: float[1+N, Dv], vision layer −2 with CLS in row 0 (prunesid, visionzip).
      keys: float[1+N, Dk], mean over heads of that layer's keys (visionzip, tome).
      saliency: float[N], sum over heads of that layer's CLS attention row (scope,
        saliency, agilepruner, prunesid, vispruner, visionzip).
      saliency_by_layer: float[n, N], the same for n named layers (multi-layer saliency).
      last_keys: float[1+N, Dv], keys of the tower's last layer, heads side by side (prumerge).
      last_saliency: float[N], CLS attention row of that layer as a single head (prumerge).
      relevance: float[N], from CLIP's text tower and the question (cdpruner, trim).
    """

    features: jax.Array | None = None
    embeddings: jax.Array | None = None
    hidden: jax.Array | None = None
    keys: jax.Array | None = None
    saliency: jax.Array | None = None
    saliency_by_layer: jax.Array | None = None
    last_keys: jax.Array | None = None
    last_saliency: jax.Array | None = None
    relevance: jax.Array | None = None

    @property
    def num_tokens(self) -> int:
        """N, read from the fields that are present, with or without an image axis."""
        counts = {}
        for field, axis, num_special in _TOKEN_AXES:
            value = getattr(self, field)
            if value is not None:
                counts[field] = value.shape[axis] - num_special
        if not counts:
            raise ValueError("every field of Tokens is None: the number of tokens is unknown")
        if len(set(counts.values())) > 1:
            raise ValueError(f"the fields of Tokens disagree on the number of tokens: {counts}")
        return next(iter(counts.values()))


# Field, its token axis counted from the end, rows that are no visual token (CLS).
_TOKEN_AXES = (
    ("features", -2, 0),
    ("embeddings", -2, 0),
    ("hidden", -2, 1),
    ("keys", -2, 1),
    ("saliency", -1, 0),
    ("saliency_by_layer", -1, 0),
    ("last_keys", -2, 1),
    ("last_saliency", -1, 0),
    ("relevance", -1, 0),
)


class Merged(NamedTuple):
    """Tokens that a method made of an image's, or that are not all patches.

    Attributes:
      features: float[K, Dv], to be handed to the projector.
      index: int32[K], distinct: the token whose place each of them takes, −1 for CLS.
    """

    features: jax.Array
    index: jax.Array


class Pruner(Protocol):
    """Choose `budget` visual tokens of one image, before the decoder.

    Attributes:
      name: the registered name, also the value of the command line's `--pruner`.
      stage: where it acts; one in the decoder is a `DecoderPruner` instead.
      needs: the names of the `Tokens` fields that must be present.
      nested: whether `order[:k]` is the answer for every smaller budget k.
      stochastic: whether the choice depends on the key.

    What depends on hyper-parameters is a property instead of a class variable.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    needs: ClassVar[tuple[str, ...]]
    nested: ClassVar[bool]
    stochastic: ClassVar[bool]

    def check(self) -> None:
        """Refuse impossible hyper-parameters with a ValueError.

        It reads their values, so it runs on the host, never under a transformation.
        """

    def vision_layers(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers of `saliency_by_layer`; only asked of pruners that need it.

        Args:
          num_layers: of the vision tower.
        """
        ...

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array | Merged:
        """Return int32[budget], the kept tokens in order of selection, or what they became."""
        ...


P = TypeVar("P")
_PRUNERS: dict[str, type[Any]] = {}


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def register(name: str) -> Callable[[type[P]], type[P]]:
    """Make a class the pruner called `name`: a frozen pytree dataclass that `get` finds.

    Float fields become leaves, so a sweep over them compiles once; None may be the default
    of one that stands for a number which is not given. Every other field is marked
    `dataclasses.field(default=…, metadata={"static": True})` and compiled in.

    Args:
      name: the new name; a name that is taken is a ValueError.

    Returns:
      A decorator for classes that follow `Pruner`; `check` may be left out where every
      hyper-parameter is fine. A missing or impossible class variable or field is a
      TypeError.
    """

    def decorate(cls: type[P]) -> type[P]:
        if name in _PRUNERS:
            raise ValueError(f"the pruner name {name!r} is taken by {_PRUNERS[name].__qualname__}")
        _check_class_variables(cls)
        pruner: Any = dataclasses.dataclass(frozen=True)(cls)
        _check_fields(pruner)
        pruner.name = name
        if not hasattr(pruner, "check"):
            pruner.check = _accept
        _register_pytree(pruner)
        _PRUNERS[name] = pruner
        return pruner

    return decorate


def get(name: str) -> type[Any]:
    """Return the class registered as `name`, by this package or an installed distribution.

    A distribution names the module that registers it as an entry point of the group
    "llava_jax.pruners", which is called as the pruner is. Such modules are imported when a
    name is asked for that is not known without them.

    Returns:
      The class. A ValueError lists the known names or, where the module of that name cannot
      be imported, gives the reason and the distribution.
    """
    if name not in _PRUNERS and (reason := _load_entry_points().get(name)):
        raise ValueError(reason)
    if name not in _PRUNERS:
        raise ValueError(f"there is no pruner {name!r}; known: {', '.join(names())}")
    return _PRUNERS[name]


def names() -> tuple[str, ...]:
    """Return the names of all registered pruners in alphabetical order.

    Those of installed distributions are among them; one that cannot be imported is a warning.
    """
    for reason in _load_entry_points().values():
        warnings.warn(reason, stacklevel=2)
    return tuple(sorted(_PRUNERS))


@functools.cache
def _load_entry_points() -> dict[str, str]:
    """Import the modules of installed distributions; return name → why one is not there."""
    failed = {}
    for point in importlib.metadata.entry_points(group="llava_jax.pruners"):
        try:
            point.load()
            if point.name not in _PRUNERS:
                raise LookupError("the module registers no pruner of that name")
        except Exception as error:  # whatever another package's import raises
            failed[point.name] = (
                f"the pruner {point.name!r} of the distribution "
                f"{point.dist.name if point.dist else '?'} ({point.value}) is not available: "
                f"{type(error).__name__}: {error}"
            )
    return failed


def hyperparameters(pruner: Any) -> dict[str, Any]:
    """Return name → hyper-parameter in the order of the fields.

    Args:
      pruner: a registered class or an instance of one.

    Returns:
      The defaults of a class, the values of an instance.
    """
    fields = dataclasses.fields(pruner)
    if isinstance(pruner, type):
        return {field.name: field.default for field in fields}
    return {field.name: getattr(pruner, field.name) for field in fields}


def _accept(self: Pruner) -> None:
    """Accept every hyper-parameter."""


def _register_pytree(cls: type[Any]) -> None:
    """Make a pruner's class a pytree whose structure names the class.

    `jax.tree_util.register_dataclass` (jax 0.10) is not enough: it takes the structures of
    two classes with equal static fields for equal, and then `jax.jit` may run the program
    that was compiled for the other class.
    """
    fields = dataclasses.fields(cls)
    static = tuple(field.name for field in fields if field.metadata.get("static"))
    leaves = tuple(field.name for field in fields if field.name not in static)

    def flatten(pruner: Any) -> tuple[list[tuple[Any, Any]], Any]:
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(pruner, name)) for name in leaves]
        return keyed, (cls.name, tuple(getattr(pruner, name) for name in static))

    def unflatten(structure: Any, values: Any) -> Any:
        pruner = object.__new__(cls)
        for name, value in zip(static + leaves, (*structure[1], *values), strict=True):
            object.__setattr__(pruner, name, value)
        return pruner

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)


def _check_class_variables(cls: type) -> None:
    kinds = {"stage": Stage, "nested": bool, "stochastic": bool}
    for variable, kind in kinds.items():
        value = getattr(cls, variable, None)
        if not isinstance(value, kind | property):
            raise TypeError(
                f"{cls.__qualname__}.{variable} must be a {kind.__name__}, got {value!r}"
            )
    needs = getattr(cls, "needs", None)
    if isinstance(needs, property):
        return
    if not isinstance(needs, tuple):
        raise TypeError(f"{cls.__qualname__}.needs must be a tuple, got {needs!r}")
    view = DecoderTokens if getattr(cls, "stage", None) is Stage.DECODER else Tokens
    known = [field.name for field in dataclasses.fields(view)]
    for need in needs:
        if need not in known:
            raise TypeError(
                f"{cls.__qualname__}.needs must name fields of {view.__name__} "
                f"({', '.join(known)}), got {need!r}"
            )


def _check_fields(cls: type[Any]) -> None:
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING:
            raise TypeError(f"{cls.__qualname__}.{field.name} must have a default")
        if not field.metadata.get("static") and not isinstance(field.default, float | None):
            raise TypeError(
                f"{cls.__qualname__}.{field.name} must be a float (or None) or be marked "
                f'metadata={{"static": True}}, got {field.default!r}'
            )
