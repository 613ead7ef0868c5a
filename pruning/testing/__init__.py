"""The conformance kit: does a pruner keep what every pruner promises?

    import pruning
    import pruning.testing

    pruning.testing.check(pruning.get("mine")())

Every promise is a function of a pruner that raises an AssertionError. A class that cannot keep
one of these says so by a class variable, or a property where it depends on hyper-parameters:
`nested`, `stochastic`, and, absent where False, `uses_raster` (where a token is in the picture
matters) and `uses_scale` (so does the scale of a saliency).
"""

from __future__ import annotations

from typing import Any

from .. import base
from ._before_decoder import BEFORE_DECODER
from ._in_decoder import IN_DECODER
from ._judging import Promise
from ._made_up import made_up_decoder_tokens, made_up_tokens, relabelled

PROMISES: tuple[Promise, ...] = (*BEFORE_DECODER, *IN_DECODER)
"""All promises, by stage; `promises` returns those that a pruner makes."""

__all__ = [
    "PROMISES",
    "Promise",
    "check",
    "made_up_decoder_tokens",
    "made_up_tokens",
    "promises",
    "relabelled",
]


def check(pruner: Any) -> None:
    """Refuse a pruner that breaks a promise.

    It calls the pruner some hundred times on made-up tokens, which takes seconds.

    Args:
      pruner: an instance of a registered class, of any stage.

    Raises:
      AssertionError: names the pruner, the promise, the case and what was found.
    """
    for promise in promises(pruner):
        promise(pruner)


def promises(pruner: Any) -> tuple[Promise, ...]:
    """Return what a pruner promises, by its stage and class variables.

    Args:
      pruner: an instance of a registered class.

    Returns:
      Functions of a pruner, to be called one by one where `check` would say too little.
    """
    if not isinstance(getattr(pruner, "stage", None), base.Stage) or isinstance(pruner, type):
        raise AssertionError(f"{pruner!r} is no instance of a class under pruning.register")
    of_its_stage = IN_DECODER if pruner.stage is base.Stage.DECODER else BEFORE_DECODER
    return tuple(promise for promise in of_its_stage if promise.applies(pruner))
