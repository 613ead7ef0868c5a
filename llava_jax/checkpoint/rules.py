"""Which source tensor fills which parameter: one table, read in both directions.

Conversion is total: every source key is used by exactly one rule or ignored by name, every
parameter is filled once with its own shape, and all violations are reported together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Shape = tuple[int, ...]

_TEXT = "language_model.model"
_VISION = "vision_tower"

# (Hugging Face key, path in the parameter tree); {i} is a layer.
RULES: tuple[tuple[str, str], ...] = (
    (f"{_VISION}.embeddings.class_embedding", "vision/embeddings/class_embedding"),
    (f"{_VISION}.embeddings.patch_embedding.weight", "vision/embeddings/patch_embedding"),
    (f"{_VISION}.embeddings.position_embedding.weight", "vision/embeddings/position_embedding"),
    *(
        (f"{_VISION}.{source}.{leaf}", f"vision/{target}/{leaf}")
        for source, target in (
            ("pre_layrnorm", "pre_norm"),
            ("post_layernorm", "post_norm"),
            ("encoder.layers.{i}.layer_norm1", "layers/{i}/norm_1"),
            ("encoder.layers.{i}.self_attn.q_proj", "layers/{i}/q"),
            ("encoder.layers.{i}.self_attn.k_proj", "layers/{i}/k"),
            ("encoder.layers.{i}.self_attn.v_proj", "layers/{i}/v"),
            ("encoder.layers.{i}.self_attn.out_proj", "layers/{i}/out"),
            ("encoder.layers.{i}.layer_norm2", "layers/{i}/norm_2"),
            ("encoder.layers.{i}.mlp.fc1", "layers/{i}/fc1"),
            ("encoder.layers.{i}.mlp.fc2", "layers/{i}/fc2"),
        )
        for leaf in ("weight", "bias")
    ),
    *(
        (f"multi_modal_projector.{name}.{leaf}", f"projector/{name}/{leaf}")
        for name in ("linear_1", "linear_2")
        for leaf in ("weight", "bias")
    ),
    (f"{_TEXT}.embed_tokens.weight", "text/embed_tokens"),
    *(
        (f"{_TEXT}.layers.{{i}}.{source}.weight", f"text/layers/{{i}}/{target}/weight")
        for source, target in (
            ("input_layernorm", "attention_norm"),
            ("self_attn.q_proj", "q"),
            ("self_attn.k_proj", "k"),
            ("self_attn.v_proj", "v"),
            ("self_attn.o_proj", "out"),
            ("post_attention_layernorm", "mlp_norm"),
            ("mlp.gate_proj", "gate"),
            ("mlp.up_proj", "up"),
            ("mlp.down_proj", "down"),
        )
    ),
    (f"{_TEXT}.norm.weight", "text/norm/weight"),
    ("language_model.lm_head.weight", "text/lm_head"),
)

IGNORED = re.compile(r".*\.(rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""Buffers that old checkpoints carry and the model computes itself."""

_NORMALISE = (
    (re.compile(r"^model\.(?=language_model\.|vision_tower\.|multi_modal_projector\.)"), ""),
    (re.compile(r"^vision_tower\.vision_model\."), "vision_tower."),
    (re.compile(r"^language_model\.(?=layers\.|embed_tokens\.|norm\.)"), f"{_TEXT}."),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
)


class ConversionError(ValueError):
    """A checkpoint that does not fill the model exactly; the message lists every violation."""


def normalise(key: str) -> str:
    """Bring the four llava-hf spellings of a key to the one the rules use.

    The spellings: the hub's files, ``save_pretrained`` of transformers 5 (no ``vision_model``),
    and the state dicts of transformers 4.52+ and 5 (``model.`` in front).
    """
    for pattern, replacement in _NORMALISE:
        key = pattern.sub(replacement, key)
    return key


def path_of(key: str) -> str | None:
    """Return the parameter path that a source key fills; None if no rule knows the key."""
    match = re.sub(r"\.(\d+)\.", ".{i}.", normalise(key))
    target = dict(RULES).get(match)
    layer = re.search(r"\.(\d+)\.", key)
    return target.replace("{i}", layer[1]) if target and layer else target


def key_of(path: str) -> str:
    """Return the llava-hf hub key of a parameter path.

    Raises:
        KeyError: no rule names the path.
    """
    layer = re.search(r"/(\d+)/", path)
    source = {target: source for source, target in RULES}[re.sub(r"/\d+/", "/{i}/", path)]
    source = source.replace(f"{_VISION}.", f"{_VISION}.vision_model.")
    return source.replace("{i}", layer[1]) if layer else source


def match(sources: Mapping[str, Shape], targets: Mapping[str, Shape]) -> dict[str, str]:
    """Assign every parameter its source tensor.

    Args:
        sources: key → shape of the checkpoint's tensors.
        targets: path → shape of the model's parameters.

    Returns:
        path → key, one entry for every parameter.

    Raises:
        ConversionError: names every unknown key, missing or doubly filled parameter and
            differing shape, all in one message.
    """
    found: dict[str, str] = {}
    problems = []
    for key in sorted(sources):
        if IGNORED.match(key):
            continue
        path = path_of(key)
        if path not in targets:
            problems.append(f"extra tensor {key} {list(sources[key])}")
        elif path in found:
            problems.append(f"two tensors for one parameter: {found[path]} and {key}")
        elif sources[key] != targets[path]:
            want = list(targets[path])
            problems.append(f"tensor {key} has shape {list(sources[key])}, needs {want}")
            found[path] = key
        else:
            found[path] = key
    problems += [
        f"missing tensor {key_of(p)} {list(targets[p])}" for p in targets if p not in found
    ]
    if problems:
        raise ConversionError(_report(problems))
    return found


def _report(problems: Iterable[str]) -> str:
    """Join violations to one line; the first ones in words, the others counted."""
    problems = list(problems)
    shown = "; ".join(problems[:12])
    more = f"; and {len(problems) - 12} more" if len(problems) > 12 else ""
    return f"the checkpoint does not fit the model ({len(problems)} violations): {shown}{more}"
