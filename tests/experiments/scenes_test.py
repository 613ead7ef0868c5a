import hashlib
import itertools

import numpy as np
import pytest

from experiments import scenes
from experiments.scenes import drawing, signs, worlds
from experiments.scenes.__main__ import sheet
from experiments.scenes.questions import base, mmbench, mme, pope, scienceqa, seed, textvqa

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
        pope.negatives(test_world, 0, "rare", np.random.default_rng(0))


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
        rows = pope.questions(test_world, index)
        plan = scenes.layout(test_world, index)
        numbers = [str(6 * index + i + 1) for i in range(6)]
        assert [row.key for row in rows] == [f"{s}/{n}" for s in scenes.SPLITS for n in numbers]
        assert [row.part for row in rows] == [s for s in scenes.SPLITS for _ in range(6)]
        assert [row.answer for row in rows] == ["yes", "no"] * 9
        splits = [rows[i : i + 6] for i in (0, 6, 12)]
        positives = [[row.subject for row in split[0::2]] for split in splits]
        assert positives[0] == positives[1] == positives[2]
        assert {scenes.NAMES.index(name) for name in positives[0]} <= set(plan.present)
        for split in splits:
            asked = [scenes.NAMES.index(row.subject) for row in split[1::2]]
            assert len(set(asked)) == 3
            assert set(asked) <= set(plan.absent)


def test_popular_and_adversarial_follow_the_train_world(test_world):
    counts = pope.company()
    np.testing.assert_array_equal(counts, counts.T)
    for index in range(10):
        plan = scenes.layout(test_world, index)
        rows = pope.questions(test_world, index)
        popular = [scenes.NAMES.index(row.subject) for row in rows[6:12] if row.answer == "no"]
        company = [scenes.NAMES.index(row.subject) for row in rows[12:] if row.answer == "no"]
        together = counts[list(plan.present)].sum(0)
        for chosen, score in ((popular, counts.diagonal()), (company, together)):
            rest = set(plan.absent) - set(chosen)
            assert min(score[i] for i in chosen) >= max(score[i] for i in rest)


def test_company_is_stronger_at_home():
    counts = pope.company() / pope.company().diagonal()[:, None]
    pairs = list(itertools.permutations(range(40), 2))
    same = [counts[a, b] for a, b in pairs if a // 5 == b // 5]
    other = [counts[a, b] for a, b in pairs if a // 5 != b // 5]
    assert np.mean(same) > 2 * np.mean(other)


_IN = "Which of these is in the image?"


@pytest.mark.parametrize(
    ("aspect", "subject", "answer", "text", "whether"),
    [
        ("object", "star", "star", _IN, "Is there a star in the image?"),
        ("object", "umbrella", "umbrella", _IN, "Is there an umbrella in the image?"),
        (
            "color",
            "car",
            "orange",
            "What color is the car?",
            "Is there an orange car in the image?",
        ),
        (
            "count",
            "key",
            "two",
            "How many key objects are in the image?",
            "Are there exactly two key objects in the image?",
        ),
        (
            "count",
            "key",
            "one",
            "How many key objects are in the image?",
            "Is there exactly one key object in the image?",
        ),
        (
            "side",
            "cup",
            "left",
            "On which side of the image is the cup?",
            "Is the cup on the left side of the image?",
        ),
        (
            "place",
            "cup",
            "top left",
            "Where in the image is the cup?",
            "Is the cup at the top left of the image?",
        ),
        ("scene", "", "garden", "What kind of scene is this?", "Is this a garden scene?"),
    ],
)
def test_wording(aspect, subject, answer, text, whether):
    fact = scenes.Fact(aspect, subject, answer, ())
    assert fact.ask() == text
    assert fact.ask_whether(answer) == whether


def test_facts_hold(test_world):
    for index in PICTURES:
        scene, plan = scenes.scene(test_world, index), scenes.layout(test_world, index)
        spots = {scenes.NAMES[spot.category]: spot for spot in plan.placements}
        for fact in scenes.facts(test_world, index):
            seen = [t for t in scene.objects if t.category == fact.subject and t.visible >= 0.4]
            assert fact.answer not in fact.wrong
            if fact.aspect == "object":
                assert seen
                assert not {t.category for t in scene.objects if t.visible > 0} & set(fact.wrong)
            if fact.aspect == "count":
                assert len(seen) == 1 + scenes.NUMBERS.index(fact.answer)
            if fact.aspect == "color":
                assert [t.colour for t in seen] == [fact.answer]
            if fact.aspect == "side":
                assert (seen[0].box[0] + seen[0].box[2] < 192) == (fact.answer == "left")
            if fact.aspect == "place":
                spot, (down, across) = spots[fact.subject], fact.answer.split()
                assert len(seen) == 1
                assert (spot.y < 96, spot.x < 96) == (down == "top", across == "left")
            if fact.aspect == "scene":
                assert scenes.SCENE_TYPES[plan.kind] == fact.answer


def test_facts_are_drawn_by_answer_first():
    rng = np.random.default_rng(0)
    found = [scenes.Fact("count", name, "one", ()) for name in "abcdefgh"]
    found.append(scenes.Fact("count", "i", "two", ()))
    drawn = [scenes.pick(found, "count", rng).answer for _ in range(400)]
    assert 150 < drawn.count("two") < 250
    assert scenes.pick(found, "color", rng) is None
    with pytest.raises(ValueError, match=r"no fact is about color, side; those are about \['count"):
        scenes.draw(found, ("color", "side"), rng)


@pytest.mark.parametrize("name", list(scenes.MINIATURES))
def test_miniatures_are_deterministic_and_their_keys_unique(name, test_world):
    ask = scenes.MINIATURES[name].questions
    rows = [row for index in PICTURES for row in ask(test_world, index)]
    assert rows == [row for index in PICTURES for row in ask(test_world, index)]
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        if row.options:
            assert row.answer in base.LETTERS[: len(row.options)]
            assert len(set(row.options)) == len(row.options) <= 5


def test_lettered_questions_have_one_right_option(test_world):
    rng = np.random.default_rng(0)
    for index in PICTURES:
        for fact in scenes.facts(test_world, index):
            row = base.lettered("", "", fact, 5, rng)
            assert row.options[base.LETTERS.index(row.answer)] == fact.answer
            assert set(row.options) - {fact.answer} <= set(fact.wrong)
            assert len(row.options) == min(5, 1 + len(fact.wrong))


def test_options_and_letters_are_spread(test_world):
    rows = [scienceqa.questions(test_world, index)[0] for index in range(300)]
    assert {len(row.options) for row in rows} == {2, 3, 4, 5}
    assert {row.answer for row in rows} == set(base.LETTERS)
    assert {row.part for row in rows} == set(scenes.ASPECTS)


def test_pairs_of_mme(test_world):
    rows = [row for index in PICTURES for row in mme.questions(test_world, index)]
    assert {row.part for row in rows} == set(mme.CATEGORIES)
    assert [row.answer for row in rows] == ["yes", "no"] * (len(rows) // 2)
    assert all(a.part == b.part for a, b in zip(rows[0::2], rows[1::2], strict=True))


def test_rotations_of_mmbench():
    question = scenes.Question("7", "x", "", "Which?", ("a", "b", "c"), "B")
    rows = mmbench.rotations(question)
    assert [row.key for row in rows] == ["7", "1000007", "2000007"]
    assert [row.options for row in rows] == [("a", "b", "c"), ("c", "a", "b"), ("b", "c", "a")]
    assert [row.answer for row in rows] == ["B", "C", "A"]


def test_seed_has_four_options(test_world):
    rows = [row for index in PICTURES for row in seed.questions(test_world, index)]
    assert {row.part for row in rows} == set(seed.TYPES)
    assert all(len(row.options) == 4 for row in rows)


def test_signs_show_their_word(test_world):
    scene, hung = scenes.scene(test_world, 3), scenes.sign(test_world, 3)
    picture = scenes.with_sign(scene.image, hung)
    drawn = signs.plate(hung.word)
    height, width = drawn.shape
    window = picture[hung.top : hung.top + height, hung.left : hung.left + width]
    np.testing.assert_array_equal(window, np.repeat(drawn[..., None], 3, axis=2))
    assert (picture != scene.image).any(-1).sum() <= drawn.size
    assert textvqa.questions(test_world, 3)[0].answer == hung.word.lower()
    assert len({signs.plate(word).tobytes() for word in signs.WORDS}) == len(signs.WORDS)


def test_sheet_of_scenes():
    picture = sheet(0, 2, 3)
    assert picture.shape == (2 * 192 + 6, 3 * 192 + 12, 3)
    first = scenes.scene(scenes.world("validation"), 0).image
    np.testing.assert_array_equal(picture[:192, :192], first)
