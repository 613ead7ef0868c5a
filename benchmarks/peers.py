"""How a transformers user answers first-token questions: one by one, pruned, and by our own plan.

``question`` is what every harness does; ``pruned`` adds SCOPE, written from its formula; ``shared``
is our plan in torch: one prefix a picture, all its questions in one padded batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers


def scope(features: torch.Tensor, saliency: torch.Tensor, budget: int) -> torch.Tensor:
    """Pick ``budget`` tokens: argmax of Σᵢ max(0, sᵢⱼ − mᵢ) · cⱼ; int64[K], in raster order."""
    unit = features / features.norm(dim=-1, keepdim=True)
    similarity = unit @ unit.T
    covered = torch.zeros_like(similarity[0])
    taken = torch.zeros_like(covered, dtype=torch.bool)
    for _ in range(budget):
        gain = (similarity - covered[:, None]).clamp(min=0).sum(0) * saliency
        best = gain.masked_fill(taken, -torch.inf).argmax()
        taken[best] = True
        covered = torch.maximum(covered, similarity[best])
    return taken.nonzero()[:, 0]


@dataclasses.dataclass(frozen=True)
class Peer:
    """transformers' model with the text before the picture.

    Attributes:
        model: a ``LlavaForConditionalGeneration``.
        prompt: ids before the picture.
    """

    model: Any
    prompt: Sequence[int]

    def question(self, pixels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """Ask one question by ``generate``; float32[V]."""
        self.model.set_attn_implementation("sdpa")
        config = self.model.config
        count = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        whole = [*self.prompt, *[config.image_token_id] * count, *ids]
        out = self.model.generate(
            input_ids=self._tensor([whole]),
            attention_mask=self._tensor([[1] * len(whole)]),
            pixel_values=self._pixels(pixels),
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return out.logits[0][0].float().cpu().numpy()

    @torch.no_grad()
    def pruned(self, pixels: np.ndarray, ids: Sequence[int], budget: int) -> np.ndarray:
        """Ask one question of the tokens that SCOPE keeps; float32[V]."""
        image = self._kept(pixels, budget)
        x = torch.cat([self._embed(self.prompt), image, self._embed(ids)])
        hidden = self.model.model.language_model(inputs_embeds=x[None]).last_hidden_state
        return self.model.lm_head(hidden[:, -1])[0].float().cpu().numpy()

    @torch.no_grad()
    def shared(
        self, pixels: np.ndarray, questions: Sequence[Sequence[int]], budget: int | None
    ) -> np.ndarray:
        """Ask all questions of a picture in one batch behind one prefix; float32[Q, V]."""
        image = self._kept(pixels, budget)
        decoder = self.model.model.language_model
        prefix = torch.cat([self._embed(self.prompt), image])
        cache = transformers.DynamicCache()
        decoder(inputs_embeds=prefix[None], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(questions))
        lengths = [len(ids) for ids in questions]
        padded = [[*ids, *[0] * (max(lengths) - len(ids))] for ids in questions]
        mask = torch.ones(len(questions), len(prefix) + max(lengths), device=self.model.device)
        out = decoder(
            input_ids=self._tensor(padded), attention_mask=mask, past_key_values=cache
        ).last_hidden_state
        last = out[torch.arange(len(questions)), torch.tensor(lengths) - 1]
        return self.model.lm_head(last).float().cpu().numpy()

    def _kept(self, pixels: np.ndarray, budget: int | None) -> torch.Tensor:
        """Return projected tokens [K, D]; the tower shows its attention only where it is eager."""
        self.model.set_attn_implementation({"vision_config": "sdpa" if budget is None else "eager"})
        tower = self.model.model.vision_tower(
            self._pixels(pixels), output_hidden_states=True, output_attentions=budget is not None
        )
        features = tower.hidden_states[-2][0, 1:]
        if budget is not None:
            saliency = tower.attentions[-2][0, :, 0, 1:].sum(0)
            features = features[scope(features, saliency, budget)]
        return self.model.model.multi_modal_projector(features)

    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        return self.model.get_input_embeddings()(self._tensor(ids))

    def _tensor(self, ids: Any) -> torch.Tensor:
        return torch.tensor(ids, device=self.model.device)

    def _pixels(self, pixels: np.ndarray) -> torch.Tensor:
        moved = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
        return moved.to(self.model.device, self.model.dtype)
