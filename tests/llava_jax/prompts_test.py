"""Prompts against the reference texts and, where a Llama tokenizer is given, ids."""

import hashlib
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


def write_sentencepiece(folder, content):
    """Make a folder that has a SentencePiece model alone."""
    (folder / "tokenizer.model").write_bytes(content)
    about = {"tokenizer_class": "LlamaTokenizer", "legacy": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def test_a_folder_without_tokenizer_json_is_converted(tmp_path, sentencepiece_model):
    write_sentencepiece(tmp_path, sentencepiece_model)
    tokenizer = prompts.Tokenizer.from_folder(tmp_path)
    first, rest = tokenizer.first("USER: "), tokenizer.rest("\nYes")
    assert tokenizer.piece(first[0]) == "<s>"
    assert "".join(map(tokenizer.piece, first[1:])) == "▁USER:▁"
    assert [tokenizer.piece(i) for i in rest[:2]] == ["▁", "<0x0A>"]
    (yes,) = tokenizer.answer_ids(("Yes",))
    assert tokenizer.piece(yes) == "▁Yes"
    assert tokenizer.end_id == 2
    assert tokenizer.text([yes, tokenizer.end_id]) == "Yes"
    content = (tmp_path / "tokenizer.model").read_bytes()
    assert tokenizer.digest == hashlib.sha256(content).hexdigest()


def test_what_cannot_be_converted_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"tokenizer\.model is a Git LFS pointer"):
        prompts.Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"tokenizer\.model cannot be converted: "):
        prompts.Tokenizer.from_folder(tmp_path)
