"""Scorers on hand-made answers: odd texts, parts without rows, groups of other sizes."""

import pytest

from experiments.scoring import (
    Answer,
    evalai,
    gqa,
    mmbench,
    mme,
    pope,
    scienceqa,
    seed,
    textvqa,
)

BENCHMARKS = (pope, scienceqa, mme, mmbench, textvqa, seed, gqa)
SHAPES = ("red circle", "blue square", "green star", "grey line")


def answer(text, right, **known):
    return Answer(known.pop("key", "1"), text, right, known.pop("split", "test"), **known)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_nothing_answered_has_no_numbers(benchmark):
    assert benchmark.score([]) == {}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize(
    "text", ["", " ", "\n", ".", "?!", "...", "你好", "🐶", "Ⅻ", "\u2028", "{}"]
)
def test_odd_texts_are_wrong_and_scored(benchmark, text):
    right = "yes" if benchmark in (pope, mme) else "B"
    rows = [
        answer(text, right, key=key, group="1", options=SHAPES, references=("yes",) * 10)
        for key in ("1", "1000001")
    ]
    assert not any(map(benchmark.correct, rows))
    scores = benchmark.score(rows)
    assert scores
    assert all(0 <= value <= 200 for numbers in scores.values() for value in numbers.values())
    assert benchmark.CORRECT_BY in scores


@pytest.mark.parametrize(
    ("text", "llava", "lmms_eval", "vlmevalkit"),
    [
        ("Yes", "yes", "yes", "yes"),
        (" yes\n", "yes", "yes", "yes"),
        ("Yes, it is.", "yes", "yes, it is.", "yes"),
        ("yes.", "yes", "yes.", "yes"),
        ("No", "no", "no", "no"),
        ("NO", "yes", "no", "no"),
        ("no!", "yes", "no!", "no"),
        ("no\n", "yes", "no", "no"),
        ("No, there is not.", "no", "no, there is not.", "no"),
        ("It is not there", "no", "it is not there", "unknown"),
        ("Yes. No", "yes", "yes. no", "unknown"),
        ("Nope", "yes", "nope", "unknown"),
        ("", "yes", "", "unknown"),
        (".no", "yes", ".no", "no"),
        ("yes/no", "yes", "yes/no", "unknown"),
        ("3. " * 32 + "No.", "yes", "3. " * 32 + "no.", "no"),
    ],
)
def test_pope_readings(text, llava, lmms_eval, vlmevalkit):
    assert pope.llava_yes_no(text) == llava
    assert pope.lmms_eval_yes_no(text) == lmms_eval
    assert pope.vlmevalkit_yes_no(text) == vlmevalkit


def test_pope_counts():
    rows = [
        answer("Yes", "yes", split="random"),
        answer("Yes", "no", split="random"),
        answer("perhaps", "yes", split="popular"),
        answer("No", "no", split="popular"),
    ]
    got = pope.score(rows)
    assert got["llava"]["accuracy"] == 0.75
    assert got["llava"]["precision"] == pytest.approx(2 / 3)
    assert got["llava"]["yes_ratio"] == 0.75
    assert got["llava"]["mean_accuracy"] == 0.75
    assert got["llava"]["mean_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert got["llava"]["popular.yes_ratio"] == 0.5
    assert (got["lmms_eval"]["accuracy"], got["lmms_eval"]["recall"]) == (0.5, 1)
    assert (got["vlmevalkit"]["accuracy"], got["vlmevalkit"]["recall"]) == (50, 50)
    assert got["llava_jax"]["other_rate"] == 0.25
    assert not any(name.startswith("adversarial") for name in got["llava"])
    assert not any("yes_ratio" in name for name in got["lmms_eval"])


def test_pope_ratios_of_nothing_are_zero():
    got = pope.score([answer("No", "yes"), answer("No", "no")])
    for tool in ("llava", "lmms_eval", "vlmevalkit"):
        assert (got[tool]["precision"], got[tool]["recall"], got[tool]["f1"]) == (0, 0, 0)
    assert pope.score([answer("No", "no")])["lmms_eval"]["recall"] == 0


def test_pope_without_splits():
    got = pope.score([answer("No", "no", split="")])["llava"]
    assert set(got) == {"accuracy", "precision", "recall", "f1", "yes_ratio"}


@pytest.mark.parametrize(
    ("text", "letter", "matches"),
    [
        ("C", "C", True),
        (" C\n", "C", True),
        ("c", "", True),
        ("C.", "", True),
        ("c.", "", False),
        ("C. green star", "C", True),
        ("(C)", "", False),
        ("C)", "", False),
        ("CC", "", False),
        ("BC", "", False),
        ("C, D", "", False),
        ("The answer is C", "", False),
        ("The answer is C.", "C", False),
        ("The answer is Cats", "C", False),
        ("the answer is C.", "", False),
        ("The answer is C. The answer is C.", "", False),
        ("green star", "", False),
        ("E", "E", False),
        ("F", "", False),
        ("The answer is F.", "F", False),
        ("C.green", "", True),
        ("", "", False),
    ],
)
def test_scienceqa_letters(text, letter, matches):
    assert scienceqa.llava_letter(text) == letter
    assert scienceqa.lmms_eval_match(text, "C") == matches


def test_scienceqa_letters_that_are_no_option():
    assert scienceqa.llava_index("C", 3) == 2
    assert scienceqa.llava_index("C", 2) == scienceqa.FAILED
    assert scienceqa.llava_index("The answer is Z.", 5) == scienceqa.FAILED
    texts = ["A", "C", "D. grey line", "(D)", "A. red circle"]
    got = scienceqa.score([answer(text, "A", options=SHAPES[:2]) for text in texts])
    assert got["llava_jax"]["invalid_choice_rate"] == 0.4
    assert got["llava"]["accuracy"] == 40
    assert got["lmms_eval"]["exact_match"] == 0.4


@pytest.mark.parametrize(
    ("text", "official", "lmms_eval", "vlmevalkit"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("Yes, it is.", "yes", "yes", "yes"),
        ("y", "other", "yes", "unknown"),
        ("N.", "other", "no", "unknown"),
        ("eyes", "yes", "yes", "unknown"),
        ("nowhere", "no", "no", "unknown"),
        ("not sure", "no", "no", "unknown"),
        ("I think yes", "other", "other", "yes"),
        ("  yes", "other", "yes", "yes"),
        ("y.e.s.", "other", "yes", "yes"),
        ("x", "other", "other", "unknown"),
        ("no yes", "no", "no", "unknown"),
        ("noyes", "no", "no", "unknown"),
        ("", "other", "other", "unknown"),
    ],
)
def test_mme_readings(text, official, lmms_eval, vlmevalkit):
    assert mme.official_yes_no(text) == official
    assert mme.lmms_eval_yes_no(text) == lmms_eval
    assert mme.vlmevalkit_yes_no(text) == vlmevalkit


def pair(subtask, picture, first="Yes", second="No"):
    return [
        answer(first, "yes", split=subtask, group=picture),
        answer(second, "no", split=subtask, group=picture),
    ]


def test_mme_pairs():
    rows = pair("count", "1") + pair("count", "2", second="Yes") + pair("code_reasoning", "3")
    got = mme.score(rows)
    assert got["official"] == {
        "perception": 125,
        "cognition": 200,
        "total": 325,
        "count.acc": 75,
        "count.acc_plus": 50,
        "count.score": 125,
        "code_reasoning.acc": 100,
        "code_reasoning.acc_plus": 100,
        "code_reasoning.score": 200,
    }
    assert got["vlmevalkit"]["reasoning"] == got["lmms_eval"]["cognition"] == 200
    assert "total" not in got["lmms_eval"]


def test_mme_subtasks_that_are_not_there():
    got = mme.score(pair("count", "1") + pair("riddles", "2"))
    assert got["official"]["perception"] == 200
    assert got["official"]["riddles.score"] == 200
    assert not {"cognition", "total"} & set(got["official"])
    assert "reasoning" not in got["vlmevalkit"]
    thinking = mme.score(pair("code_reasoning", "1"))
    assert thinking["official"]["cognition"] == 200
    assert not {"perception", "total"} & set(thinking["official"])


def test_mme_counts_complete_pairs_only():
    whole, half = pair("count", "1"), pair("count", "2", first="No")[:1]
    triple = pair("color", "3") + pair("color", "3")[:1]
    same_name = pair("scene", "1", first="No")
    got = mme.score(whole + half + triple + same_name)
    assert got["official"]["count.score"] == 200
    assert got["official"]["scene.score"] == 50
    assert "color.score" not in got["official"]
    assert got["llava_jax"]["unpaired"] == 4
    assert mme.score(half) == {
        "official": {},
        "lmms_eval": {},
        "vlmevalkit": {},
        "llava_jax": {"unpaired": 1},
    }


@pytest.mark.parametrize(
    ("text", "lmms_eval", "vlmevalkit"),
    [
        ("B", "B", "B"),
        ("B.", "B", "B"),
        ("(B)", "B", "B"),
        ("(B).", "B", "B"),
        ("B).", "B", "B"),
        ("B: C", "C", ""),
        (":B", "B", "B"),
        ("Answer:B", "", "B"),
        ("[B]", "", "B"),
        ("b", "", ""),
        ("b.", "", ""),
        ("A B", "", ""),
        ("A. B", "B", ""),
        ("B or (C)", "B", ""),
        ("BC", "", ""),
        ("The answer is B", "B", "B"),
        ("The answer is A", "", "A"),
        ("It is A", "A", "A"),
        ("A red thing there", "", "A"),
        ("A red circle over there", "A", "A"),
        ("B is what I take", "B", ""),
        ("So B is it then", "B", "B"),
        ("B is what I would choose, as the answer is B", "B", "B"),
        ("the answer is clear", "", "C"),
        ("the answer is **D** of course, as everybody can see", "", "D"),
        ("E", "E", ""),
        ("Z", "", "Z"),
        ("A, B or Z", "B", ""),
        ("Z is a red circle", "A", "Z"),
        ("red circle", "A", "A"),
        ("A RED CIRCLE", "A", "A"),
        ("red circle or green star", "", ""),
        ("red circle" + " and so on" * 9, "A", ""),
        ("", "", ""),
    ],
)
def test_mmbench_letters(text, lmms_eval, vlmevalkit):
    assert mmbench.lmms_eval_letter(text, SHAPES) == lmms_eval
    assert mmbench.vlmevalkit_letter(text, SHAPES) == vlmevalkit


def test_mmbench_letters_that_are_not_offered():
    assert mmbench.lmms_eval_letter("D", SHAPES[:2]) == "D"
    assert mmbench.vlmevalkit_letter("D", SHAPES[:2]) == ""
    assert mmbench.lmms_eval_letter("B D", SHAPES[:2]) == ""
    assert mmbench.vlmevalkit_letter("B D", SHAPES[:2]) == "B"
    assert mmbench.vlmevalkit_letter("The answer is D", SHAPES[:2]) == ""


def test_mmbench_options_are_found_in_any_case():
    assert mmbench.lmms_eval_letter("a RED circle", ("Blue", "Red Circle")) == "B"
    assert mmbench.vlmevalkit_letter("a RED circle", ("Blue", "Red Circle")) == "B"


def rotation(base, k, text, right, **known):
    known = {"split": "perception", "category": "shape"} | known
    return answer(
        text, right, key=f"dev/{base + k * 1_000_000}", group=str(base), options=SHAPES, **known
    )


def test_mmbench_circular_needs_every_rotation():
    rows = [
        rotation(7, 1, "B", "B"),
        rotation(7, 0, "A", "A"),
        rotation(8, 0, "A", "A", category="place"),
        rotation(8, 1, "A", "B", category="place"),
        rotation(9, 0, "The answer is A", "A"),
    ]
    got = mmbench.score(rows)
    assert mmbench.circular_hits(rows) == {"7": True, "8": False, "9": False}
    assert got["lmms_eval"] == {
        "circular": pytest.approx(1 / 3),
        "shape.circular": 0.5,
        "place.circular": 0,
        "perception.circular": pytest.approx(1 / 3),
        "vanilla": pytest.approx(2 / 3),
        "vanilla_all_rows": 0.6,
    }
    assert got["vlmevalkit"] == {"circular": pytest.approx(2 / 3)}
    assert got["llava_jax"] == {"rotations.1": 1, "rotations.2": 2}


def test_mmbench_without_rotations():
    got = mmbench.score([rotation(7, 0, "A", "A"), rotation(8, 0, "B", "A")])
    assert got["lmms_eval"] == {"vanilla": 0.5, "vanilla_all_rows": 0.5}
    assert got["vlmevalkit"] == {}
    assert got["llava_jax"] == {"rotations.1": 2}


def test_mmbench_without_unrotated_rows():
    got = mmbench.score([rotation(7, 1, "A", "A"), rotation(7, 2, "A", "A")])
    assert got["lmms_eval"]["circular"] == 1
    assert "vanilla" not in got["lmms_eval"]


@pytest.mark.parametrize(
    ("text", "evalai_form", "vlmevalkit_form"),
    [
        ("", "", ""),
        ("?!,.", "", ""),
        ("The", "", ""),
        ("Ten  o'clock", "10 o'clock", "10 o'clock"),
        ("couldntve", "couldntve", "couldntve"),
        ("couldnt've", "couldn't've", "couldn't've"),
        ("couldn'tve", "couldn't've", "couldn't've"),
        ("y'all'dve", "y'all'd've", "y'all'd've"),
        ("somebody'd", "somebodyd", "somebodyd"),
        ("Im Ive", "im ive", "im ive"),
        ("lets", "lets", "lets"),
        ("what?", "what", "what"),
        ("1,000-2", "1000 2", "10002"),
        ("a-b -c", "ab c", "ab c"),
        ("x;y", "x y", "x y"),
        ("x; y", "x y", "x y"),
        ("2.5.", "2.5", "2.5."),
        ("v.2", "v.2", "v.2"),
        ("." * 40, "." * 8, "." * 8),
        ("NONE\tof\nthem", "0 of them", "0 of them"),
    ],
)
def test_evalai_forms(text, evalai_form, vlmevalkit_form):
    assert evalai.evalai_form(text) == evalai_form
    assert evalai.vlmevalkit_form(text) == vlmevalkit_form


@pytest.mark.parametrize(
    ("agreeing", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (5, 1), (10, 1)]
)
def test_soft_score_of_ten_people(agreeing, score):
    people = ["Stop."] * agreeing + ["go"] * (10 - agreeing)
    row = answer("the stop", "", references=tuple(people))
    assert textvqa.llava_score(row.text, row.references) == pytest.approx(score)
    assert textvqa.vlmevalkit_score(row.text, row.references) == pytest.approx(score)
    assert textvqa.correct(row) == (agreeing >= 2)
    got = textvqa.score([row])
    assert got["llava"]["accuracy"] == pytest.approx(100 * score)
    assert got["lmms_eval"]["exact_match"] == pytest.approx(score)


def test_soft_score_without_people():
    assert evalai.soft_score("", ()) == 0


@pytest.mark.parametrize(
    ("text", "llava", "lmms_eval"),
    [
        ("C", True, "C"),
        (" C\n", True, "C"),
        ("c", False, "c"),
        ("C.", False, "C"),
        ("(C)", False, "("),
        ("CD", False, "C"),
        ("The answer is C", False, "T"),
        ("green star", False, "g"),
        ("Cats", False, "C"),
        ("", False, ""),
    ],
)
def test_seed_letters(text, llava, lmms_eval):
    assert seed.llava_match(text, "C") == llava
    assert seed.lmms_eval_letter(text) == lmms_eval
    assert seed.correct(answer(text, "C")) == (lmms_eval in ("c", "C"))


def test_seed_parts():
    rows = [
        answer("A", "A", split="image", category="Place"),
        answer("a", "A", split="image", category="Place"),
        answer("B", "A", split="video", category="Action"),
    ]
    got = seed.score(rows)
    assert got["llava"] == {
        "image": 50,
        "video": 0,
        "all": pytest.approx(100 / 3),
        "image.n": 2,
        "video.n": 1,
        "Place.accuracy": 50,
        "Action.accuracy": 0,
    }
    assert got["lmms_eval"] == {
        "seed_image": 1,
        "seed_video": 0,
        "seed_all": pytest.approx(2 / 3),
    }
    images = seed.score(rows[:2])
    assert not any("video" in name for numbers in images.values() for name in numbers)
    assert images["lmms_eval"] == {"seed_image": 1, "seed_all": 1}


@pytest.mark.parametrize(
    ("text", "right", "llava", "lmms_eval", "vlmevalkit"),
    [
        ("Yes", "yes", True, True, True),
        ("Yes, it is.", "yes", False, False, False),
        ("yes..", "yes", True, True, False),
        ("yes!", "yes", False, True, False),
        ("yes .", "yes", False, False, False),
        (" YES ", "yes", True, True, True),
        ("tshirt", "t-shirt", False, True, False),
        ("t-shirt", "t-shirt", True, True, True),
        ("t shirt", "t-shirt", False, False, False),
        ("CAFÉ", "café", True, True, True),
        ("cafe", "café", False, False, False),
        ("yes", "Yes", False, True, True),
        ("yes", "no", False, False, False),
        ("", "", True, True, True),
        ("!", "", False, True, False),
    ],
)
def test_gqa_matches(text, right, llava, lmms_eval, vlmevalkit):
    row = answer(text, "", references=(right,))
    got = gqa.score([row])
    assert got["llava"]["accuracy"] == 100 * llava
    assert got["lmms_eval"]["exact_match"] == lmms_eval == gqa.correct(row)
    assert got["vlmevalkit"]["accuracy"] == 100 * vlmevalkit


def test_gqa_without_a_right_answer():
    row = answer("yes", "", references=())
    assert not gqa.correct(row)
    assert gqa.score([row])["llava"]["accuracy"] == 0


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_scores_do_not_depend_on_the_order(benchmark):
    texts = ("Yes", "No", "A", "B. blue square", "y", "", "no.")
    rows = [
        answer(
            text,
            "yes" if benchmark in (pope, mme) else "A",
            key=str(number),
            split=("image", "count")[number // 4],
            group=str(number // 4),
            options=SHAPES,
            references=("yes",) * 6 + ("no",) * 4,
        )
        for number, text in enumerate(texts)
    ]
    assert benchmark.score(rows) == benchmark.score(rows[::-1])
