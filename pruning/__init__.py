"""Visual token pruning: which of an image's tokens does a language model get to see?

Every method is a pure function of one image, `jit`- and `vmap`-able, that returns
int32[K], the kept tokens in order of selection (`visionzip`, which merges tokens, returns
these). A registered dataclass binds its hyper-parameters and gives it a name; `select` runs
any of them over a batch of images.
"""

from .agilepruner import AgilePruner, agilepruner
from .base import Merged, Pruner, Stage, Tokens, get, hyperparameters, names, register
from .batches import relevance, select, select_inside
from .cdpruner import CDPruner, cdpruner, cdpruner_relevance
from .dart import Dart, dart
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
from .fastv import FastV, fastv
from .floc import FLoC, floc
from .holov import HoloV, holov
from .none import KeepAll
from .otprune import OTPrune, otprune
from .prumerge import PruMerge, PruMergePlus, prumerge, prumerge_plus
from .prunesid import PruneSID, prunesid, randomized_groups
from .pyramiddrop import PyramidDrop, pyramid
from .random import Random, image_key, random_subset
from .saliency import Saliency, saliency_layers, saliency_top_k
from .scope import Scope, scope
from .sparsevlm import SparseVLM, rank_budget, recycled, relation, text_raters
from .tome import ToMe, tome
from .trim import Trim, trim
from .visionzip import VisionZip, visionzip
from .vispruner import VisPruner, vispruner

__all__ = [
    "AgilePruner",
    "CDPruner",
    "Cut",
    "Dart",
    "DecoderPruner",
    "DecoderTokens",
    "DivPrune",
    "FLoC",
    "FastV",
    "HoloV",
    "KeepAll",
    "Masked",
    "Merged",
    "OTPrune",
    "PruMerge",
    "PruMergePlus",
    "PruneSID",
    "Pruner",
    "PyramidDrop",
    "Random",
    "Saliency",
    "Scope",
    "SparseVLM",
    "Stage",
    "Survivors",
    "ToMe",
    "Tokens",
    "Trim",
    "VisPruner",
    "VisionZip",
    "agilepruner",
    "cdpruner",
    "cdpruner_relevance",
    "dart",
    "divprune",
    "fastv",
    "floc",
    "get",
    "holov",
    "hyperparameters",
    "image_key",
    "names",
    "otprune",
    "prumerge",
    "prumerge_plus",
    "prunesid",
    "pyramid",
    "random_subset",
    "randomized_groups",
    "rank_budget",
    "recycled",
    "register",
    "relation",
    "relevance",
    "saliency_layers",
    "saliency_top_k",
    "scaled_layers",
    "scope",
    "select",
    "select_inside",
    "text_raters",
    "tokens_per_layer",
    "tome",
    "trim",
    "visionzip",
    "vispruner",
]
