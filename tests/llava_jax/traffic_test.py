"""Bytes that a pass moves, against the parameter tree and small counts by hand."""

import dataclasses
import math

from llava_jax import config, testing, traffic
from llava_jax.checkpoint import huggingface
from llava_jax.costs import Batch

CFG = config.from_hf(testing.tiny_config())
TEXT = CFG.text
BATCH = Batch(images=2, questions=3, prefix=11, suffix=5)


def weights(*parts):
    """Numbers in the matrices of the named parts of the parameter tree."""
    leaves = huggingface.flatten(huggingface.abstract(CFG)).items()
    return sum(
        math.prod(leaf.shape)
        for path, leaf in leaves
        if len(leaf.shape) > 1 and any(path.startswith(part) for part in parts)
    )


def of_weights(count):
    """What is left of a pass over G pictures when no picture is: it is linear in them."""
    assert count(3) - count(2) == count(2) - count(1) > 0
    return 2 * count(1) - count(2)


def images(g):
    return dataclasses.replace(BATCH, images=g)


def test_every_matrix_is_read_once_a_pass():
    tower = weights("vision/layers", "vision/embeddings/patch_embedding")
    assert of_weights(lambda g: traffic.encode_bytes(CFG.vision, g, 2, 4)) == 2 * tower
    assert of_weights(lambda g: traffic.project_bytes(CFG, g, 2)) == 2 * weights("projector")
    decoder = 2 * weights("text/layers")
    assert of_weights(lambda g: traffic.answer_bytes(TEXT, images(g), 2)) == decoder
    head = 2 * weights("text/lm_head")
    assert of_weights(lambda g: traffic.head_bytes(TEXT, g, 2)) == head
    assert of_weights(lambda g: traffic.step_bytes(TEXT, images(g), 2)) == decoder + head


def test_of_a_prefix_the_last_layer_computes_keys_and_values_only():
    read = weights("text/layers/0", "text/layers/1", "text/layers/2/k", "text/layers/2/v")
    assert of_weights(lambda g: traffic.extend_bytes(TEXT, images(g), 2)) == 2 * read


def test_layers_below_the_feature_layer_alone_are_read():
    read = weights("vision/layers/0", "vision/layers/1", "vision/layers/2")
    read += weights("vision/embeddings/patch_embedding")
    assert of_weights(lambda g: traffic.encode_bytes(CFG.vision, g, 2)) == 2 * read


def test_a_layer_by_hand():
    # Width 48, 4 heads of 12 over 2 key-value heads, 64 hidden units; 30 tokens, 22 + 30 places.
    matrices = 2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 64
    rows = 30 * (2 * (48 + 48) + 2 * (48 + 24) + 3 * (48 + 64))
    attention = 52 * 2 * 24 + 30 * 2 * 48
    scores = 16 * 4 * 30 * (11 + 5)
    assert traffic.block_bytes(TEXT, BATCH, 2) == 2 * (matrices + rows + attention) + scores


def test_of_the_last_layer_questions_need_their_last_token_only():
    last = traffic.answer_bytes(TEXT, BATCH, 2) - 2 * traffic.block_bytes(TEXT, BATCH, 2)
    matrices = 2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 64
    rows = 30 * 2 * (48 + 24) + 6 * (2 * (48 + 48) + 3 * (48 + 64))
    attention = 52 * 2 * 24 + 6 * 2 * 48
    assert last == 2 * (matrices + rows + attention) + 16 * 4 * 6 * (11 + 5)


def test_a_shared_prefix_is_read_once_a_picture():
    long, short = (dataclasses.replace(BATCH, prefix=p) for p in (111, 11))
    more = traffic.block_bytes(TEXT, long, 2) - traffic.block_bytes(TEXT, short, 2)
    scores = 16 * 4 * 30 * 100
    assert more == 2 * 100 * 2 * 24 * BATCH.images + scores


def test_a_cut_that_takes_nothing_out_moves_what_its_layers_do():
    picture, question = traffic.cut_bytes(TEXT, BATCH, (16,) * 3, 2, 2)
    seen, asked = Batch(2, 1, 11, 16), dataclasses.replace(BATCH, prefix=27)
    assert picture == 2 * traffic.block_bytes(TEXT, seen, 2)
    alone = Batch(6, 1, 11, 21)
    shared = 2 * traffic.block_bytes(TEXT, asked, 2)
    assert shared < question < shared + traffic.block_bytes(TEXT, alone, 2)
    half, longer = traffic.cut_bytes(TEXT, BATCH, (16,) * 3, 1, 2)
    assert 2 * half == picture
    assert longer - question == traffic.block_bytes(TEXT, alone, 2) - shared // 2
    fewer = traffic.cut_bytes(TEXT, BATCH, (16, 16, 4), 2, 2)
    assert fewer[0] == picture
    assert fewer[1] < question


def test_nothing_shared_reads_the_whole_model():
    everything = ("vision/layers", "vision/embeddings/patch", "projector", "text/layers")
    read = 2 * weights(*everything, "text/lm_head")
    few, some, many = (traffic.alone_bytes(CFG, (k,) * 3, 9, 2) for k in (2, 4, 6))
    assert read < few < some < many
    assert many - some > some - few, "attention grows faster than the tokens"
    seven = traffic.alone_bytes(config.llava_1_5_7b(), (64,) * 32, 63, 2)
    scores = 24 * 577**2 * 16 * 16
    assert 1 < seven / (13.9e9 + scores) < 1.12, "matrices, the tower's attention, and rows"
