"""Files that are replaced whole."""

import json

import pytest

from llava_jax import atomic


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "run.json"
    atomic.write(file, {"a": 1})
    atomic.write(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 2}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("ending", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_old_file_stays_when_writing_ends_early(tmp_path, ending):
    file = tmp_path / "run.json"
    atomic.write(file, "old")

    def end_early():
        with atomic.writing(file) as handle:
            handle.write(b"new")
            raise ending

    with pytest.raises(ending):
        end_early()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_json_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        atomic.write(tmp_path / "a.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_file_has_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic.write(tmp_path / "ours", "é")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "ours").read_bytes() == b"\xc3\xa9"
