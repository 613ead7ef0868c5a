"""Questions in tokens, with what the aids of the training point at.

Axis letters: G pictures, Q questions, T suffix with answer and end, R names mentioned.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments import scenes
from experiments.training.tokenizer import EOS, vocabulary
from experiments.training.wording import answer_id, answer_ids, encode, user_text

MENTIONS = 5  # names in a question at most: one, or one per option
SHORT, LONG = 28, 48  # tokens of a suffix without and with options, answer and end included
NOTHING = -1  # where there is no target, name or option

_TELLING = {*scenes.NAMES, *scenes.COLOURS, *scenes.NUMBERS, *scenes.SCENE_TYPES, *scenes.SIDES}


@dataclasses.dataclass(frozen=True)
class Taught:
    """A question in tokens.

    Attributes:
        ids: text after the picture, answer and end.
        targets: what to predict at each place, NOTHING where anything will do.
        answer_at: the last place of the question, whose target is the answer.
        mentions: (place, category) of every category's name.
        pointer: place of the right option's last token, NOTHING without options.
    """

    ids: tuple[int, ...]
    targets: tuple[int, ...]
    answer_at: int
    mentions: tuple[tuple[int, int], ...]
    pointer: int


@functools.lru_cache(maxsize=1 << 16)
def teach(question: scenes.Question) -> Taught:
    """Tokenise a question and mark answer, early answers and names.

    What the answer rests on can be known before it is due, and is asked for from there on: the
    answer from the last telling word of the question; with options, the right one's text up to
    the options, then its letter from the last option on. Where the options are categories,
    each is to be followed by whether it is there.
    """
    found = encode(user_text(question))
    number = {f"▁{name}": i for i, name in enumerate(scenes.NAMES)}
    mentions = tuple((t, number[piece]) for t, piece in enumerate(found.tokens) if piece in number)
    last, answer = len(found.ids) - 1, answer_id(question)
    targets = np.full(last + 3, NOTHING)
    start, end = _telling(found.tokens)
    pointer = NOTHING
    if not question.options:
        targets[start:last] = answer
    else:
        right = scenes.LETTERS.index(question.answer)
        ends = _option_ends(found.tokens, len(question.options))
        pointer = ends[right]
        if mentions and not question.subject:
            yes, no = answer_ids(("Yes", "No"))
            targets[ends] = no
            targets[pointer] = yes
        else:
            targets[start:end] = vocabulary().get(f"▁{question.options[right]}", NOTHING)
        targets[ends[-1] + 1 : last] = answer
    targets[last : last + 2] = answer, EOS
    ids = (*found.ids, answer, EOS)
    return Taught(ids, tuple(targets.tolist()), last, mentions, pointer)


def _telling(tokens: Sequence[str]) -> tuple[int, int]:
    """Return the place of the last telling word before the question mark, and that after it."""
    end = tokens.index("?")
    told = [t for t, piece in enumerate(tokens[:end]) if piece.removeprefix("▁") in _TELLING]
    return max(told, default=end), end + 1


def _option_ends(tokens: Sequence[str], count: int) -> list[int]:
    """Return the place of each option's last token: the one before the next line begins."""
    lines = [t for t, piece in enumerate(tokens) if piece == "<0x0A>"]
    return [line - 1 for line in lines[2 : 2 + count]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """Questions of one length about a batch of pictures.

    Attributes:
        ids: int32[G, Q, T].
        targets: int32[G, Q, T], NOTHING where anything will do.
        answer_at: int32[G, Q].
        mention_at: int32[G, Q, R], places of names; 0 where there are fewer.
        mention: int32[G, Q, R], their categories, NOTHING where there are fewer.
        present: bool[G, Q, R], whether the picture shows it.
        pointer: int32[G, Q], place of the right option, NOTHING without options.
    """

    ids: jax.Array
    targets: jax.Array
    answer_at: jax.Array
    mention_at: jax.Array
    mention: jax.Array
    present: jax.Array
    pointer: jax.Array


def block(
    asked: Sequence[Sequence[scenes.Question]], present: Sequence[Sequence[int]], length: int
) -> Block:
    """Put questions into arrays.

    Args:
        asked: Q questions for each of G pictures.
        present: the categories that each picture shows.
        length: tokens T.

    Returns:
        The block.
    """
    shape = (len(asked), len(asked[0]))
    ids, targets = np.zeros((*shape, length), np.int32), np.full((*shape, length), NOTHING)
    answer_at, pointer = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    at, mention = np.zeros((*shape, MENTIONS), np.int32), np.full((*shape, MENTIONS), NOTHING)
    for place in np.ndindex(shape):
        taught = teach(asked[place[0]][place[1]])
        ids[place][: len(taught.ids)] = taught.ids
        targets[place][: len(taught.targets)] = taught.targets
        answer_at[place], pointer[place] = taught.answer_at, taught.pointer
        for r, (where, category) in enumerate(taught.mentions):
            at[place][r], mention[place][r] = where, category
    shown = np.stack([np.isin(row, list(held)) for row, held in zip(mention, present, strict=True)])
    arrays = (
        ids,
        targets.astype(np.int32),
        answer_at,
        at,
        mention.astype(np.int32),
        shown,
        pointer,
    )
    return Block(*map(jnp.asarray, arrays))
