"""Which source tensor fills which parameter: one table per architecture, read in both directions.

Conversion is total: every source key is used by exactly one rule or ignored by name, every
parameter is filled once with its own shape, and all violations are reported together.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

Shape = tuple[int, ...]
Rule = tuple[str, str]


class ConversionError(ValueError):
    """A checkpoint that does not fill the model exactly; the message lists every violation."""


@dataclasses.dataclass(frozen=True)
class KeyMap:
    """The names of an architecture's tensors.

    Attributes:
        rules: (Hugging Face key, path in the parameter tree); {i} is a layer.
        spellings: (pattern, replacement) that bring other spellings of a key to the rules' own,
            applied in this order.
        ignored: pattern of buffers that old checkpoints carry and the model computes itself.
    """

    rules: tuple[Rule, ...]
    spellings: tuple[tuple[str, str], ...]
    ignored: str

    def path_of(self, key: str) -> str | None:
        """Return the parameter path that a source key fills; None if no rule knows the key."""
        source = key
        for pattern, replacement in self.spellings:
            source = re.sub(pattern, replacement, source)
        target = dict(self.rules).get(re.sub(r"\.(\d+)\.", ".{i}.", source))
        layer = re.search(r"\.(\d+)\.", key)
        return target.replace("{i}", layer[1]) if target and layer else target

    def key_of(self, path: str) -> str:
        """Return the hub's key of a parameter path.

        Raises:
            KeyError: no rule names the path.
        """
        layer = re.search(r"/(\d+)/", path)
        sources = {target: source for source, target in self.rules}
        source = sources[re.sub(r"/\d+/", "/{i}/", path)]
        return source.replace("{i}", layer[1]) if layer else source

    def match(self, sources: Mapping[str, Shape], targets: Mapping[str, Shape]) -> dict[str, str]:
        """Assign every parameter its source tensor.

        Args:
            sources: key → shape of the checkpoint's tensors, without the ignored ones.
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
            path = self.path_of(key)
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
            f"missing tensor {self.key_of(p)} {list(targets[p])}" for p in targets if p not in found
        ]
        if problems:
            count = f"{len(problems)} violations"
            raise ConversionError(
                f"the checkpoint does not fit the model ({count}): {some(problems)}"
            )
        return found


def some(problems: Sequence[str]) -> str:
    """Join problems to one line; the first ones in words, the others counted."""
    more = [f"and {len(problems) - 12} more"] if len(problems) > 12 else []
    return "; ".join([*problems[:12], *more])


def _both(source: str, target: str) -> tuple[Rule, Rule]:
    """Return the rules of a layer that has a weight and a bias."""
    return (f"{source}.weight", f"{target}/weight"), (f"{source}.bias", f"{target}/bias")


def _clip_blocks(source: str, target: str) -> tuple[Rule, ...]:
    """Return the rules of one CLIP tower's blocks; both towers name them alike."""
    names = (
        ("layer_norm1", "norm_1"),
        ("self_attn.q_proj", "q"),
        ("self_attn.k_proj", "k"),
        ("self_attn.v_proj", "v"),
        ("self_attn.out_proj", "out"),
        ("layer_norm2", "norm_2"),
        ("mlp.fc1", "fc1"),
        ("mlp.fc2", "fc2"),
    )
    return tuple(
        rule
        for theirs, ours in names
        for rule in _both(
            f"{source}.encoder.layers.{{i}}.{theirs}", f"{target}/layers/{{i}}/{ours}"
        )
    )


def _vision_tower(source: str) -> tuple[Rule, ...]:
    """Return the rules of CLIP's vision tower, which LLaVA holds under another name."""
    return (
        (f"{source}.embeddings.class_embedding", "vision/embeddings/class_embedding"),
        (f"{source}.embeddings.patch_embedding.weight", "vision/embeddings/patch_embedding"),
        (f"{source}.embeddings.position_embedding.weight", "vision/embeddings/position_embedding"),
        *_both(f"{source}.pre_layrnorm", "vision/pre_norm"),
        *_both(f"{source}.post_layernorm", "vision/post_norm"),
        *_clip_blocks(source, "vision"),
    )


_TEXT = "language_model.model"

LLAVA = KeyMap(
    rules=(
        *_vision_tower("vision_tower.vision_model"),
        *_both("multi_modal_projector.linear_1", "projector/linear_1"),
        *_both("multi_modal_projector.linear_2", "projector/linear_2"),
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
    ),
    spellings=(
        (r"^model\.(?=(language_model|vision_tower|multi_modal_projector)\.|image_newline$)", ""),
        (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
        (r"^language_model\.(?=layers\.|embed_tokens\.|norm\.)", f"{_TEXT}."),
        (r"^lm_head\.", "language_model.lm_head."),
    ),
    ignored=r".*\.(rotary_emb\.inv_freq|embeddings\.position_ids)",
)
"""LLaVA-1.5. Four spellings are known: the hub's files, ``save_pretrained`` of transformers 5 (no
``vision_model``), and the state dicts of transformers 4.52+ and 5 (``model.`` in front)."""

LLAVA_NEXT = dataclasses.replace(LLAVA, rules=(*LLAVA.rules, ("image_newline", "image_newline")))
"""LLaVA-NeXT, in the same spellings."""

ORIGINAL = dataclasses.replace(
    LLAVA,
    spellings=(
        (r"^model\.vision_tower\.vision_tower\.", "vision_tower."),
        (r"^vision_model\.", "vision_tower.vision_model."),
        (r"^model\.mm_projector\.0\.", "multi_modal_projector.linear_1."),
        (r"^model\.mm_projector\.2\.", "multi_modal_projector.linear_2."),
        (r"^model\.(?=layers\.|embed_tokens\.|norm\.)", f"{_TEXT}."),
        (r"^lm_head\.", "language_model.lm_head."),
    ),
)
"""LLaVA-1.5 as its own code spells it (haotian-liu/LLaVA); the vision tower within the model, or as
OpenAI's CLIP beside it."""

CLIP = KeyMap(
    rules=(
        *_vision_tower("vision_model"),
        ("text_model.embeddings.token_embedding.weight", "text/embeddings/token_embedding"),
        ("text_model.embeddings.position_embedding.weight", "text/embeddings/position_embedding"),
        *_clip_blocks("text_model", "text"),
        *_both("text_model.final_layer_norm", "text/final_norm"),
        ("visual_projection.weight", "visual_projection"),
        ("text_projection.weight", "text_projection"),
        ("logit_scale", "logit_scale"),
    ),
    spellings=(),
    ignored=r".*\.embeddings\.position_ids",
)
"""CLIP's dual encoder, a ``CLIPModel``, as the hub's files and ``save_pretrained`` spell it."""
