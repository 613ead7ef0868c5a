"""Questions about scenes in words and in tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import tokenizers

from experiments import scenes
from experiments.training import tokenizer
from llava_jax import prompts

_SAID = {"yes": "Yes", "no": "No"}


_built = functools.cache(tokenizer.build)


@functools.cache
def prompt() -> np.ndarray:
    """Return the ids of the text before the picture, int32[S]."""
    return np.array(_built().encode(prompts.vicuna_v1("")[0]).ids, np.int32)


def user_text(question: scenes.Question) -> str:
    """Word a question as LLaVA-1.5 is asked."""
    if not question.options:
        return question.text + prompts.SHORT_ANSWER
    return prompts.with_options(question.text, question.options) + prompts.OPTION_LETTER


def answer_ids(spellings: Sequence[str]) -> list[int]:
    """Return the ids of an answer's spellings."""
    return [tokenizer.vocabulary()[f"▁{spelling}"] for spelling in spellings]


def answer_id(question: scenes.Question) -> int:
    """Return the id of the right answer."""
    return answer_ids([_SAID.get(question.answer, question.answer)])[0]


def encode(user_text: str) -> tokenizers.Encoding:
    """Tokenise the text after the picture."""
    return _built().encode(prompts.vicuna_v1(user_text)[1], add_special_tokens=False)
