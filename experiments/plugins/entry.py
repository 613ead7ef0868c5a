"""What entry points name; a tool reads them at its start, so nothing is imported before it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest  # pyrefly: ignore[missing-import]


def lmms_eval() -> ModelManifest:
    """Return where lmms-eval finds its model ``llava_jax``."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyrefly: ignore[missing-import]

    return ModelManifest("llava_jax", simple_class_path="experiments.plugins.lmms_eval.LlavaJax")
