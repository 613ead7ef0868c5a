"""The model card that is shipped beside the weights."""

from __future__ import annotations

from experiments import scenes
from experiments.training.recipe import Plan

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# Pocket LLaVA

A miniature with the architecture of LLaVA-1.5: CLIP vision tower, two-layer projector,
Llama decoder, 24 × 24 = 576 visual tokens of a 192 × 192 picture, {parameters:.2f} M
parameters in half precision. It exists so that token pruning and calibration can be
studied in seconds on a laptop, with no download. `LlavaForConditionalGeneration` of
transformers loads this folder as it is.

## Data

`experiments.scenes` (version `{version}`), a procedural world of 40 kinds of objects in
8 kinds of scenes: {pictures} scenes for the tower and {pictures} others for the decoder,
drawn from a train world that shares no scene with the validation and test worlds.

## Recipe

| stage | steps | what |
| --- | --- | --- |
| windows | {plan.window_steps} | tower names patches on quarter pictures |
| whole | {plan.whole_steps} | the same on whole pictures |
| alignment | {plan.alignment_steps} | projected patches classify to the words' embeddings |
| subsets | {plan.subset_steps} | yes/no questions about 128 or 256 of the 576 tokens |
| all | {plan.all_steps} | the same about all 576 tokens |

Muon on the matrices, Adam on the rest. Attention grounding, early answers and alignment
are aids of the training; none of them is part of the checkpoint. The weights are those of
the last step. The validation world alone was looked at while the recipe was made; how a
pruner fares played no part in any choice.

## Measured, all 576 tokens, POPE's protocol, float32 before rounding to half precision

| world | scenes | random | popular | adversarial | ECE (15 bins) | NLL | yes | answer mass |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

The test world was looked at once, after training. ECE has a noise floor of about 0.01 at
this number of questions.

## Limits

It answers "Is there a … in the image?" about its own world with LLaVA's short-answer
prompt, and nothing else: no other wording, no choices, no photographs. Its calibration is
as training left it. One training run, one seed.

## Train it again

    python -m experiments.train_pocket --out=runs/pocket --seed={plan.seed} \\
      --export=llava_jax/pocket

About an hour on two CPU cores. Repeating it gives the same questions and batches; weights
agree to rounding on the same machine only.
"""


def card(plan: Plan, parameters: int, measured: dict[str, tuple[int, dict[str, float]]]) -> str:
    """Fill the model card.

    Args:
        plan: how the model was trained.
        parameters: how many it has.
        measured: world to (scenes, measurements).

    Returns:
        The contents of README.md.
    """
    names = (*scenes.SPLITS, "ece", "nll", "yes_share", "answer_mass")
    rows = [
        f"| {world} | {count} | " + " | ".join(f"{found[name]:.3f}" for name in names) + " |"
        for world, (count, found) in measured.items()
    ]
    return _CARD.format(
        plan=plan,
        pictures=plan.pictures,
        parameters=parameters / 1e6,
        version=scenes.VERSION,
        rows="\n".join(rows),
    )
