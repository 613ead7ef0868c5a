"""Command lines that cannot be run end in one clear line, at once, and leave nothing behind."""

import dataclasses
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest

import llava_jax
from experiments import pope
from experiments.harness import command as harness
from experiments.harness import errors
from experiments.harness.stopwatch import Stopwatch

SERVER = pathlib.Path(__file__).with_name("forking.py")
POCKET = pathlib.Path(llava_jax.__file__).parent / "pocket"
LONG = "x" * 100_000


@dataclasses.dataclass(frozen=True)
class Case:
    """A bad command line, how it ends and what its line says.

    ``said`` holds the offending value and what would be right.
    """

    program: str
    flags: str | tuple[str, ...]
    code: int
    said: tuple[str, ...]

    @property
    def module(self):
        inside = self.program != "checkpoint"
        return f"experiments.{self.program}" if inside else "llava_jax.checkpoint"

    @property
    def words(self):
        return self.flags.split() if isinstance(self.flags, str) else list(self.flags)

    def __str__(self):
        text = " ".join(self.words)
        return ascii(f"{self.program} {text[:60]}").strip("'")


USAGE = [
    # Flags that do not exist, and words that are no flags.
    Case("pope", "--prunr=scope", 1, ("prunr", "Did you mean: pruner")),
    Case("gqa", "--limits=3", 1, ("limits", "Did you mean: limit")),
    Case("mme", "--colour=red", 1, ("Unknown command line flag 'colour'",)),
    Case("calibrate", "--form=csv:x.csv", 1, ("form", "Did you mean: from")),
    Case("checkpoint", "--source=x", 1, ("Unknown command line flag 'source'",)),
    Case("pope", "extra", 1, ("'extra'", "--name=value")),
    Case("curves", "runs/pope", 1, ("'runs/pope'", "--name=value")),
    Case("checkpoint", "--src=x --dst=y z", 1, ("'z'",)),
    Case("pope", "--limit", 1, ("Missing value for flag --limit",)),
    Case("pope", "--nofork=1", 1, ("--nofork=1 does not take an argument",)),
    # Numbers.
    Case("pope", "--limit=0", 1, ("--limit=0", "positive integer")),
    Case("scienceqa", "--limit=-3", 1, ("--limit=-3", "positive integer")),
    Case("mmbench", "--limit=two", 1, ("--limit=two", "no integer")),
    Case("textvqa", "--limit=1.5", 1, ("--limit=1.5", "no integer")),
    Case("seed", "--budget=0 --pruner=scope", 1, ("--budget=0", "1..")),
    Case("pope", "--budget=577 --pruner=scope", 1, ("--budget=577", "1..576")),
    Case("pope", "--budget=1e2 --pruner=scope", 1, ("1e2", "no integer")),
    Case("gqa", "--max_new_tokens=99999999", 1, ("--max_new_tokens=99999999", "4096")),
    Case("pope", "--budget=1_0 --pruner=scope", 1, ("'1_0'", "plain digits")),
    Case("pope", "--alpha=0_5 --pruner=scope", 1, ("'0_5'", "plain digits")),
    Case("pope", "--seed=\u0663 --pruner=random", 1, ("\u0663", "plain digits")),
    Case("measure_pocket", "--worlds=", 1, ("--worlds=", "empty")),
    Case("measure_pocket", "--model=", 1, ("--model=", "empty")),
    Case("pope", "--flagfile=../nul.txt", 1, ("--out", "NUL")),
    Case("pope", "--budget=12,,3", 1, ("'12,,3'", "an empty value")),
    Case("pope", "--budget=", 1, ("--budget=", "an empty value")),
    Case("pope", "--seed=-1", 1, ("--seed=-1", "0..4294967295")),
    Case("pope", "--seed=4294967296", 1, ("4294967296", "0..4294967295")),
    Case("gqa", "--pruner=scope --alpha=nan", 1, ("--alpha=nan", "not a finite number")),
    Case("pope", "--pruner=scope --alpha=-inf", 1, ("--alpha=-inf", "not a finite number")),
    Case("mme", "--pruner=scope --alpha=1e400", 1, ("--alpha=1e400", "not a finite number")),
    Case("pope", "--pruner=scope --alpha=0,half", 1, ("--alpha=0,half", "'half' is no number")),
    Case("pope", "--cache_gib=nan", 1, ("--cache_gib=nan", "finite")),
    Case("pope", "--cache_gib=inf", 1, ("--cache_gib=inf", "finite")),
    Case("pope", "--cache_gib=-1", 1, ("--cache_gib=-1", "non-negative")),
    Case("measure_pocket", "--scenes=0", 1, ("--scenes=0", "positive integer")),
    Case("train_pocket", "--out=x --pictures=31", 1, ("--pictures=31", "32")),
    Case("train_pocket", "--out=x --seed=-1", 1, ("--seed=-1", "[0, 4294967295]")),
    Case("scenes", "--out=x.jpg --rows=0", 1, ("--rows=0", "positive integer")),
    # Words out of a list.
    Case("pope", "--pruner=scoop", 1, ("--pruner=scoop", "scope")),
    Case("textvqa", "--textvqa_ocr=maybe", 1, ("maybe", "on|off")),
    Case("seed", "--order=random", 1, ("random", "raster|selection")),
    Case("pope", "--dtype=int8", 1, ("int8", "float32|float16|bfloat16")),
    Case("pope", "--offline=perhaps", 1, ("--offline=perhaps", "neither true nor false")),
    Case("pope", "--pruner=scope --combine=divide", 1, ("divide", "multiply")),
    Case("calibrate", "--from=excel:x.xls", 1, ("--from=excel:x.xls", "csv:PATH")),
    Case("calibrate", "--from=csv:", 1, ("--from=csv:", "csv:PATH")),
    Case("export", "--run=x --to=word:x", 1, ("--to=word:x", "inspect:PATH")),
    Case("export", "--run=x --to=lmms:y --date=today", 1, ("--date=today", "2026-01-31")),
    Case("measure_pocket", "--worlds=mars", 1, ("--worlds=mars", "validation, test")),
    Case("checkpoint", "--src=x --dst=y --dtype=int4", 1, ("int4", "float32|float16|bfloat16")),
    # Flags that are missing, empty or contradict each other.
    Case("calibrate", "", 1, ("--from", "needed")),
    Case("export", "--run=x", 1, ("--to", "needed")),
    Case("train_pocket", "", 1, ("--out", "needed")),
    Case("checkpoint", "--src=x", 1, ("--dst", "needed")),
    Case("scenes", "--out=x.word", 1, ("--out=x.word", ".jpg")),
    Case("pope", "--model=", 1, ("--model=", "is empty")),
    Case("mmbench", "--data=", 1, ("--data=", "is empty")),
    Case("pope", "--out=", 1, ("--out=", "is empty")),
    Case("pope", "--predictions=", 1, ("--predictions=", "is empty")),
    Case("train_pocket", "--out=", 1, ("--out=", "is empty")),
    Case("pope", "--pruner=random --alpha=0", 1, ("--alpha", "scope")),
    Case("pope", "--options=abcd", 1, ("--options=abcd", "no lettered options")),
    Case("scienceqa", "--options=abcd", 1, ("--options=abcd", "--mode=paper")),
    Case("pope", "--max_new_tokens=3", 1, ("--max_new_tokens", "--route=generate")),
    Case("textvqa", "--route=first_token", 1, ("--route=first_token", "generate")),
    Case("pope", "--process_id=2 --num_processes=2", 1, ("--process_id=2", "0..1")),
    Case("pope", "--num_processes=0", 1, ("--num_processes=0", "positive integer")),
    Case("pope", "--offline --out=gs://bucket/x", 1, ("gs://bucket/x", "--offline")),
    Case("pope", "--pruner=fastv --fastv_layer=32", 1, ("fastv_layer", "31", "32")),
    Case(
        "pope", "--pruner=saliency --saliency_layers=99", 1, ("saliency_layers", "0 … 22", "'99'")
    ),
    # Flag files.
    Case("pope", "--flagfile=nowhere.txt", 1, ("nowhere.txt", "No such file")),
    Case("curves", "--flagfile=/", 1, ("'/'", "Is a directory")),
    Case("pope", "--flagfile=../itself.txt", 1, ("itself.txt", "circular")),
    Case("export", "--flagfile=../binary.txt", 1, ("flag file", "no text")),
    # Values that are too long, or would write to a terminal.
    Case("pope", f"--pruner={LONG}", 1, ("--pruner=xxx", "known: ")),
    Case("gqa", f"--{LONG}", 1, ("--xxx", "name is too long")),
    Case("checkpoint", f"--{LONG}", 1, ("--xxx", "name is too long")),
    Case("pope", ("--pruner=a\nb",), 1, (r"a\nb", "known: ")),
    Case("mme", ("--order=\x1b[2J",), 1, (r"\x1b[2J", "raster|selection")),
]
REFUSED = [
    Case("pope", "--model=/nowhere/at/all", 2, ("--model=/nowhere/at/all", "no folder")),
    Case("pope", "--model=nobody/nothing --offline", 2, ("nobody/nothing", "no folder here")),
    Case("pope", "--model=..", 2, ("--model=..", "config.json")),
    Case("pope", "--data=nowhere", 2, ("--data=nowhere", "no folder")),
    Case("mme", "--data=.", 2, (". has no questions of MME",)),
    Case("gqa", f"--model={LONG}", 2, ("name too long",)),
    Case("pope", "--predictions=nowhere.jsonl", 2, ("nowhere.jsonl", "No such file")),
    Case("calibrate", "--from=csv:nowhere.csv", 2, ("nowhere.csv", "No such file")),
    Case("curves", "--run=nowhere", 2, ("nowhere",)),
    Case("export", "--run=nowhere --to=lmms:y", 2, ("--run=nowhere", "No such file")),
    Case("measure_pocket", "--model=nowhere", 2, ("--model=nowhere", "config.json")),
    Case("checkpoint", "--src=nowhere --dst=y", 2, ("nowhere", "config.json")),
    Case("checkpoint", "--src=x --dst=y --form=safetensors --quantize=int8", 1, ("--form=orbax",)),
    Case("pope", "--mesh=rows:2", 1, ("--mesh=rows:2", "data:2,model:4")),
    Case("pope", "--quantize=int2", 1, ("--quantize=int2", "int8|int4")),
    Case("pope", "--kv_eviction=window --kv_budget=9", 1, ("--route=generate",)),
    Case("pope", "--tiles=each", 1, ("--tiles=each", "LLaVA-1.5")),
]
PLACES = [
    Case("checkpoint", f"--src={POCKET} --dst=/proc/x", 2, ("'/proc/x'",)),
    Case("measure_pocket", "--out=/proc/runs", 2, ("--out=/proc/runs", "/proc")),
    Case("train_pocket", "--out=../file", 2, ("--out=../file", "no folder")),
    Case("train_pocket", "--out=. --export=/proc/x", 2, ("--export=/proc/x", "/proc")),
    Case("pope", "--out=/proc/runs", 2, ("--out=/proc/runs", "/proc")),
    Case("pope", "--out=../file", 2, ("--out=../file", "no folder")),
    Case("scienceqa", "--out=../file/below/it", 2, ("--out=../file/below/it", "no folder")),
]
EVERY = {"F1": [*USAGE, *REFUSED], "D2": PLACES}


@pytest.fixture(scope="module")
def server():
    """A process that runs command lines without importing everything for each."""
    with subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def folder(tmp_path):
    """An empty working folder, beside files that a command line may name."""
    (tmp_path / "file").write_text("a file")
    (tmp_path / "itself.txt").write_text("--flagfile=../itself.txt\n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "nul.txt").write_text("--out=a\0b\n")
    working = tmp_path / "working"
    working.mkdir()
    return working


def answered(server, module, flags, folder):
    """Return a command line's exit code, stdout and stderr."""
    request = {"module": module, "flags": flags, "folder": str(folder)}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    code = json.loads(server.stdout.readline())
    out, err = (folder.with_suffix(f".{name}").read_text() for name in ("out", "err"))
    return code, out, err


def check(case, folder, code, out, err):
    """Assert that a command line ended as it should."""
    assert code == case.code, err
    (line,) = err.splitlines()
    assert line.startswith("usage: " if case.code == 1 else "refused: ")
    assert [word for word in case.said if word not in line] == [], line
    assert len(line) < 2000
    assert line.isprintable()
    assert not out
    assert not list(folder.iterdir())


@pytest.mark.few
@pytest.mark.parametrize("case", [*EVERY["F1"], *EVERY["D2"]], ids=str)
def test_a_bad_command_line_is_one_clear_line(server, folder, case):
    check(case, folder, *answered(server, case.module, case.words, folder))


@pytest.mark.full
@pytest.mark.parametrize("fault", EVERY)
def test_bad_command_lines_end_at_once(folder, fault, passed):
    """Each as a process of its own, as a user starts it; the faster of two tries."""
    slowest = 0.0
    for case in EVERY[fault]:
        took = []
        for _ in range(2):
            begun = time.monotonic()
            words = [sys.executable, "-m", case.module, *case.words]
            ended = subprocess.run(words, capture_output=True, text=True, cwd=folder)
            took.append(time.monotonic() - begun)
            check(case, folder, ended.returncode, ended.stdout, ended.stderr)
        slowest = max(slowest, min(took))
        assert slowest < 3, case
    count = len(EVERY[fault])
    passed(fault, f"{count} of {count} in one line, the slowest in {slowest:.1f} s")


@pytest.mark.parametrize("module", ["experiments.pope", "llava_jax.checkpoint"])
@pytest.mark.parametrize("flag", ["--help", "--helpshort", "--helpfull"])
def test_help_is_on_stdout(server, folder, module, flag):
    code, out, err = answered(server, module, [flag], folder)
    assert code == 1
    assert "--[no]dry_run: " in out
    assert not err


@pytest.mark.parametrize("refusal", [errno.EROFS, errno.EACCES, None])
def test_a_run_folder_is_refused_before_a_model_is_found(config, monkeypatch, tmp_path, refusal):
    def find(*_, **__):
        raise AssertionError("looked for a model")

    def refuse(**_):
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(harness, "find", find)
    out = tmp_path / "link"
    if refusal:
        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    else:
        out.symlink_to(tmp_path / "nowhere")
    config = dataclasses.replace(config, out=str(out))
    with pytest.raises(errors.InputError, match=f"--out={out}"):
        harness.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))


def test_folders_above_a_run_folder_are_made(config, tmp_path):
    out = tmp_path / "a" / "b" / "c"
    work = harness.prepare(
        pope.BENCHMARK, dataclasses.replace(config, out=str(out)), Stopwatch(exact=False)
    )
    assert sorted(out.glob("*/")) == sorted(folder.path for folder in work.folders)


def handles_sigterm(process):
    """Return whether a process does something of its own when SIGTERM comes."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def interrupted(process):
    """Send Ctrl-C, wait for the end, and return the last line."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == errors.CTRL_C, err
    assert "Traceback" not in err
    return err.splitlines()[-1]


RUN = ("--pruner=saliency", "--budget=4", "--cache_gib=0")


@pytest.mark.times(2, 20)
def test_ctrl_c_while_a_run_begins(tmp_path, launch, tiny, times, passed):
    for number in range(times):
        process = launch(tmp_path, f"--model={tiny}", "--limit=300", *RUN)
        while process.poll() is None and not handles_sigterm(process):
            time.sleep(0.002)
        time.sleep(3 * number / times)
        assert "the same command resumes: python -m experiments.pope" in interrupted(process)
    passed("K3 while beginning", f"{times} of {times} exit 130, one line")


@pytest.mark.times(1, 20)
def test_ctrl_c_during_the_report(tmp_path, launch, tiny, times, passed):
    stopped = 0
    for number in range(times):
        out = tmp_path / str(number)
        process = launch(tmp_path, f"--model={tiny}", "--limit=2", *RUN, f"--out={out}")
        while process.poll() is None and len(list(out.glob("*/SEALED"))) < 2:
            time.sleep(0.002)
        time.sleep(0.5 * number / times)
        if process.poll() is None:
            assert "the same command resumes: python -m experiments.pope" in interrupted(process)
            stopped += 1
        else:
            assert "results.json" in process.communicate()[0]
    assert stopped
    passed("K3 during the report", f"{stopped} of {stopped} exit 130, {times - stopped} were over")
