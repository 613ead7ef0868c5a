"""Questions about scenes as token ids, with what the aids of the training point at.

Axis letters: G pictures, Q questions, T suffix with answer and end, K visual tokens, R names
mentioned.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from experiments import scenes
from experiments.scenes.questions.base import a_wrong, lettered, one_word, yes_no
from experiments.training import tokenizer
from llava_jax import prompts

MENTIONS = 5  # names in a question at most: one, or one per option
SHORT, LONG = 28, 48  # tokens of a suffix without and with options, answer and end included
NOTHING = -1  # where there is no target, name or option

_TELLING = {*scenes.NAMES, *scenes.COLOURS, *scenes.NUMBERS, *scenes.SCENE_TYPES, *scenes.SIDES}
_SAID = {"yes": "Yes", "no": "No"}


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


@functools.cache
def _pieces() -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    return tokenizer.build(), tokenizer.vocabulary()


@functools.cache
def prompt() -> np.ndarray:
    """Return the ids of the text before the picture, int32[S]."""
    return np.array(_pieces()[0].encode(prompts.vicuna_v1("")[0]).ids, np.int32)


def user_text(question: scenes.Question) -> str:
    """Word a question as LLaVA-1.5 is asked."""
    if not question.options:
        return question.text + prompts.SHORT_ANSWER
    return prompts.with_options(question.text, question.options) + prompts.OPTION_LETTER


def answer_ids(spellings: Sequence[str]) -> list[int]:
    """Return the ids of an answer's spellings."""
    return [_pieces()[1][f"▁{spelling}"] for spelling in spellings]


def answer_id(question: scenes.Question) -> int:
    """Return the id of the right answer."""
    return answer_ids([_SAID.get(question.answer, question.answer)])[0]


def encode(user_text: str) -> tokenizers.Encoding:
    """Tokenise the text after the picture."""
    return _pieces()[0].encode(prompts.vicuna_v1(user_text)[1], add_special_tokens=False)


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
            targets[ends] = _pieces()[1]["▁No"]
            targets[pointer] = _pieces()[1]["▁Yes"]
        else:
            targets[start:end] = _pieces()[1].get(f"▁{question.options[right]}", NOTHING)
        targets[ends[-1] + 1 : last] = answer
    targets[last : last + 2] = answer, tokenizer.EOS
    ids = (*found.ids, answer, tokenizer.EOS)
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


@dataclasses.dataclass(frozen=True)
class Mix:
    """How many questions of each kind a picture is asked in one step."""

    existence: int = 6
    yes_no: int = 2
    one_word: int = 2
    lettered: int = 4


def ask(
    place: scenes.World, index: int, mix: Mix, rng: np.random.Generator
) -> tuple[list[scenes.Question], list[scenes.Question]]:
    """Draw questions about a scene.

    Half of those about existence are about what is there. Absent categories are drawn
    evenly: how often things occur and what accompanies them is for the model to find out,
    and to be misled by.

    Args:
        place: the world.
        index: the scene.
        mix: how many of each kind.
        rng: source of chance.

    Returns:
        (questions without options, questions with options).
    """
    found = scenes.facts(place, index)
    short = []
    for i in range(mix.existence):
        fact = scenes.draw(found, ("object",), rng)
        short.append(yes_no("", "", fact, a_wrong(fact, rng) if i % 2 else fact.answer))
    for i in range(mix.yes_no):
        fact = scenes.draw(found, _QUALITIES, rng)
        short.append(yes_no("", "", fact, a_wrong(fact, rng) if i % 2 else fact.answer))
    short += [one_word("", "", scenes.draw(found, _IN_ONE_WORD, rng)) for _ in range(mix.one_word)]
    long = [
        lettered("", "", scenes.draw(found, scenes.ASPECTS, rng), int(rng.integers(2, 6)), rng)
        for _ in range(mix.lettered)
    ]
    return short, long


_QUALITIES = ("color", "count", "side", "place", "scene")
_IN_ONE_WORD = ("color", "count", "side", "scene")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Pictures with questions of both lengths.

    Attributes:
        features: float[G, K, Dv].
        tokens: int32[G, K], the place of each among the N.
        categories: int32[G, K], what each token shows, −1 for background.
        colours: int32[G, K], its colour, −1 for background.
        blocks: questions without and with options; a kind that is not asked is left out.
    """

    features: jax.Array
    tokens: jax.Array
    categories: jax.Array
    colours: jax.Array
    blocks: tuple[Block, ...]


def keep(categories: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose tokens of one picture, objects first, the rest at random; raster order.

    Args:
        categories: int[N], −1 for background.
        count: tokens K.
        rng: source of chance.

    Returns:
        int[K].
    """
    priority = rng.random(categories.size) + (categories >= 0)
    return np.sort(np.argsort(-priority)[:count])
