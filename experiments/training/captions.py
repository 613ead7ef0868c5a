"""Captions of scenes, and a tokenizer for them in CLIP's manner."""

from __future__ import annotations

import functools
import itertools
import json

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from experiments import scenes
from experiments.scenes.facts import with_article

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 32  # tokens of a caption, both ends included
_MOST_NAMED = 4  # objects in a caption

_FORMS = (
    "a photo of {things}",
    "{things}",
    "a {kind} scene with {things}",
    "{things} in a {kind} scene",
    "there is {things} in the image",
    "is there {things} in the image?",
)
_QUESTIONS = (
    "What color is the? How many objects are in the image? On which side of the image is the? "
    "Where in the image is the? What kind of scene is this? Which of these is in the image? "
    "Are there exactly? Is the at the of the image? left right top bottom"
)


def photo_of(name: str) -> str:
    """Caption a picture of one thing, as for CLIP's zero-shot classification."""
    return f"a photo of {with_article(name)}"


def caption(place: scenes.World, index: int, rng: np.random.Generator) -> str:
    """Describe a scene: one to four of its objects, some with their colour, perhaps its type."""
    plan = scenes.layout(place, index)
    colour = {f.subject: f.answer for f in scenes.facts(place, index) if f.aspect == "color"}
    count = min(len(plan.present), int(rng.integers(1, _MOST_NAMED + 1)))
    names = [scenes.NAMES[i] for i in rng.permutation(plan.present)[:count]]
    things = [
        with_article(f"{colour[name]} {name}" if name in colour and rng.random() < 0.5 else name)
        for name in names
    ]
    listed = " and ".join(filter(None, (", ".join(things[:-1]), things[-1])))
    form = _FORMS[rng.integers(len(_FORMS))]
    return form.format(things=listed, kind=scenes.SCENE_TYPES[plan.kind])


@functools.cache
def tokenizer() -> Tokenizer:
    """Build the tokenizer: CLIP's normalisation and byte-level pieces, every known word one."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = [*letters, *(f"{letter}</w>" for letter in letters)]
    words = [*scenes.NAMES, *scenes.COLOURS, *scenes.NUMBERS, *scenes.SCENE_TYPES, "an and"]
    trained = _around(models.BPE(end_of_word_suffix="</w>"))
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # more than there is to merge
        min_frequency=1,
        special_tokens=alphabet,  # named here, pieces have the same numbers every time
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator([*words, *_FORMS, _QUESTIONS], trainer)
    vocabulary = trained.get_vocab() | {START: trained.get_vocab_size()}
    vocabulary[END] = len(vocabulary)  # the largest, as in CLIP's
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    built = _around(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    built.add_special_tokens([AddedToken(token, special=True) for token in (START, END)])
    built.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (START, vocabulary[START]), False, False
    )
    return built


def _around(model: models.BPE) -> Tokenizer:
    """Give a model CLIP's normalisation and splitting."""
    built = Tokenizer(model)
    built.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pieces = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    built.decoder = decoders.Sequence([decoders.BPEDecoder("</w>"), decoders.ByteLevel()])
    return built


def token_ids(texts: list[str], length: int = LENGTH) -> np.ndarray:
    """Tokenise texts to int32[E, length], padded on the right with the end.

    Raises:
        ValueError: a text is longer.
    """
    encoded = [encoding.ids for encoding in tokenizer().encode_batch(texts)]
    if longest := [t for t, ids in zip(texts, encoded, strict=True) if len(ids) > length]:
        raise ValueError(f"{longest[0]!r} has more than {length} tokens")
    end = tokenizer().token_to_id(END)
    padded = itertools.zip_longest(*encoded, [None] * length, fillvalue=end)
    return np.array([row[:-1] for row in padded], np.int32).T
