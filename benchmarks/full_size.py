"""The real size on a small machine: a random LLaVA-1.5-7B from the hub's layout to answers.

    python -m benchmarks.full_size --folder=/scratch/llava

Makes a checkpoint of random bfloat16 weights as the hub has it, in three safetensors shards with
an index, one tensor at a time; checks and converts it with ``python -m llava_jax.checkpoint``; asks
a picture's POPE questions with ``python -m experiments.pope`` while the process's own memory is
read from outside; then lets our engine and transformers take turns on the same mapped tensors.
Needs 30 GB of disk, deleted at the end, 24 GB of memory that may be page cache, and the extra
``reference``. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's idle threads leave XLA the cores

import ml_dtypes
import numpy as np
import torch
import transformers
from absl import app, flags

import llava_jax
from benchmarks import harness, models, peers, pope
from llava_jax import checkpoint, config
from llava_jax.checkpoint import aligned, huggingface, rules, tensors

_FOLDER = flags.DEFINE_string("folder", None, "to make and delete", required=True)
_SIZE = flags.DEFINE_enum("shape", "7B", ["7B", "tiny"], "tiny tries the script itself")
_KEEP = flags.DEFINE_bool("keep", False, "leave the folder, and use what is there already")

BUDGETS, QUESTIONS = (64, 576), 10
_CHOICES = [11, 222, 3333, 14444]
SHARDS = 3
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_CONFIG: dict[str, Any] = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


def main(_: Sequence[str]) -> None:
    """Make, check, convert, ask, compare; write the results and delete the folder."""
    folder = pathlib.Path(_FOLDER.value)
    hub, ours = folder / "hub", folder / "converted"
    found: dict[str, Any] = {"shape": _SIZE.value, "steps": {}}
    steps = found["steps"]
    if not (hub / tensors.INDEX).is_file():
        steps["make, s"] = timed(lambda: make(hub, _SIZE.value))
    convert = [sys.executable, "-m", "llava_jax.checkpoint", f"--src={hub}"]
    if not ours.exists():
        steps["check"] = watch([*convert, "--dry_run"])
        form = ("--form=safetensors", "--dtype=bfloat16")
        steps["convert"] = watch([*convert, f"--dst={ours}", *form])
    steps["answer"] = ask(ours, folder / "run")
    found |= side_by_side(ours)
    print(json.dumps(found, indent=1))
    harness.save(f"full-size-{_SIZE.value}", found)
    if not _KEEP.value:
        shutil.rmtree(folder)


def timed(action: Callable[[], Any]) -> float:
    """Return the seconds that an action takes."""
    begun = time.perf_counter()
    action()
    return round(time.perf_counter() - begun, 1)


def make(folder: pathlib.Path, size: str) -> None:
    """Write a random checkpoint as the hub has it, holding one tensor at a time."""
    shapes = models.SIZES["7B" if size == "7B" else "tiny-576"]
    folder.mkdir(parents=True)
    content = _CONFIG | {
        "vision_config": shapes["vision"] | {"model_type": "clip_vision_model"},
        "text_config": shapes["text"] | {"model_type": "llama"},
    }
    cfg = config.from_hf(content)
    leaves = huggingface.flatten(huggingface.abstract(cfg))
    keys = {rules.LLAVA.key_of(path): leaf.shape for path, leaf in leaves.items()}
    index: dict[str, str] = {}
    for number in range(SHARDS):
        own = dict(list(keys.items())[number * len(keys) // SHARDS :][: -(-len(keys) // SHARDS)])
        own = {key: shape for key, shape in own.items() if key not in index}
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        aligned.write(folder / file, own, _BFLOAT16, _random(own, seed=number))
        index |= dict.fromkeys(own, file)
    assert len(index) == len(keys)
    (folder / "config.json").write_text(json.dumps(content))
    tokenizer = pathlib.Path(llava_jax.__file__).parent / "pocket" / "tokenizer.json"
    shutil.copy(tokenizer, folder)
    (folder / tensors.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> Iterator[np.ndarray]:
    """Yield tensors in a file's order: matrices of unit gain, norms around one, biases small."""
    rng = np.random.default_rng(seed)
    for key in aligned.order(shapes, _BFLOAT16):
        shape = shapes[key]
        values = rng.standard_normal(shape, np.float32)
        if len(shape) > 1:
            values *= 1.0 if "embed_tokens" in key else np.prod(shape[1:]) ** -0.5
        else:
            values = 0.1 * values + (1.0 if key.endswith("weight") else 0.0)
        yield values.astype(_BFLOAT16)


def watch(command: list[str], log: pathlib.Path | None = None) -> dict[str, Any]:
    """Run a command; return its seconds and the most memory of its own that it had, in GB.

    Args:
        command: to run.
        log: file for what it says on stderr; None lets it be seen.
    """
    begun, most = time.perf_counter(), 0
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    with (
        contextlib.nullcontext() if log is None else log.open("w") as errors,
        subprocess.Popen(command, env=env, stderr=errors) as process,
    ):
        while process.poll() is None:
            most = max(most, _anonymous(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "anonymous GB": round(most / 1e9, 2),
    }


def _anonymous(process: int) -> int:
    """Return the bytes of a process that are no file's."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def ask(folder: pathlib.Path, out: pathlib.Path) -> dict[str, Any]:
    """Ask the POPE questions of one embedded picture with K = 64."""
    flags = ("--limit=1", "--pruner=scope", "--budget=64", "--cache_gib=0", "--offline")
    command = [sys.executable, "-m", "experiments.pope", f"--model={folder}", f"--out={out}"]
    if _SIZE.value == "7B":
        flags = (*flags, "--dtype=bfloat16")
    log = out.with_suffix(".log")
    found = watch([*command, *flags, "--verbosity=1"], log)
    results = json.loads((out / "results.json").read_text())
    found |= {"answers": sum(entry["n"] for entry in results["settings"])}
    return found | {"where the time goes, s": profile(log.read_text())}


def profile(text: str) -> dict[str, float]:
    """Return the seconds of each stage from what ``--verbosity=1`` prints, the largest first."""
    rows = re.findall(r"^(\S.*?) +([\d.]+) +[\d.]+% +\d+$", text, re.MULTILINE)
    return {name: float(seconds) for name, seconds in rows}


def side_by_side(folder: pathlib.Path) -> dict[str, Any]:
    """Let both sides take turns on the same mapped tensors: a question, and a picture's ten."""
    cfg = checkpoint.read_config(folder)
    begun = time.perf_counter()
    params = checkpoint.load(folder, cfg, _BFLOAT16)
    load = round(time.perf_counter() - begun, 1)
    ours = pope.Ours(params, cfg, num_pictures=1)
    peer = peers.Peer(mapped(folder), ours.prompt)
    found: dict[str, Any] = {"load with the check of every value, s": load}
    for budget in BUDGETS:
        kept = budget if budget < cfg.vision.num_tokens else None
        found[f"K = {budget}"] = compare(ours, peer, kept)
    return found


def compare(ours: pope.Ours, peer: peers.Peer, budget: int | None) -> dict[str, Any]:
    """Time one question of transformers and ten of ours, vision included in both."""
    picture, asked = ours.pixels[0], ours.questions[0]
    logits: dict[str, np.ndarray] = {}

    def theirs() -> None:
        how = {} if budget is None else {"budget": budget}
        answer = peer.question if budget is None else peer.pruned
        logits["theirs"] = answer(picture, asked, **how)

    def shared() -> None:
        logits["ours"] = np.asarray(ours.answer(ours.see(budget), budget, QUESTIONS))[0, 0]

    seconds = harness.take_turns({"theirs": theirs, "ours": shared}, flags.FLAGS.rounds)
    each = [value / QUESTIONS for value in seconds["ours"]]
    chances = [np.exp(x[_CHOICES] - x[_CHOICES].max()) for x in logits.values()]
    difference = np.subtract(*(x / x.sum() for x in chances))
    return {
        "transformers, s a question": harness.spread(seconds["theirs"]),
        f"ours, s a question of {QUESTIONS}": harness.spread(each),
        "ratio": harness.ratio(seconds["theirs"], each),
        "answer probability, largest difference": float(np.abs(difference).max()),
    }


def mapped(folder: pathlib.Path) -> Any:
    """Return transformers' model over the mapped tensors of a folder."""
    content = transformers.LlavaConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(content).to(torch.bfloat16).eval()
    found = {}
    for key, tensor in tensors.tensors(folder, rules.LLAVA.ignored).items():
        bits = np.memmap(tensor.file, np.int16, "c", tensor.offset, tensor.shape)
        name = key.replace("language_model.lm_head", "lm_head")
        name = name.replace("language_model.model.", "model.language_model.")
        name = name.replace("multi_modal_projector", "model.multi_modal_projector")
        found[name.replace("vision_tower.vision_model", "model.vision_tower")] = torch.from_numpy(
            bits
        ).view(torch.bfloat16)
    model.load_state_dict(found, assign=True)
    decoder, tower = model.model.language_model, model.model.vision_tower
    decoder.rotary_emb = type(decoder.rotary_emb)(content.text_config)
    places = torch.arange(tower.embeddings.num_positions).expand((1, -1))
    tower.embeddings.register_buffer("position_ids", places, persistent=False)
    return model


if __name__ == "__main__":
    app.run(main)
