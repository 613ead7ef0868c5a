"""The miniature's tokenizer: 512 pieces in Llama's manner.

Blanks are written ▁ and every text starts with one; what is no piece falls back to
letters, and what is no letter to bytes, so that any text decodes to itself. Every word
of the prompts, questions and answers is one piece; there is nothing to merge.
"""

from __future__ import annotations

import functools
import string

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from experiments import scenes

SIZE = 512
UNKNOWN, BOS, EOS, IMAGE, PAD = range(5)

_SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant The gives "
    "helpful detailed polite answers to the user's questions USER ASSISTANT Answer "
    "question using single word or phrase with option's letter from given choices directly s"
)
_QUESTIONS = (
    "Is Are Which What How On Where is are there exactly this these of in on at which side "
    "color many objects object kind scene image word sign top bottom Context Reference OCR token"
)
_ANSWERS = "Yes yes No no A B C D E"
_BARE = ("Is", "Answer", "Are", "What", "Which", "How", "On", "Where", "Context")


def _words() -> list[str]:
    """List the pieces that stand for whole words, most needed first."""
    words = f"{_PROMPT} {_QUESTIONS} {_ANSWERS}".replace("'", " ").split()
    words += [*scenes.NAMES, *scenes.COLOURS, *scenes.SCENE_TYPES, *scenes.NUMBERS]
    words += ["left", "right"]
    return [f"▁{word}" for word in words]


@functools.cache
def vocabulary() -> dict[str, int]:
    """Number the pieces: special, bytes, letters, words, and unused ones up to 512."""
    pieces = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [*string.ascii_letters, *string.digits, *string.punctuation, *_BARE, *_words()]
    pieces = list(dict.fromkeys(pieces))
    if len(pieces) > SIZE:
        raise ValueError(f"{len(pieces)} pieces do not fit into {SIZE}")
    pieces += [f"<unused{i}>" for i in range(SIZE - len(pieces))]
    return {piece: i for i, piece in enumerate(pieces)}


def build() -> Tokenizer:
    """Build the tokenizer."""
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary(),
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
            ignore_merges=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    words = Regex(r"▁?[\p{L}\p{N}]+|▁|[^▁\p{L}\p{N}]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", BOS)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(piece, normalized=False, special=True) for piece in _SPECIAL]
    )
    return tokenizer
