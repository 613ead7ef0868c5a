"""What a file is that could not be read as what it should be."""

import pytest

from llava_jax import diagnosis


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"\xef\xbb\xbf<html lang=en>", "web page"),
        (b"\x80\x04\x95", "pickle"),
        (b"PK\x03\x04" + bytes(40) + b"archive/data.pkl", "pickle"),
        (b"PK\x03\x04" + bytes(40) + b"word/document.xml", "zip"),
        (b"\x1f\x8b\x08", "gzip"),
        (bytes(512), "nothing but zeros"),
    ],
)
def test_files_are_told_by_their_first_bytes(head, said):
    assert said in (diagnosis.of(head) or "")


@pytest.mark.parametrize(
    "head", [b"{}", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"PAR1", b"<a>"]
)
def test_nothing_is_said_of_others(head):
    assert diagnosis.of(head) is None
