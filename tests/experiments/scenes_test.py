import hashlib
import itertools

import numpy as np
import pytest

from experiments import scenes
from experiments.scenes import drawing, questions, worlds

# of scenes 0, 1 and 2 of the test world; a change needs a new VERSION and a new model
DIGEST = "950ff679844346bbab855925b7e01094d103307ade6f11d026848d8846444d75"
PICTURES = range(40)


@pytest.fixture(scope="module")
def test_world():
    return scenes.world("test")


def test_pixels_are_the_recorded_ones(test_world):
    images = [scenes.scene(test_world, i).image for i in range(3)]
    assert hashlib.sha256(np.stack(images).tobytes()).hexdigest() == DIGEST
    assert scenes.VERSION == "scenes-1"


def test_a_scene_is_a_function_of_world_and_index(test_world):
    once, again = scenes.scene(test_world, 5), scenes.scene(test_world, 5)
    assert once.id == again.id == "test-00005"
    np.testing.assert_array_equal(once.image, again.image)
    np.testing.assert_array_equal(once.labels, again.labels)
    assert once.objects == again.objects
    assert once.image.shape == (192, 192, 3)
    assert once.image.dtype == np.uint8


def test_worlds_share_no_scene():
    opened = [scenes.world(name) for name in ("train", "validation", "test")]
    assert len({world.seed for world in opened}) == 3
    plans = [scenes.layout(world, i).placements for world in opened for i in range(20)]
    assert len(set(plans)) == len(plans)


def test_unknown_names_are_refused(test_world):
    with pytest.raises(ValueError, match="'tset'; the worlds are train, validation, test"):
        scenes.world("tset")
    with pytest.raises(ValueError, match="'rare'; the splits are random"):
        questions.negatives(test_world, 0, "rare", np.random.default_rng(0))


def test_every_category_has_its_own_surface():
    assert len(set(scenes.NAMES)) == len(scenes.NAMES) == 40
    assert len({(kind.texture, kind.trim) for kind in scenes.CATEGORIES}) == 40
    assert all(sum(kind.scene == s for kind in scenes.CATEGORIES) == 5 for s in range(8))
    assert all(drawing.stencil(i).mean() > 0.2 for i in range(40))


@pytest.mark.parametrize("index", range(6))
def test_labels_boxes_and_visibility_agree(test_world, index):
    scene = scenes.scene(test_world, index)
    plan = scenes.layout(test_world, index)
    owner = worlds.cover(plan.placements).owner
    for i, thing in enumerate(scene.objects):
        rows, columns = np.nonzero(owner == i)
        left, top, right, bottom = thing.box
        if rows.size:
            assert (top, bottom) == (rows.min(), rows.max() + 1)
            assert (left, right) == (columns.min(), columns.max() + 1)
        assert 0 <= thing.visible <= 1
    named = {scenes.NAMES[i] for i in np.unique(scene.labels) if i >= 0}
    assert named <= {thing.category for thing in scene.objects}
    np.testing.assert_array_equal(scene.labels < 0, scene.colours < 0)


def test_presence_rule(test_world):
    for index in PICTURES:
        plan = scenes.layout(test_world, index)
        best = dict.fromkeys(range(40), 0.0)
        shares = worlds.cover(plan.placements).visible
        for placement, share in zip(plan.placements, shares, strict=True):
            best[placement.category] = max(best[placement.category], share)
        assert set(plan.present) == {i for i, share in best.items() if share >= 0.4}
        assert set(plan.absent) == {i for i, share in best.items() if share == 0}
        assert len(plan.present) >= 3


def test_front_objects_hide_those_behind():
    place = drawing.Placement(0, 0, 96.0, 96.0, 40.0, 1.0, 0.0, 1, 0.0, 1.0, 1.0)
    assert worlds.cover((place,)).visible == (1.0,)
    assert worlds.cover((place, place)).visible == (0.0, 1.0)


def test_protocol_of_pope(test_world):
    for index in PICTURES:
        rows = scenes.pope_questions(test_world, index)
        plan = scenes.layout(test_world, index)
        assert [row[0] for row in rows] == [s for s in scenes.SPLITS for _ in range(6)]
        assert [row[2] for row in rows] == ["yes", "no"] * 9
        splits = [rows[i : i + 6] for i in (0, 6, 12)]
        positives = [[row[3] for row in split[0::2]] for split in splits]
        assert positives[0] == positives[1] == positives[2]
        assert {scenes.NAMES.index(name) for name in positives[0]} <= set(plan.present)
        for split in splits:
            asked = [scenes.NAMES.index(row[3]) for row in split[1::2]]
            assert len(set(asked)) == 3
            assert set(asked) <= set(plan.absent)
        assert all(text == scenes.question(name) for _, text, _, name in rows)


def test_wording():
    assert scenes.question("star") == "Is there a star in the image?"
    assert scenes.question("umbrella") == "Is there an umbrella in the image?"


def test_popular_and_adversarial_follow_the_train_world(test_world):
    counts = questions.company()
    np.testing.assert_array_equal(counts, counts.T)
    for index in range(10):
        plan = scenes.layout(test_world, index)
        rows = scenes.pope_questions(test_world, index)
        popular = [scenes.NAMES.index(row[3]) for row in rows[6:12] if row[2] == "no"]
        company = [scenes.NAMES.index(row[3]) for row in rows[12:] if row[2] == "no"]
        together = counts[list(plan.present)].sum(0)
        for chosen, score in ((popular, counts.diagonal()), (company, together)):
            rest = set(plan.absent) - set(chosen)
            assert min(score[i] for i in chosen) >= max(score[i] for i in rest)


def test_company_is_stronger_at_home():
    counts = questions.company() / questions.company().diagonal()[:, None]
    pairs = list(itertools.permutations(range(40), 2))
    same = [counts[a, b] for a, b in pairs if a // 5 == b // 5]
    other = [counts[a, b] for a, b in pairs if a // 5 != b // 5]
    assert np.mean(same) > 2 * np.mean(other)
