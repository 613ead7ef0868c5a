"""Whatever surrounds a run, its bytes are the same; it asks no server and tells no secret."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping

import pytest

from experiments import catalogue, curves, exports
from experiments.exports import finished
from experiments.harness import records
from experiments.harness.errors import InputError
from experiments.reporting import runs

FLAGS = ("--limit=2", "--pruner=saliency", "--budget=4", "--cache_gib=0")
LETTERS = "a b é 模型 \x1b[31m\u202e"
HOSTILE = "\x1b[2J\u202e</script><img onerror=x>=HYPERLINK(1)\r\n\x07"
SECRETS = {"HF_TOKEN": "hf_secret1f6a", "USER": "user1f6a", "LOGNAME": "login1f6a"}
HOME = "home1f6a"

# Whoever looks for a server or connects to one is noted; and the clock may be wrong.
NO_NETWORK = """\
import os
import socket
import time

now, wrong = time.time, float(os.environ.get("CLOCK", 0))
time.time = lambda: now() + wrong


def refuse(*args, **how):
    with open(os.environ["ATTEMPTS"], "a", encoding="utf-8") as file:
        file.write(f"{args!r} {how!r}\\n")
    raise OSError("no network here")


socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = refuse
"""


@dataclasses.dataclass(frozen=True)
class Around:
    """What surrounds a process: variables set and unset, Python's options, and where it is.

    What is closed is said in the shell's words.
    """

    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unset: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    closed: str = ""
    terminal: bool = False
    elsewhere: bool = False
    letters: bool = False


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that has ended, what it said, and the connections it tried."""

    code: int
    said: str
    attempts: str


class Place:
    """A home with a model and data, reached by short names, or by names of many letters."""

    def __init__(self, folder, model, data):
        self.home, self.work = folder / HOME, folder / HOME / "work"
        self.far = self.work / LETTERS
        self.far.mkdir(parents=True)
        shutil.copytree(model, self.work / "model")
        shutil.copytree(data, self.work / "data")
        for name in ("model", "data"):
            (self.far / name).symlink_to(self.work / name)
        (folder / "network").mkdir()
        (folder / "network" / "sitecustomize.py").write_text(NO_NETWORK, "utf-8")
        (folder / "a file").touch()
        self._folder, self._runs = folder, 0

    def pope(self, *flags, around=Around()):
        """Run the benchmark; return how it ended, and the run folder."""
        self._runs += 1
        below = f"{LETTERS}/" if around.letters else ""
        below = f"{self.work}/{below}" if around.elsewhere else below
        out = f"{below}run{self._runs}"
        paths = (f"--model={below}model", f"--data={below}data", f"--out={out}")
        command = [sys.executable, *around.options, "-m", "experiments.pope", *paths, *flags]
        return self.ended(command, around), self.work / out

    def ended(self, command, around=Around()):
        """Run a command to its end."""
        noted = self._folder / f"attempts{self._runs}"
        path = [str(self._folder / "network"), os.environ.get("PYTHONPATH", "")]
        env = os.environ | SECRETS | {"HOME": str(self.home), "ATTEMPTS": str(noted)}
        env |= {"PYTHONPATH": os.pathsep.join(filter(None, path)), "JAX_NUM_CPU_DEVICES": "1"}
        env |= {name: value.format(self._folder) for name, value in around.env.items()}
        for name in around.unset:
            del env[name]
        where = self._folder if around.elsewhere else self.work
        if around.closed:
            command = ["sh", "-c", f'exec "$@" {around.closed}', "sh", *command]
        run = _on_a_terminal if around.terminal else _piped
        code, said = run(command, env=env, cwd=where)
        attempts = noted.read_text("utf-8") if noted.exists() else ""
        return Ended(code, said.decode("utf-8"), attempts)


def _piped(command, **how):
    """Run a command without a terminal; return its exit code and what it said."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        check=False,
        timeout=300,
        **how,
    )
    return done.returncode, done.stdout


def _on_a_terminal(command, **how):
    """Run a command that reads from and writes to a terminal."""
    ours, terminal = os.openpty()
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, **how
    )
    os.close(terminal)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # nobody holds the other end any more
        os.close(ours)
    return process.wait(), said


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny, fixtures_dir):
    """A model, and data in which some questions are hostile."""
    place = Place(tmp_path_factory.mktemp("place"), tiny, fixtures_dir / "raw" / "pope")
    for file in (place.work / "data" / "coco").iterdir():
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for row in rows:
            row["question_id"] = f"{row['question_id']}{HOSTILE}"
        rows[0]["text"] = f"={HOSTILE} {rows[0]['text']}"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return place


@pytest.fixture(scope="module")
def ordinary(place):
    """How a run ends that nothing special surrounds, and its folder."""
    ended, out = place.pope(*FLAGS)
    assert ended.code == 0, ended.said
    return ended, out


def content(out):
    """Return path → bytes of a run folder, but where it and the data are."""
    found = {}
    for file in sorted(out.rglob("*")):
        if file.is_file() and file.name != "flags.txt":
            found[str(file.relative_to(out))] = file.read_bytes()
    for name in found:
        if pathlib.PurePath(name).name in ("run.json", "results.json"):
            found[name] = json.dumps(_without_source(json.loads(found[name]))).encode()
    return found


def _without_source(value):
    if isinstance(value, list):
        return [_without_source(x) for x in value]
    if isinstance(value, dict):
        return {k: _without_source(x) for k, x in value.items() if k != "source"}
    return value


def obeyed(text):
    """Return the characters of a text that a terminal obeys; the progress bar returns."""
    return {c for c in text if not c.isprintable()} - {"\n", "\r"}


ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CACHES = ("HOME", "XDG_CACHE_HOME") if "XDG_CACHE_HOME" in os.environ else ("HOME",)
TOGETHER = {
    "everything about letters": Around(
        ASCII | {"PYTHONIOENCODING": "ascii", "PYTHONHASHSEED": "1"},
        unset=CACHES,
        closed="<&-",
        letters=True,
    ),
    "everything about places": Around(
        {"HOME": "{}/a file/home", "PYTHONHASHSEED": "4", "CLOCK": "86400"}, elsewhere=True
    ),
}
ALONE = {
    "a clock a day ahead": Around({"CLOCK": "86400"}),
    "a clock a day behind": Around({"CLOCK": "-86400"}),
    "C locale": Around(ASCII),
    "ASCII streams": Around({"PYTHONIOENCODING": "ascii"}),
    "no HOME": Around(unset=CACHES),
    "HOME below a file": Around(
        {"HOME": "{}/a file/home"},
        unset=tuple(n for n in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR") if n in os.environ),
    ),
    "stdin closed": Around(closed="<&-"),
    "all streams closed": Around(closed="<&- >&- 2>&-"),
    "a terminal": Around(terminal=True),
    "-O": Around(options=("-O",)),
    "another folder": Around(elsewhere=True),
    "spaces and letters": Around(letters=True),
    **{f"hash seed {n}": Around({"PYTHONHASHSEED": str(n)}) for n in range(5)},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.few) for name in TOGETHER]
    + [pytest.param(name, marks=pytest.mark.full) for name in ALONE],
)
def test_what_surrounds_a_run_changes_no_byte(place, ordinary, name, passed):
    """Records, Parquet, seals, questions and results of two runs at different times."""
    around = (TOGETHER | ALONE)[name]
    ended, out = place.pope(*FLAGS, around=around)
    assert ended.code == 0, ended.said
    assert "Traceback" not in ended.said
    assert ended.attempts == ""
    found, want = content(out), content(ordinary[1])
    assert found == want
    if not around.terminal:  # there the bar may use its cursor
        assert not obeyed(ended.said)
    passed(f"F2 {name}", f"{len(found)} of {len(want)} files the same bytes")


def test_a_run_tells_no_secret(place, ordinary, passed):
    """All is below a home whose name is known: no absolute path may be told either."""
    ended, out = ordinary
    files = [file for file in out.rglob("*") if file.is_file()]
    texts = [ended.said.encode(), *(file.read_bytes() for file in files)]
    words = [word.encode() for word in (*SECRETS.values(), HOME)]
    told = [word for word in words for text in texts if word in text]
    assert not told
    assert any(b"--model=model" in text for text in texts), "what the user gave is there"
    passed("S6", f"{len(told)} of {len(words)} words in {len(files)} files and what it said")


@pytest.mark.full
def test_failures_tell_no_secret(place, passed):
    broken = shutil.copytree(place.work / "data", place.work / "broken")
    for file in (broken / "val2014").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    ended, out = place.pope("--data=broken", *FLAGS, "--allow_failed")
    assert ended.code == 3, ended.said
    assert not obeyed(ended.said)
    failures = [line for f in out.rglob("failures-*") for line in f.read_bytes().splitlines()]
    texts = [ended.said.encode(), *failures]
    assert failures
    told = [w for w in (*SECRETS.values(), HOME) for text in texts if w.encode() in text]
    assert not told
    passed("S6 failures", f"{len(told)} words in {len(failures)} failed rows and what it said")


DATA = {
    "scenes": ("--data=scenes",),
    "raw": (),
    "hub tables": ("--data=POPE",),
}


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        pytest.param("hub tables", ("--dry_run",), marks=pytest.mark.few),
        *(
            pytest.param(name, flags, marks=pytest.mark.full)
            for name in DATA
            for flags in ((), ("--offline",))
        ),
    ],
)
def test_no_connection_is_tried(place, fixtures_dir, name, flags, passed):
    """Whole runs in the full suite; raw files are whole runs everywhere else here."""
    if not (place.work / "POPE").exists():
        shutil.copytree(fixtures_dir / "hf" / "POPE", place.work / "POPE")
    ended, _ = place.pope(*DATA[name], "--limit=2", "--cache_gib=0", *flags)
    assert ended.code == 0, ended.said
    assert ended.attempts == ""
    passed(f"F3 {' '.join([name, *flags])}", f"{ended.attempts.count(chr(10))} attempts, exit 0")


def test_a_connection_would_be_seen(place):
    tries = "import urllib.request as r; r.urlopen('http://localhost:9')"
    ended = place.ended([sys.executable, "-c", tries])
    assert ended.code == 1
    assert ended.attempts.count("\n") == 1


def test_files_of_a_run_hold_no_control_characters(ordinary, tmp_path, passed):
    """Whatever its questions are called and say; Parquet and archives are no text."""
    ended, out = ordinary
    assert not obeyed(ended.said)
    texts = {file: file.read_bytes() for file in out.rglob("*.json*")}
    log = tmp_path / "log.eval"
    exports.writer(f"inspect:{log}")(finished.read(out / "none"))
    exports.writer(f"lmms:{tmp_path}")(finished.read(out / "none"))
    texts |= {file: file.read_bytes() for file in tmp_path.rglob("*.json*")}
    with zipfile.ZipFile(log) as archive:
        texts |= {name: archive.read(name) for name in archive.namelist()}
    assert any(rb"\u001b[2J\u202e" in text for text in texts.values()), "it is hostile"
    bad = [file for file, text in texts.items() if obeyed(text.decode("ascii"))]
    assert not bad
    passed("S4 files", f"{len(texts) - len(bad)} of {len(texts)} texts of a run and of exports")


FORMULAS = ("=HYPERLINK(1)", "+1", "-1+1", "@SUM(1)", "\t=1", "\x1b[2J", "\u202e", "a\nb", "")


@pytest.mark.full
def test_a_strangers_words_are_no_formula(ordinary, tmp_path, capsys, passed):
    pytest.importorskip("matplotlib")
    run = tmp_path / "run"
    shutil.copytree(ordinary[1], run)
    for flags in run.rglob("flags.txt"):
        flags.write_bytes(b"--model=\xff=x\x1b[2J\n--data=" + "\u202e=y\n".encode())
    changes = [("pruner", word) for word in FORMULAS]
    changes += [(name, word) for name in ("budget", "seed") for word in FORMULAS]
    changes += [("order", word) for word in ("\x1b[2J", "\u202e", "a\nb")]
    file, refused = run / "saliency_k4" / records.RUN, 0
    before = file.read_text("utf-8")
    for name, word in changes:
        stranger = json.loads(before)
        stranger["setting"][name] = word
        file.write_text(json.dumps(stranger), "utf-8")
        with pytest.raises(InputError, match="does not describe a setting"):
            runs.load(run, catalogue.get)
        refused += 1
    file.write_text(before, "utf-8")
    curves.report(run, tmp_path / "=curves\x1b[2J")
    said = capsys.readouterr()
    assert not obeyed(said.out + said.err)
    (table,) = tmp_path.glob("*.csv")
    with table.open(newline="", encoding="utf-8") as handle:
        cells = [cell for row in csv.reader(handle) for cell in row]
    for cell in cells:
        assert cell[:1] not in set("=+-@\t\r") or float(cell) <= 0, cell
    passed("S4 curves", f"{refused} of {len(changes)} settings refused, {len(cells)} cells inert")


def test_a_strangers_log_is_shown_inert(tmp_path, command, passed):
    """Names of splits, and of the file; a warning names the file too."""
    file = tmp_path / f"={LETTERS}.csv"
    rows = [["confidence", "correct", "id", "group", "split"]]
    for number in range(20):
        confidence, right = ("1", "0") if number < 2 else ("0.6", f"{number % 2}")
        rows.append([confidence, right, f"{number}{HOSTILE}", HOSTILE, f"{number % 3}{HOSTILE}"])
    with file.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)
    code, out, err = command(tmp_path, f"--from=csv:{file}", program="calibrate")
    assert code == 0, err
    assert r"\x1b[2J\u202e" in out
    assert "infinite loss" in err
    assert not obeyed(out + err)
    passed("S4 logs", f"{len(out.splitlines()) + len(err.splitlines())} lines, none obeyed")
