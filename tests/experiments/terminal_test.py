"""Text that people read: in any encoding, and obeyed by no terminal."""

import os
import subprocess
import sys

import pytest

from experiments.harness import terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
        ("é → 日本 ×", "é → 日本 ×"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(text, shown):
    assert terminal.inert(text) == shown


def test_streams_escape_what_their_encoding_lacks():
    script = (
        "from experiments.harness import terminal\n"
        "terminal.say_anything()\n"
        "print('é → 日本')\n"
        "from absl import logging\n"
        "logging.use_absl_handler()\n"  # as app.run does
        "logging.warning('a\\x1b[31m')\n"
    )
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env, check=True)
    assert run.stdout == b"\\xe9 \\u2192 \\u65e5\\u672c\n"
    assert b"a\\x1b[31m" in run.stderr
    assert b"\x1b" not in run.stderr
