"""Prompts against the reference texts and, where a Llama tokenizer is given, ids."""

import json
import pathlib

import pytest

from llava_jax import prompts, testing


def rows(fixtures_dir):
    return json.loads((fixtures_dir / "golden" / "prompts.json").read_text())


@pytest.mark.golden
def test_texts_equal_llava(fixtures_dir):
    checked = 0
    for row in rows(fixtures_dir):
        for style in ("llava", "lmms"):
            if row[f"{style}_user"] is None:
                continue
            before, after = prompts.vicuna_v1(row[f"{style}_user"])
            assert before == row[f"{style}_before_image"]
            assert after == row[f"{style}_after_image"]
            checked += 1
    assert checked


@pytest.mark.golden
def test_ids_equal_llava(fixtures_dir, request):
    """Runs on the ids where --tokenizer names a Llama tokenizer.json, on the texts otherwise."""
    folder = request.config.getoption("--tokenizer")
    tokenizer = prompts.Tokenizer.from_folder(pathlib.Path(folder)) if folder else None
    for row in rows(fixtures_dir):
        if row["llava_user"] is None:
            continue
        before, after = prompts.vicuna_v1(row["llava_user"])
        assert f"{before}<image>{after}" == row["llava_prompt"]
        if tokenizer:
            ids = [*tokenizer.first(before), -200, *tokenizer.rest(after)]
            assert ids == row["llava_input_ids"]


def test_tokenizer_reads_pieces_apart(tmp_path):
    testing.tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = prompts.Tokenizer.from_folder(tmp_path)
    first, rest = tokenizer.first("USER: "), tokenizer.rest("\nIs there a cat ?")
    assert [tokenizer.piece(i) for i in first] == ["<s>", "▁USER:", "▁"]
    assert [tokenizer.piece(i) for i in rest[:2]] == ["▁", "<0x0A>"]
    yes = tokenizer.answer_ids(("Yes", "yes", "Yes"))
    assert [tokenizer.piece(i) for i in yes] == ["▁Yes", "▁yes"]
    padded = testing.tiny_tokenizer()
    padded.enable_padding(length=64)
    padded.save(str(tmp_path / "tokenizer.json"))
    assert prompts.Tokenizer.from_folder(tmp_path).rest("\nIs there a cat ?") == rest
    with pytest.raises(ValueError, match="maybe"):
        tokenizer.answer_ids(("maybe",))


def test_a_broken_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        prompts.Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        prompts.Tokenizer.from_folder(tmp_path)
