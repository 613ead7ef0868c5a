"""Few shapes for many lengths."""

import pytest

from experiments.harness import batching


@pytest.mark.parametrize(
    ("count", "questions", "tokens"),
    [
        (1, 1, 4),
        (2, 2, 4),
        (3, 4, 4),
        (5, 8, 8),
        (9, 12, 12),
        (24, 24, 24),
        (33, 36, 40),
        (65, 72, 80),
        (130, 144, 160),
    ],
)
def test_buckets(count, questions, tokens):
    assert batching.padded(count, count) == (questions, tokens)


def test_padding_is_bounded_and_shapes_are_few():
    counts = range(1, 700)
    found = [batching.padded(count, count) for count in counts]
    for count, (questions, tokens) in zip(counts, found, strict=True):
        assert count <= questions < count + max(4, count / 8 + 1)
        assert count <= tokens < count + max(4, count / 4 + 1)
    assert len({tokens for _, tokens in found}) <= 26
    assert sorted(found) == found
