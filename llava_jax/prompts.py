"""Prompts of LLaVA-1.5 (vicuna_v1) and their token ids.

The text before and after the picture is tokenised apart, as LLaVA does: tokenisers disagree on
what stands around a picture marker inside one string, and agree on the two pieces.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from llava_jax import diagnosis, sums

_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_END = "</s>"
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""What LLaVA-1.5 appends to questions with a short answer (docs/Evaluation.md)."""
OPTION_LETTER = "\nAnswer with the option's letter from the given choices directly."
"""What LLaVA-1.5 appends to questions with options A, B, … (docs/Evaluation.md)."""


def vicuna_v1(user_text: str) -> tuple[str, str]:
    """Return the prompt's text (before the picture, after it) for one question.

    Args:
        user_text: the question, with whatever the benchmark appends to it.
    """
    return f"{_SYSTEM} USER: ", f"\n{user_text} ASSISTANT:"


def with_options(question: str, options: Sequence[str]) -> str:
    """Append options A, B, …, each on its own line, as LLaVA-1.5 does."""
    return question + "".join(
        f"\n{chr(ord('A') + i)}. {option}" for i, option in enumerate(options)
    )


def without_instruction(user_text: str) -> str:
    """Return a question without what LLaVA-1.5 appends to say how it is to be answered."""
    for instruction in (SHORT_ANSWER, OPTION_LETTER):
        user_text = user_text.removesuffix(instruction)
    return user_text


class Tokenizer:
    """A Llama-style tokenizer read from a model's folder.

    Attributes:
        digest: sha256 of its file.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, digest: str):
        self._tokenizer = tokenizer
        self.digest = digest

    @classmethod
    def from_folder(cls, folder: pathlib.Path) -> Tokenizer:
        """Read ``tokenizer.json``, or convert ``tokenizer.model`` where there is none.

        Raises:
            FileNotFoundError: the folder has neither.
            ValueError: the file cannot be read, gives no BOS, or is not what the folder says.
        """
        whole = (folder / "tokenizer.json").is_file()
        tokenizer, digest = _read(folder) if whole else _convert(folder)
        found = cls(tokenizer, digest)
        if found.first("")[:1] != [tokenizer.token_to_id("<s>")]:
            raise ValueError(
                f"the tokenizer of {folder} does not put <s> first, as LLaVA's prompts need"
            )
        if tokenizer.token_to_id(_END) is None:
            raise ValueError(f"the tokenizer of {folder} has no {_END}, which ends an answer")
        return found

    @property
    def end_id(self) -> int:
        """The id that ends an answer, ``</s>``."""
        found = self._tokenizer.token_to_id(_END)
        assert found is not None  # from_folder refuses a tokenizer without it
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, special tokens left out."""
        return self._tokenizer.decode(list(ids))

    def first(self, text: str) -> list[int]:
        """Return the ids of the text before the picture, BOS first."""
        return self._tokenizer.encode(text).ids

    def rest(self, text: str) -> list[int]:
        """Return the ids of the text after the picture, without BOS."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def piece(self, token: int) -> str:
        """Return the text of one id."""
        return self._tokenizer.id_to_token(token) or ""

    def answer_ids(self, spellings: Sequence[str]) -> tuple[int, ...]:
        """Return the ids that start an answer, one per distinct spelling.

        Args:
            spellings: such as ("Yes", "yes").

        Returns:
            Ids in the order of the spellings, without repeats.

        Raises:
            ValueError: a spelling is not a single token, so that its first token would count
                for other words too.
        """
        ids = {spelling: self.rest(spelling) for spelling in spellings}
        if long := {spelling: found for spelling, found in ids.items() if len(found) != 1}:
            raise ValueError(f"not single tokens: {long}")
        return tuple(dict.fromkeys(found[0] for found in ids.values()))


class ClipTokenizer:
    """The tokenizer of CLIP's text tower, read from a dual encoder's folder.

    Attributes:
        digest: sha256 of its file.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, digest: str):
        self._tokenizer = tokenizer
        self.digest = digest

    @classmethod
    def from_folder(cls, folder: pathlib.Path) -> ClipTokenizer:
        """Read ``tokenizer.json``.

        Raises:
            FileNotFoundError: the folder has none.
            ValueError: the file cannot be read.
        """
        return cls(*_read(folder))

    @property
    def num_ids(self) -> int:
        """One more than the highest id."""
        return max(self._tokenizer.get_vocab().values()) + 1

    def pieces(self, text: str, length: int) -> np.ndarray:
        """Cut a text into pieces of the tower's length, as CDPruner does with long questions.

        Args:
            text: any.
            length: positions T of the text tower.

        Returns:
            int32[M, T], begin- and end-of-text tokens around the whole text, padded with 0.
        """
        ids = self._tokenizer.encode(text).ids
        padded = np.zeros((-(-len(ids) // length), length), np.int32)
        padded.flat[: len(ids)] = ids
        return padded


def _convert(folder: pathlib.Path) -> tuple[tokenizers.Tokenizer, str]:
    """Return a SentencePiece tokenizer as transformers converts it, and its file's sha256.

    No code of the folder is run.
    """
    file = folder / "tokenizer.model"
    if not file.is_file():
        raise FileNotFoundError(f"no tokenizer.json and no tokenizer.model in {folder}")
    if what := diagnosis.of_file(file):
        raise ValueError(f"{file} {what}")
    from transformers import LlamaTokenizer  # two seconds, where the file is not read directly

    try:
        # AutoTokenizer would take another class, with other ids, where config.json says "llava".
        converted: Any = LlamaTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever stands in the way of a conversion
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        hint = "converting needs the extra `sentencepiece`"
        raise ValueError(f"{file} cannot be converted: {reason} ({hint})") from None
    found = converted.backend_tokenizer
    start = ("<s>", found.token_to_id("<s>"))  # whatever tokenizer_config.json says of it
    found.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", None, [start])
    return found, _digest(file, file.read_bytes())


def _read(folder: pathlib.Path) -> tuple[tokenizers.Tokenizer, str]:
    """Return a folder's tokenizer, neither padding nor truncating, and its file's sha256."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(f"no tokenizer.json in {folder}")
    content = file.read_bytes()
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception for malformed files
        what = diagnosis.of(content[: diagnosis.HEAD]) or f"is not a tokenizer: {error}"
        raise ValueError(f"{file} {what}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, _digest(file, content)


def _digest(file: pathlib.Path, content: bytes) -> str:
    """Return the sha256 of a file of a model's folder, which may say what it should be."""
    found = hashlib.sha256(content).hexdigest()
    sums.verify(file.parent, {file: found})
    return found
