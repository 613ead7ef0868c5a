"""The command line as a user meets it: exit codes, one clear line, the same again."""

import hashlib
import json

import safetensors.numpy


def last_line(text):
    return text.strip().splitlines()[-1]


def record_digests(out):
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(out.glob("*/records-*.jsonl"))
    }


def test_a_checkpoint_with_a_missing_tensor_is_refused(tmp_path, command, tiny):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    weights = safetensors.numpy.load_file(tiny / "model.safetensors")
    weights.pop("multi_modal_projector.linear_1.bias")
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    code, _, err = command(tmp_path, f"--model={tmp_path}", "--limit=1")
    assert code == 2
    assert "missing tensor multi_modal_projector.linear_1.bias" in last_line(err)
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("SEALED"))


def test_a_truncated_picture_is_refused(tmp_path, command, tiny, fixtures_dir):
    data = fixtures_dir / "broken" / "pope_truncated_image"
    code, _, err = command(tmp_path, f"--model={tiny}", f"--data={data}")
    assert code == 2
    assert "cannot be decoded" in last_line(err)
    assert not list(tmp_path.rglob("SEALED"))
    code, _, err = command(tmp_path, f"--model={tiny}", f"--data={data}", "--allow_failed")
    assert code == 3
    assert "Traceback" not in err
    assert "no row was answered" in err


def test_a_run_its_table_and_the_same_command_again(tmp_path, command, tiny, fixtures_dir):
    flags = [f"--model={tiny}", f"--data={fixtures_dir / 'raw' / 'pope'}", "--budget=4"]
    flags += ["--pruner=scope", "--alpha=0"]
    code, out, err = command(tmp_path, *flags)
    assert code == 0, err
    assert "scope_k4_alpha0_gamma1_multiply" in out
    results = json.loads((tmp_path / "runs" / "pope" / "results.json").read_text())
    assert [entry["pruner"] for entry in results["settings"]] == ["none", "scope"]
    before = record_digests(tmp_path / "runs" / "pope")
    code, again, err = command(tmp_path, *flags)
    assert code == 0, err
    assert "complete, nothing to do" in again
    assert again.split("\n", 1)[1] == out.split("\n", 1)[1]
    assert record_digests(tmp_path / "runs" / "pope") == before
    flagfile = tmp_path / "runs" / "pope" / "scope_k4_alpha0_gamma1_multiply" / "flags.txt"
    code, third, err = command(tmp_path, f"--flagfile={flagfile}")
    assert code == 0, err
    assert third == again
