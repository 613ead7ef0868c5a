"""What every pruner shares: its view of an image, protocol, registry, batching.

Axes: G images in a batch · N visual tokens · K tokens kept · D width after the
projector · Dv width of the vision tower · Dk width of its keys · n vision layers.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

import jax

from ._ops import check_budget


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
      keys: float[1+N, Dk], mean over heads of that layer's keys (visionzip, prumerge).
      saliency: float[N], sum over heads of that layer's CLS attention row (scope,
        saliency, agilepruner, prunesid, vispruner, visionzip).
      saliency_by_layer: float[n, N], the same for n named layers (multi-layer saliency,
        prumerge).
      relevance: float[N], from CLIP's text tower and the question (cdpruner, trim).
    """

    features: jax.Array | None = None
    embeddings: jax.Array | None = None
    hidden: jax.Array | None = None
    keys: jax.Array | None = None
    saliency: jax.Array | None = None
    saliency_by_layer: jax.Array | None = None
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
    ("relevance", -1, 0),
)


class Pruner(Protocol):
    """Choose `budget` visual tokens of one image.

    Attributes:
      name: the registered name, also the value of the command line's `--pruner`.
      stage: where it acts.
      needs: the names of the `Tokens` fields that must be present.
      nested: whether `order[:k]` is the answer for every smaller budget k.
      stochastic: whether the choice depends on the key.
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

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget], the kept tokens in order of selection."""
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
    """Return the class registered as `name`; else a ValueError lists the known names."""
    if name not in _PRUNERS:
        raise ValueError(f"there is no pruner {name!r}; known: {', '.join(names())}")
    return _PRUNERS[name]


def names() -> tuple[str, ...]:
    """Return the names of all registered pruners in alphabetical order."""
    return tuple(sorted(_PRUNERS))


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


def select(pruner: Pruner, tokens: Tokens, budget: int, keys: jax.Array) -> jax.Array:
    """Choose `budget` tokens of every image of a batch.

    Args:
      pruner: an instance of a registered class; its float fields are traced.
      tokens: the fields `pruner.needs`, each with a leading image axis G.
      budget: K, 1 … N, static.
      keys: key[G], one per image (`image_key`); read by stochastic pruners only.

    Returns:
      int32[G, K], the kept tokens of every image in order of selection. A budget out of
      range, a missing field and an impossible hyper-parameter are ValueErrors.
    """
    pruner.check()
    missing = [field for field in pruner.needs if getattr(tokens, field) is None]
    if missing:
        fields = ", ".join(f"tokens.{field}" for field in missing)
        raise ValueError(f"pruner {pruner.name!r} needs {fields}, got None")
    check_budget(budget, tokens.num_tokens)
    return _select(pruner, tokens, int(budget), keys)


@functools.partial(jax.jit, static_argnames="budget")
def _select(pruner: Pruner, tokens: Tokens, budget: int, keys: jax.Array) -> jax.Array:
    # A CPU gains nothing from a batch: it would leave the cache, and loops of different
    # lengths would wait for the longest.
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda image: pruner(image[0], budget, image[1]), (tokens, keys))
    return jax.vmap(lambda image, key: pruner(image, budget, key))(tokens, keys)


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
    kinds = {"stage": Stage, "needs": tuple, "nested": bool, "stochastic": bool}
    for variable, kind in kinds.items():
        value = getattr(cls, variable, None)
        if not isinstance(value, kind):
            raise TypeError(
                f"{cls.__qualname__}.{variable} must be a {kind.__name__}, got {value!r}"
            )
    known = [field.name for field in dataclasses.fields(Tokens)]
    for need in getattr(cls, "needs", ()):
        if need not in known:
            raise TypeError(
                f"{cls.__qualname__}.needs must name fields of Tokens "
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
