"""JSON that somebody else wrote: half a character is no text, and the line is named."""

import pytest

from experiments.harness.errors import InputError
from experiments.logs import json_files
from experiments.reading import files

HALF, WHOLE = r'{"text": "\ud83d"}', r'{"text": "\uD83D\ude00"}'


def test_half_a_character_is_refused_by_line(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text(f"{WHOLE}\n{HALF}\n")
    with pytest.raises(
        InputError, match=r"questions\.jsonl line 2 is not JSON: .*half a character"
    ):
        list(files.json_lines(file))
    with pytest.raises(InputError, match="damaged, not JSON"):
        list(json_files.lines(file))


def test_both_halves_are_a_character(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text(WHOLE)
    for read in (files.json_lines, json_files.lines):
        ((_, row),) = read(file)
        assert row == {"text": "\N{GRINNING FACE}"}
