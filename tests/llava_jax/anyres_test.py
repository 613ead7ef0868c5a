"""Tiles of LLaVA-NeXT against the published rules, written down anew, and what follows of them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from llava_jax import anyres, assembly, checkpoint, config, images, model, parameters, testing
from llava_jax.checkpoint import conversion, huggingface, rules

CFG = config.llava_1_6_vicuna_7b()
SIZES = [
    *itertools.product(range(20, 500, 6), range(20, 500, 6)),
    *itertools.product(range(500, 2500, 61), range(15, 2500, 59)),
]
TINY = testing.tiny_config() | {
    "model_type": "llava_next",
    "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]],
}
SMALL = config.from_hf(TINY)
WIDE = anyres.Layout(grid=(1, 3), side=4, padding=(0, 2))
HIGH = anyres.Layout(grid=(2, 2), side=3, padding=(1, 0))
LAYOUTS = [WIDE, HIGH, anyres.Layout(grid=(3, 1), side=2, padding=(0, 0))]


def llava_canvas(size):
    """Return LLaVA's ``select_best_resolution`` by walking its list of (width, height)."""
    best, most, least = None, 0, math.inf
    for width, height in config.GRID_PINPOINTS:
        scale = min(width / size[0], height / size[1])
        shown = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        wasted = width * height - shown
        if shown > most or (shown == most and wasted < least):
            best, most, least = (width, height), shown, wasted
    return best


def llava_tokens(size):
    """Return LLaVA's token count by unpadding a map, as ``unpad_image`` does."""
    width, height = llava_canvas(size)
    token_map = np.empty((height // 14, width // 14))
    rows, columns = token_map.shape
    if size[0] / size[1] > columns / rows:
        padding = (rows - int(size[1] * (columns / size[0]))) // 2
        token_map = token_map[padding : rows - padding]
    else:
        padding = (columns - int(size[0] * (rows / size[1]))) // 2
        token_map = token_map[:, padding : columns - padding]
    return 576 + token_map.shape[0] * (token_map.shape[1] + 1)


def test_every_size_has_llavas_tiling_and_token_count():
    assert len(SIZES) > 7000
    for size in SIZES:
        layout = anyres.layout(size, CFG)
        width, height = llava_canvas(size)
        assert layout.grid == (height // 336, width // 336), size
        assert layout.num_tokens == llava_tokens(size), size


def test_the_peers_differ_where_areas_tie():
    """As known for three sizes; sizes that a tile fits into are tiled alike."""
    ours, theirs = (anyres.layout((30, 41), CFG, how) for how in anyres.CONVENTIONS)
    assert (ours.grid, ours.num_tokens) == ((2, 1), 1376)
    assert (theirs.grid, theirs.num_tokens) == ((1, 2), 1032)
    ours, theirs = (anyres.layout((300, 300), CFG, how) for how in anyres.CONVENTIONS)
    assert ours.grid != theirs.grid
    assert ours.num_tokens == theirs.num_tokens
    ours, theirs = (anyres.layout((640, 480), CFG, how) for how in anyres.CONVENTIONS)
    assert ours == theirs == anyres.Layout((2, 2), 24, (6, 0))
    assert ours.num_tokens == 2340
    tied = [
        s for s in SIZES if len({anyres.layout(s, CFG, c).grid for c in anyres.CONVENTIONS}) > 1
    ]
    assert max(map(min, tied)) < 336


def test_the_peers_differ_where_a_whole_number_is_missed_by_rounding():
    """748 · 24 / 352 is 51 rows; LLaVA's float64 is below it and cut to 50."""
    ours, theirs = (anyres.layout((352, 748), CFG, how) for how in anyres.CONVENTIONS)
    assert ours == anyres.Layout((3, 1), 24, padding=(11, 0))
    assert theirs == anyres.Layout((3, 1), 24, padding=(10, 0))
    assert ours.num_tokens == llava_tokens((352, 748)) == 576 + 50 * 25


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (1, 1), (336, 336), (89, 2000)])
def test_extreme_pictures_have_tiles_that_fit_their_layout(size):
    image = Image.new("RGB", size, (255, 255, 255))
    layout = anyres.layout(size, CFG)
    pixels = anyres.tiles(image, CFG)
    assert pixels.shape == (layout.num_tiles, 336, 336, 3)
    assert layout.num_tokens == len(assembly.sequence(layout)) >= 576


def test_a_picture_too_large_to_be_resized_is_refused():
    with pytest.raises(images.ImageError, match="1 x 900000"):
        anyres.tiles(Image.new("RGB", (1, 900000)), CFG)


def test_tiles_put_together_are_the_picture_on_black():
    """A picture of twice a tile's size is not resized: its pixels are the tiles'."""
    drawn = np.random.default_rng(0).integers(0, 256, (64, 51, 3), np.uint8)
    pixels = anyres.tiles(Image.fromarray(drawn), SMALL)
    grid = pixels[1:].reshape(2, 2, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(64, 64, 3)
    black = images.normalise(np.zeros(3, np.uint8))
    np.testing.assert_array_equal(grid[:, 6:57], images.normalise(drawn))
    np.testing.assert_array_equal(grid[:, :6], np.broadcast_to(black, (64, 6, 3)))
    np.testing.assert_array_equal(grid[:, 57:], np.broadcast_to(black, (64, 7, 3)))
    squashed = Image.fromarray(drawn).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels[0], images.normalise(np.asarray(squashed)))


def draw_map(layout):
    """Return the map of token numbers, cut out of tiles laid side by side."""
    side, (rows, columns) = layout.side, layout.grid
    numbers = np.arange(layout.num_tiles * side**2).reshape(-1, side, side)
    lines = [np.hstack(numbers[1 + r * columns : 1 + (r + 1) * columns]) for r in range(rows)]
    return np.vstack(lines)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sequence_is_the_base_and_the_unpadded_rows_with_newlines(layout):
    first, newline = layout.side**2, layout.num_tiles * layout.side**2
    (top, left), whole = layout.padding, draw_map(layout)
    cut = whole[top : whole.shape[0] - top, left : whole.shape[1] - left]
    want = [*range(first), *itertools.chain(*([*row, newline] for row in cut))]
    np.testing.assert_array_equal(assembly.sequence(layout), want)
    assert layout.num_tokens == len(want)
    assert set(np.flatnonzero(assembly.shown(layout))) == set(want) - {newline}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kept_tokens_come_in_the_sequences_order(layout):
    rng = np.random.default_rng(0)
    count = layout.num_tiles * layout.tile_tokens
    everything = [*range(layout.tile_tokens), *draw_map(layout).ravel()]
    order = jax.jit(assembly.order, static_argnames=("layout", "newlines"))
    for size in (1, 5, count):
        kept = rng.permutation(count)[:size]
        want = [token for token in everything if token in kept]
        np.testing.assert_array_equal(order(layout, kept), want)
    both = np.stack([rng.permutation(count)[:5] for _ in range(2)])
    one_by_one = [assembly.order(layout, kept) for kept in both]
    np.testing.assert_array_equal(order(layout, both), one_by_one)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_newlines_end_the_rows_of_what_is_kept(layout):
    shown = np.random.default_rng(0).permutation(np.flatnonzero(assembly.shown(layout)))
    whole = assembly.order(layout, shown, newlines=True)
    np.testing.assert_array_equal(whole, assembly.sequence(layout))
    few, newline = shown[:5], layout.num_tiles * layout.tile_tokens
    got = assembly.order(layout, few, newlines=True)
    want = [t for t in assembly.sequence(layout) if t in few or t == newline]
    np.testing.assert_array_equal(got, want)


def test_padding_is_no_candidate_unless_asked_for():
    for layout in LAYOUTS:
        found = np.concatenate(assembly.candidates(layout))
        np.testing.assert_array_equal(found, np.flatnonzero(assembly.shown(layout)))
        every = np.concatenate(assembly.candidates(layout, padding=True))
        np.testing.assert_array_equal(every, np.arange(layout.num_tiles * layout.tile_tokens))
    counts = [len(tokens) for tokens in assembly.candidates(WIDE)]
    assert counts == [16, 8, 16, 8]


def test_budgets_are_equal_shares_and_no_more_than_a_tile_shows():
    assert assembly.tile_budgets(WIDE, 19) == (4, 4, 4, 4)
    assert assembly.tile_budgets(WIDE, 40) == (10, 8, 10, 8)
    assert assembly.tile_budgets(WIDE, 40, padding=True) == (10, 10, 10, 10)
    with pytest.raises(ValueError, match=r"a budget of 3 .* 4 tiles"):
        assembly.tile_budgets(WIDE, 3)


def test_the_decoder_reads_newlines_where_the_sequence_has_them():
    params = testing.random_params(SMALL)
    features = jax.random.normal(jax.random.key(1), (2, 64, SMALL.vision.width))
    kept = jnp.array([[3, 64, 60, 64], [0, 1, 64, 2]])
    newline = params["image_newline"]
    image, places = model.project_kept(params["projector"], features, kept, newline)
    projected = model.project(params["projector"], features)
    for g, k in itertools.product(range(2), range(4)):
        want = newline if kept[g, k] == 64 else projected[g, kept[g, k]]
        np.testing.assert_allclose(image[g, k], want, atol=1e-6)
    np.testing.assert_array_equal(places, np.tile(np.arange(4), (2, 1)))
    of_questions = kept.reshape(1, 2, 4)
    image, _ = model.project_kept(params["projector"], features[:1], of_questions, newline)
    assert image.shape == (2, 4, SMALL.text.width)
    np.testing.assert_array_equal(image[1, 2], newline)


def test_random_parameters_have_a_newline():
    shapes = jax.eval_shape(lambda key: parameters.init(key, SMALL), jax.random.key(0))
    assert shapes["image_newline"].shape == (SMALL.text.width,)
    assert "image_newline" not in huggingface.abstract(config.pocket())


def test_tiles_without_a_sequence_are_refused():
    with pytest.raises(ValueError, match=r"assembly\.sequence"):
        model.apply({}, np.zeros((1, 3, 32, 32, 3)), [], [], [], cfg=SMALL)


def test_a_config_of_the_hub_gives_the_published_sizes():
    hub = {
        "model_type": "llava_next",
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "image_token_index": 32000,
        "projector_hidden_act": "gelu",
        "use_image_newline_parameter": True,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {"model_type": "llama", "vocab_size": 32064, "rms_norm_eps": 1e-5},
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    }
    assert config.from_hf(hub) == CFG
    assert config.from_hf(hub | {"image_grid_pinpoints": None}) == CFG
    shapes = huggingface.flatten(huggingface.abstract(CFG))
    assert len(shapes) == 687
    assert shapes["image_newline"].shape == (4096,)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_grid_pinpoints": [[32, 64]]}, r"\[\[32, 64\]\].*transpose"),
        ({"image_grid_pinpoints": [[32, 60], [60, 32]]}, "multiples of 32"),
        ({"image_grid_pinpoints": [[32, 32 * 99], [32 * 99, 32]]}, "up to 512"),
        ({"image_grid_pinpoints": []}, "image_grid_pinpoints"),
        ({"image_grid_pinpoints": "(1x1),...,(6x6)"}, "6x6"),
        ({"image_grid_pinpoints": [[64]]}, "image_grid_pinpoints"),
        ({"use_image_newline_parameter": False}, "use_image_newline_parameter=False"),
        ({"vision_feature_select_strategy": "full"}, "full"),
        ({"text_config": TINY["text_config"] | {"model_type": "mistral"}}, "mistral"),
        ({"model_type": "llava_onevision"}, "model_type='llava_onevision'.*llava_next"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        config.from_hf(TINY | change)


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="'openai'"):
        anyres.layout((3, 4), CFG, "openai")


@pytest.mark.parametrize("form", ["orbax", "safetensors"])
def test_the_newline_is_kept_by_every_form(tmp_path, form):
    params, hub, converted = testing.random_params(SMALL), tmp_path / "hub", tmp_path / "own"
    huggingface.save(hub, params, TINY, np.float32, keys=rules.LLAVA_NEXT)
    conversion.convert(hub, converted, np.float32, form)
    for folder in (hub, converted):
        assert checkpoint.read_config(folder) == SMALL
        loaded = checkpoint.load(folder, SMALL, np.float32)
        jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_a_newline_too_many_or_too_few_is_refused(tmp_path):
    without = config.from_hf(TINY | {"model_type": "llava"})
    huggingface.save(tmp_path, testing.random_params(SMALL), TINY, np.float32, rules.LLAVA_NEXT)
    with pytest.raises(rules.ConversionError, match="extra tensor image_newline"):
        huggingface.plan(tmp_path, without)
    huggingface.save(tmp_path, testing.random_params(without), TINY, np.float32)
    with pytest.raises(rules.ConversionError, match="missing tensor image_newline"):
        huggingface.plan(tmp_path, SMALL)
