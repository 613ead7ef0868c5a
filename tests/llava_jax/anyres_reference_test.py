"""Parity with transformers' torch LlavaNextForConditionalGeneration, from the picture on."""

import itertools
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from llava_jax import anyres, assembly, checkpoint, config, model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
llava_next = pytest.importorskip("transformers.models.llava_next.modeling_llava_next")
processors = pytest.importorskip("transformers.models.llava_next.image_processing_pil_llava_next")

pytestmark = [
    pytest.mark.reference,
    # transformers and torch warn about their own deprecations.
    pytest.mark.filterwarnings("ignore"),
]

TILE = 42  # three patches of 14: an odd number of tokens along a tile
PINPOINTS = [[42, 84], [84, 42], [84, 84], [126, 42], [42, 126]]
SMALL_SIZES = [(13, 21), (30, 30)]  # smaller than a tile: the peers' lists tie
SIZES = [*SMALL_SIZES, (50, 160), (170, 60), (90, 90), (200, 31), (84, 126)]
PROMPT, SUFFIX = [1, 9, 200, 31], [5, 7, 9, 11]
IMAGE_ID = 319
LOGITS = 1e-5  # float32 at highest precision, two decoder layers deep


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=TILE,
        patch_size=14,
    )
    text = transformers.LlamaConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        vocab_size=320,
    )
    shapes = transformers.LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_ID,
        image_grid_pinpoints=PINPOINTS,
        attn_implementation="eager",
    )
    return transformers.LlavaNextForConditionalGeneration(shapes).eval()


@pytest.fixture(scope="module")
def ours(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    reference.save_pretrained(folder)
    cfg = checkpoint.read_config(folder)
    return cfg, checkpoint.load(folder, cfg, np.float32), folder


answer = jax.jit(model.apply, static_argnames="cfg")


def read_as(convention):
    """Return the list that makes transformers read pinpoints as a convention does."""
    return [[b, a] for a, b in PINPOINTS] if convention == "llava" else PINPOINTS


def draw(size):
    width, height = size
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("convention", anyres.CONVENTIONS)
def test_tiles_equal_transformers(ours, convention):
    """Bit for bit, up to the order of x / 255, the mean and the deviation in float32."""
    square = {"height": TILE, "width": TILE}
    processor = processors.LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size=square, image_grid_pinpoints=read_as(convention)
    )
    for size in SIZES:
        want = processor(draw(size), return_tensors="np")["pixel_values"][0]
        got = anyres.tiles(draw(size), ours[0], convention)
        np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "convention"),
    [(size, "huggingface") for size in SIZES] + [(size, "llava") for size in SMALL_SIZES],
)
def test_answers_equal_transformers(reference, ours, size, convention):
    cfg, params, _ = ours
    layout = anyres.layout(size, cfg, convention)
    pixels = anyres.tiles(draw(size), cfg, convention)
    reference.config.image_grid_pinpoints = read_as(convention)
    ids = [*PROMPT, *[IMAGE_ID] * layout.num_tokens, *SUFFIX]
    with torch.no_grad():
        want = reference(
            input_ids=torch.tensor([ids]),
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)[None]),
            image_sizes=torch.tensor([size[::-1]]),
        ).logits[0, -1]
    with jax.default_matmul_precision("highest"):
        got = answer(
            params,
            pixels[None],
            np.array(PROMPT),
            np.array([[SUFFIX]]),
            np.array([[len(SUFFIX)]]),
            cfg=cfg,
            keep=assembly.sequence(layout)[None],
        )
    np.testing.assert_allclose(got[0, 0], want.numpy(), atol=LOGITS)


def test_every_spelling_of_transformers_loads(reference, ours, tmp_path):
    """What ``save_pretrained`` writes, and the state dict, whose keys begin with ``model.``."""
    cfg, params, folder = ours
    state = {key: value.numpy() for key, value in reference.state_dict().items()}
    assert "model.image_newline" in state
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(safetensors.numpy.save(state))
    assert checkpoint.read_config(tmp_path) == cfg
    loaded = checkpoint.load(tmp_path, cfg, np.float32)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    newline = reference.model.image_newline.detach().numpy()
    np.testing.assert_array_equal(params["image_newline"], newline)


def test_every_size_has_transformers_tiling_and_token_count():
    cfg = config.llava_1_6_vicuna_7b()
    listed = [list(pair) for pair in config.GRID_PINPOINTS]
    kind = transformers.LlavaNextProcessor
    processor = types.SimpleNamespace(
        image_processor=types.SimpleNamespace(image_grid_pinpoints=listed),
        num_additional_image_tokens=0,
        patch_size=14,
        _get_unpadded_features=lambda *sizes: kind._get_unpadded_features(None, *sizes),
    )
    sizes = [
        *itertools.product(range(1, 500, 7), range(1, 500, 7)),
        *itertools.product(range(500, 2500, 61), range(15, 2500, 59)),
        (352, 748),
        (799, 376),
    ]
    others = []
    for width, height in sizes:
        layout = anyres.layout((width, height), cfg, "huggingface")
        grid = llava_next.get_anyres_image_grid_shape((height, width), listed, 336)
        count = kind._get_number_of_features(processor, height, width, 336, 336)
        assert (layout.grid, layout.num_tokens) == (grid, count), (width, height)
        if anyres.layout((width, height), cfg).grid != grid:
            others.append((width, height))
    assert len(others) == 2304
    assert max(map(min, others)) < 336
