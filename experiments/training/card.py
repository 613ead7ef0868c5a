"""The model card that is shipped beside the weights."""

from __future__ import annotations

from collections.abc import Mapping

from experiments import scenes
from experiments.training.asking import Mix
from experiments.training.measuring import Measured
from experiments.training.recipe import CAPTIONS, SUBSETS, Plan

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
transformers loads this folder as it is. In `clip/` the same vision tower stands beside a
small text tower in CLIP's layout (`CLIPModel` loads it), for pruners that read the question.

## Data

`experiments.scenes` (version `{version}`), a procedural world of 40 kinds of objects in
8 kinds of scenes: {plan.pictures} scenes for the vision tower and {plan.pictures} others for
captions and questions, drawn from a train world that shares no scene with the validation and
test worlds.

## Recipe

| stage | steps | what |
| --- | --- | --- |
| windows | {plan.window_steps} | the vision tower names patches on quarter pictures |
| whole | {plan.whole_steps} | the same on whole pictures |
| captions | {plan.caption_steps} | a text tower finds the picture of a caption among {captions} |
| alignment | {plan.alignment_steps} | projected patches classify to the words' embeddings |
| subsets | {plan.subset_steps} | questions about {subsets} of the 576 tokens |
| all | {plan.all_steps} | the same about all 576 tokens |

Per picture and step the decoder is asked {mix.existence} questions about existence,
{mix.yes_no} about qualities, {mix.one_word} for one word and {mix.lettered} with up to 5
options. In half of the pictures the shown tokens have positions with gaps, so that the decoder
knows pictures of every length. Captions train the vision tower's last block and norm too, which
LLaVA does not read; the rest of it is at rest after its
own stages. Muon on the matrices, Adam on the rest. Attention grounding and pointing, early
answers and alignment are aids of the training; none of them is part of the checkpoint. The
weights are those of the last step. Recipe and difficulty of the world were settled on the
validation world, by accuracy and likelihood at full tokens; how a pruner fares played no part
in any choice.

## Measured

These weights computed in float32 (hidden states between tower and decoder in half precision), all
576 tokens, {count} scenes per world that no choice depended on. The test world was measured after
training only; nothing was chosen by it. `python -m experiments.measure_pocket` prints these
tables. "Blind" is the accuracy of answering, without looking, what is most often right for the
same words in the train world. What pruning does to accuracy and calibration is in
`docs/pocket.md` of the repository.

{tables}

## Limits

It answers the questions above about its own world in LLaVA's two prompts, and nothing else:
no other wording, no photographs. {untaught} proves the plumbing only: the model was never
taught to read. Its calibration is as training left it. One training run, one seed. Texts in
`clip/` point towards the patches they name where the last table says so (AUC above one half);
in OpenAI's CLIP they point away (Li et al. 2023, "CLIP Surgery"), which CDPruner's minus sign
presumes.

## Train it again

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 python -m experiments.train_pocket \\
      --out=runs/pocket --seed={plan.seed} --export=llava_jax/pocket

About {minutes} minutes on two CPU cores, the same flags on a GPU. Repeating it gives the same
scenes, questions and batches; weights agree to rounding on the same machine only.
"""

_POPE = ("random", "popular", "adversarial", "accuracy", "ece", "ece_floor", "nll", "yes_share")
_HEADINGS = {
    "ece": "ECE (15 bins)",
    "ece_floor": "its noise floor",
    "nll": "NLL",
    "yes_share": "yes",
    "answer_mass": "answer mass",
    "accuracy": "all",
    "accuracy+": "both of a pair",
}
_TOWER = {
    "attended": "object patches among the 64 that CLS looks at most in layer −2",
    "covered": "object patches among all",
    "zero_shot_auc": 'AUC of "a photo of a …" for whether the picture shows it',
    "patch_auc": "the same for whether a patch shows it, within a picture",
}


def tables(measured: Mapping[str, Mapping[str, Measured]]) -> str:
    """Write measurements as Markdown tables.

    Args:
        measured: world to what ``examination.examine`` found.
    """
    return "\n\n".join([_pope(measured), _others(measured), _towers(measured)])


def _table(lines: list[list[str]]) -> str:
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pope(measured: Mapping[str, Mapping[str, Measured]]) -> str:
    columns = (*_POPE, "answer_mass")
    lines = [["POPE", *(_HEADINGS.get(name, name) for name in columns)]]
    for world, found in measured.items():
        lines.append([world, *(f"{found['pope'][name]:.3f}" for name in columns)])
    return _table(lines) + (
        "\n\nThe noise floor is the 97.5 % point of ECE when the labels are redrawn from the "
        "confidences."
    )


def _others(measured: Mapping[str, Mapping[str, Measured]]) -> str:
    lines = [["other benchmarks", "measure", *measured]]
    names = [name for name, mini in scenes.MINIATURES.items() if mini.trained and name != "pope"]
    for benchmark in names:
        for name in next(iter(measured.values()))[benchmark]:
            values = [f"{found[benchmark][name]:.3f}" for found in measured.values()]
            lines.append([benchmark, _HEADINGS.get(name, name), *values])
    return _table(lines)


def _towers(measured: Mapping[str, Mapping[str, Measured]]) -> str:
    lines = [["vision and text tower", *measured]]
    for name, words in _TOWER.items():
        lines.append([words, *(f"{found['tower'][name]:.3f}" for found in measured.values())])
    return _table(lines)


def card(
    plan: Plan,
    parameters: int,
    count: int,
    minutes: float,
    measured: Mapping[str, Mapping[str, Measured]],
) -> str:
    """Fill the model card.

    Args:
        plan: how the model was trained.
        parameters: how many it has.
        count: scenes behind the measurements, per world.
        minutes: that the training took.
        measured: world to what ``examination.examine`` found.

    Returns:
        The contents of README.md.
    """
    untaught = [name for name, mini in scenes.MINIATURES.items() if not mini.trained]
    return _CARD.format(
        plan=plan,
        captions=CAPTIONS,
        subsets=" or ".join(map(str, SUBSETS)),
        mix=Mix(),
        count=count,
        minutes=round(minutes),
        parameters=parameters / 1e6,
        version=scenes.VERSION,
        tables=tables(measured),
        untaught=", ".join(untaught),
    )
