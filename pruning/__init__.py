"""Visual token pruning: which of an image's tokens does a language model get to see?

Every method is a pure function of one image, `jit`- and `vmap`-able, that returns
int32[K], the kept tokens in order of selection, and a registered dataclass that binds
its hyper-parameters. `select` runs any of them over a batch of images.
"""

from .base import Pruner, Stage, Tokens, get, hyperparameters, names, register, select
from .none import KeepAll
from .random import Random, image_key, random_subset
from .saliency import Saliency, saliency_top_k
from .scope import Scope, scope

__all__ = [
    "KeepAll",
    "Pruner",
    "Random",
    "Saliency",
    "Scope",
    "Stage",
    "Tokens",
    "get",
    "hyperparameters",
    "image_key",
    "names",
    "random_subset",
    "register",
    "saliency_top_k",
    "scope",
    "select",
]
