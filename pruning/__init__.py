"""Visual token pruning: which of an image's tokens does a language model get to see?

Every method is a pure function of one image, `jit`- and `vmap`-able, that returns
int32[K], the kept tokens in order of selection (`visionzip`, which merges tokens, returns
these). A registered dataclass binds its hyper-parameters and gives it a name; `select` runs
any of them over a batch of images.
"""

from .agilepruner import AgilePruner, agilepruner
from .base import Merged, Pruner, Stage, Tokens, get, hyperparameters, names, register
from .batches import select, select_inside
from .cdpruner import cdpruner, cdpruner_relevance
from .decoder import (
    Cut,
    DecoderPruner,
    DecoderTokens,
    Masked,
    Survivors,
    scaled_layers,
    tokens_per_layer,
)
from .divprune import DivPrune, divprune
from .floc import FLoC, floc
from .none import KeepAll
from .otprune import OTPrune, otprune
from .prunesid import prunesid
from .random import Random, image_key, random_subset
from .saliency import Saliency, saliency_top_k
from .scope import Scope, scope
from .visionzip import visionzip
from .vispruner import VisPruner, vispruner

__all__ = [
    "AgilePruner",
    "Cut",
    "DecoderPruner",
    "DecoderTokens",
    "DivPrune",
    "FLoC",
    "KeepAll",
    "Masked",
    "Merged",
    "OTPrune",
    "Pruner",
    "Random",
    "Saliency",
    "Scope",
    "Stage",
    "Survivors",
    "Tokens",
    "VisPruner",
    "agilepruner",
    "cdpruner",
    "cdpruner_relevance",
    "divprune",
    "floc",
    "get",
    "hyperparameters",
    "image_key",
    "names",
    "otprune",
    "prunesid",
    "random_subset",
    "register",
    "saliency_top_k",
    "scaled_layers",
    "scope",
    "select",
    "select_inside",
    "tokens_per_layer",
    "visionzip",
    "vispruner",
]
