"""The HTML report of made-up runs: its structure, its numbers, and that no text becomes markup."""

import base64
import hashlib
import html.parser
import io
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import calibration
from experiments import catalogue, pope, showing
from experiments.harness import questions, records, shards
from experiments.harness.benchmark import Request
from experiments.reporting import page, runs
from experiments.reporting.page import escaping, examples, naming, overlays, pictures
from llava_jax import atomic

SIDE = 4
TOKENS = SIDE * SIDE
PICTURES, ROWS_PER_PICTURE = 10, 6
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\" onmouseover='alert(1)' \u202etxt.exe\u2028\x1b[2J",
    "]]><!-- <svg onload=alert(1)> &lt;b&gt;",
    "long " * 2000,
)
DATA = "5" * 64
FLOAT32 = 1e-6  # a sum over the rows in another order


def masses(margin):
    """Return the log masses of yes and no for margins float[E]."""
    return -np.logaddexp(0, np.stack([-margin, margin], axis=1)).astype(np.float32)


def write(out, name, asked, margin, masks, *, data=DATA, route="first_token", **setting):
    """Write a finished setting about some questions, as the harness does."""
    folder = out / name
    folder.mkdir(parents=True)
    own = {"pruner": name, "budget": 8, "seed": None, "order": "raster"} | setting
    identity = {"benchmark": "pope", "dtype": "float32", "setting": own}
    identity |= {"confidence": {"route": route}, "data": {"sha256": data}}
    atomic.write(folder / records.RUN, {"identity": identity, "setting": own})
    (folder / "flags.txt").write_text("--model=pocket\n--data=scenes\n--limit=3\n")
    writer = shards.Shard(folder)
    writer.append(
        records.Record(
            key=question.key,
            image=question.image,
            split=question.split,
            label=0 if question.right == "yes" else 1,
            log_masses=tuple(map(float, pair)),
            answer_log_mass=-0.001,
            token=7,
            text=None if route == "first_token" else HOSTILE[0] if pair[0] < pair[1] else "Yes",
            budget=own["budget"],
            kept=overlays.packed(mask),
            run="0" * 16,
            text_log_probs=None if route == "first_token" else (float(pair.max()), -0.5),
        )
        for question, pair, mask in zip(asked, masses(margin), masks, strict=True)
    )
    writer.close()
    (folder / records.SEALED).write_text("{}")


def question(number):
    """Return a question; the first ones and their names are hostile, the last one comes twice."""
    asked = min(number, PICTURES * ROWS_PER_PICTURE - 2)
    text = HOSTILE[number] if number < len(HOSTILE) else f"Is there a cat {asked}?"
    return questions.Question(
        key=f"{text[:60]}/{number}",
        image=f"{number // ROWS_PER_PICTURE}<b>.png",
        text=f"{text}\nAnswer yes or no.",
        split=pope.SPLITS[number % 3],
        category="",
        group="",
        choices=("Yes", "No</script>" if number == 3 else "No"),
        right="yes" if number % 2 else "no",
        options=(),
        references=(),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Full tokens, a nested method with three budgets, and one with two seeds."""
    out = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    asked = [question(number) for number in range(PICTURES * ROWS_PER_PICTURE)]
    questions.write(out, DATA, asked)
    side = np.where([one.right == "yes" for one in asked], 1, -1)
    full = side * (1 + rng.normal(size=side.size))
    full[:3] = full[3]  # equal margins
    write(out, "none", asked, full, np.ones((side.size, TOKENS), bool), budget=TOKENS)
    orders = np.stack([rng.permutation(TOKENS) for _ in asked])
    for budget in (2, 4, 8):
        moved = full + rng.normal(size=side.size) * 4 / budget
        moved[5] = 0  # a confidence on the edge of two bins
        own = {"pruner": "scope", "budget": budget, "alpha": 0.5}
        write(out, f"scope_k{budget}", asked, moved, orders < budget, **own)
    for seed in (0, 1):
        drawn = full + rng.normal(size=side.size)
        write(out, f"random_{seed}", asked, drawn, orders < 4, pruner="random", budget=4, seed=seed)
    return out


@pytest.fixture(scope="module")
def run(folder):
    return runs.load(folder, catalogue.get)


def picture(image):
    """Return a picture of one colour, none for the last."""
    number = int(image.partition("<")[0])
    return None if number == PICTURES - 1 else Image.new("RGB", (64, 64), (20 * number, 90, 90))


@pytest.fixture(scope="module")
def section(run):
    return page.section(run, picture, count=60, notes=["<i>a note</i>"])


@pytest.fixture(scope="module")
def text(section, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "new" / "report.html"
    extra = page.Table("Claims <b>", ("claim", "held"), (("a & b", "yes\n[<1, 2]"),), "note <i>")
    page.write(path, [section], tables=[extra])
    return path.read_text("utf-8")


class Parsed(html.parser.HTMLParser):
    """What a browser sees: elements with attributes, and text by the element it is in."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "rect", "path", "circle", "image", "use", "polyline"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def of(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]

    def inside(self, tag):
        return [data for where, data in self.texts if where == tag]


@pytest.fixture(scope="module")
def parsed(text):
    return Parsed(text)


def test_elements_are_those_of_the_page_and_load_nothing(parsed):
    assert [a.get("type") for a in parsed.of("script")] == ["application/json", None]
    assert len(parsed.of("style")) == 1
    assert not parsed.of("img", "iframe", "link", "object", "b>", "base", "form", "i")
    for _, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("href", "src", "xlink:href"):
            assert re.match(r"#|data:image/(jpeg|png);base64,", attributes.get(name, "#"))


def test_every_reference_has_its_element_and_ids_are_unique(parsed):
    names = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(names) == len(set(names))
    links = [a["href"] for _, a in parsed.elements if a.get("href", "").startswith("#")]
    assert {link[1:] for link in links} <= set(names)


def test_questions_are_shown_letter_by_letter(parsed, section):
    shown = parsed.inside("p")
    for hostile in HOSTILE[:2]:
        assert f"{hostile}\nAnswer yes or no." in shown
    (turned,) = (data for data in shown if "onmouseover" in data)
    assert r"\u202etxt.exe\u2028\x1b[2J" in turned
    assert any(
        data.startswith("long long") and data.endswith(" more characters)") for data in shown
    )
    assert "<i>a note</i>" in shown
    assert "note <i>" in shown
    assert {"a & b", "yes", "[<1, 2]"} <= {data for _, data in parsed.texts}
    keys = {example.key for example in section.examples}
    assert any("</script>" in key for key in keys)
    assert {escaping.short(key) for key in keys} <= set(parsed.inside("a"))


def test_only_the_page_s_own_style_and_script_may_run(parsed):
    (policy,) = (a["content"] for a in parsed.of("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    script = parsed.inside("script")[-1]
    for kind, content in (("style", parsed.inside("style")[0]), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch("):
        assert word not in script


def test_json_in_the_page_ends_no_element_and_is_what_it_was():
    value = {"a": "</script><!-- &amp; \u2028é", "b": [1, None]}
    text = escaping.json_text(value)
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == value


def test_the_scripts_get_the_run_s_numbers(parsed, run):
    found = json.loads(parsed.inside("script")[0])
    names = [one["label"] for one in found["settings"]]
    assert names == [
        "full tokens",
        *(f"random, seed {seed}, K = 4" for seed in (0, 1)),
        *(f"scope, K = {k}" for k in (2, 4, 8)),
    ]
    (scope,) = run.find(pruner="scope", budget=2)
    margin = np.frombuffer(base64.b64decode(found["settings"][3]["margin"]), "<f4")
    correct = records.unpack_mask(found["settings"][3]["correct"], run.num_rows)
    np.testing.assert_array_equal(margin, scope.top.margin)
    np.testing.assert_array_equal(correct, scope.top.correct)
    images = np.frombuffer(base64.b64decode(found["images"]), "<u4")
    np.testing.assert_array_equal(images, run.full.rows.image)
    assert [m["name"] for m in found["methods"]] == [f"random, seed {s}" for s in (0, 1)] + [
        "scope"
    ]
    for example in found["examples"]:
        key = run.full.rows.key[example["row"]]
        for place, setting in ((0, run.full), (3, scope)):
            record = setting.records[key]
            odds = np.exp(record.log_masses[0] - record.log_masses[1])
            assert example["parts"][place][0] == pytest.approx(1000 * odds / (1 + odds), abs=0.51)
            assert found["masks"][example["masks"][place]] == record.kept


def test_what_pruning_flipped_is_listed_first_then_what_it_moved_most(section, run):
    full, *others = run.settings
    flips = np.any([s.top.correct != full.top.correct for s in others], axis=0)
    rows = [example.row for example in section.examples]
    flips[[row for row in range(run.num_rows) if row not in rows]] = False
    assert 0 < flips.sum() < len(rows)
    assert np.flatnonzero(flips).tolist() == sorted(rows[: flips.sum()])
    yes = [np.exp(s.rows.log_masses[:, 0]) for s in run.settings]
    moved = np.max([np.abs(p - yes[0]) for p in yes], axis=0)[rows]
    for part in (moved[: flips.sum()], moved[flips.sum() :]):
        assert (np.diff(part) <= FLOAT32).all()
    for example in section.examples[: flips.sum()]:
        assert example.correct[example.shown] != example.correct[0]


def test_a_question_asked_twice_of_a_picture_is_listed_once(section):
    assert len(section.examples) == PICTURES * ROWS_PER_PICTURE - 1
    asked = [(example.image, example.text) for example in section.examples]
    assert len(set(asked)) == len(asked)


def test_every_question_shows_a_pruned_setting(section):
    assert all(example.shown > 0 for example in section.examples)


def test_generated_answers_are_shown_with_their_probability(tmp_path):
    asked = [question(number) for number in range(20, 26)]
    questions.write(tmp_path, DATA, asked)
    full, masks = np.array([2.0, -1, 3, -3, 1, 0.5]), np.ones((6, TOKENS), bool)
    write(tmp_path, "none", asked, full, masks, budget=TOKENS, route="generate")
    write(tmp_path, "scope", asked, full[::-1], masks, budget=TOKENS, route="generate")
    found = runs.load(tmp_path, catalogue.get)
    listed = {one.key: one for one in examples.of(found, naming.ordered(found.settings), 9)}
    one = listed[asked[0].key]
    assert (one.said, one.right, one.label) == (("Yes", "Yes"), "no", None)
    sure = [1 / (1 + np.exp(-margin)) * np.exp(-0.5) for margin in (2.0, 0.5)]
    np.testing.assert_array_equal(one.probabilities, np.rint(1000 * np.array(sure))[:, None])
    assert listed[asked[1].key].said == (HOSTILE[0], "Yes")


def test_two_hundred_photographs_fit_into_the_page():
    rng, frequency = np.random.default_rng(0), np.fft.fftfreq(224)
    size = np.hypot(*np.meshgrid(frequency, frequency))
    size[0, 0] = 1
    noise = np.fft.fft2(rng.normal(size=(3, 224, 224))) / size  # 1/f, as photographs have it
    grey = np.fft.ifft2(noise).real
    pixels = grey[:1] + 0.3 * grey[[1, 2, 0]]
    pixels = np.clip(128 + 55 * (pixels - pixels.mean()) / pixels.std(), 0, 255)
    found = pictures.thumbnail(Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0)))
    assert len(found) < 12_500  # 2.5 of the 5 MB


def test_each_picture_is_written_once_and_one_that_is_not_there_is_said(text, section, parsed):
    seen = {example.image for example in section.examples}
    assert len(section.pictures) == len(seen) - 1
    assert text.count("data:image/jpeg") == len(section.pictures)
    assert any(f"1 of {len(seen)} pictures could not be had" in data for data in parsed.inside("p"))
    assert len(parsed.of("use")) + sum(
        "not at hand" in a.get("aria-label", "") for a in parsed.of("svg")
    ) == len(section.examples)


def test_overlays_colour_tokens_by_the_budget_at_which_they_came(parsed, section, run):
    example = next(e for e in section.examples if section.data["settings"][e.shown]["budget"] == 8)
    place = section.examples.index(example)
    drawn = [a["href"] for a in parsed.of("image") if a.get("class") == "tokens"][place]
    content = base64.b64decode(drawn.partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")).reshape(TOKENS, 4)
    kept = {
        budget: records.unpack_mask(
            run.find(pruner="scope", budget=budget)[0].records[example.key].kept, TOKENS
        )
        for budget in (2, 4, 8)
    }
    came = (~kept[8], kept[2], kept[4] & ~kept[2], kept[8] & ~kept[4])
    for colour, where in zip(overlays.COLOURS, came, strict=False):
        assert where.any()
        assert (pixels[where] == colour).all()


def test_masks_that_are_none_are_no_overlay():
    assert overlays.kept("A", TOKENS) is None
    assert overlays.kept("AA==", TOKENS) is None
    assert overlays.side(575) is None
    mask = np.arange(TOKENS) % 3 == 0
    np.testing.assert_array_equal(overlays.kept(overlays.packed(mask), TOKENS), mask)


def test_tables_have_the_run_s_intervals_and_exact_flips(section, run):
    metrics, against, seeds = section.tables
    (scope,) = run.find(pruner="scope", budget=2)
    found = scope.report.metrics["ece"]
    row = dict(zip(metrics.columns, metrics.rows[3], strict=True))
    assert row["ECE"] == f"{found.value:.3f}\n[{found.low:.3f}, {found.high:.3f}]"
    row = dict(zip(against.columns, against.rows[2], strict=True))
    lost = int((run.full.top.correct & ~scope.top.correct).sum())
    won = int((~run.full.top.correct & scope.top.correct).sum())
    assert (row["right → wrong"], row["wrong → right"]) == (str(lost), str(won))
    change = 100 * (scope.samples("accuracy") - run.full.samples("accuracy"))
    low, high = np.quantile(change[1:], [0.025, 0.975])
    spelled = f"{change[0]:+.1f}\n[{low:+.1f}, {high:+.1f}]"
    assert row["Δ acc, points"] == spelled.replace("-", "−")
    values = [100 * float(s.report.metrics["accuracy"].value) for s in run.find(pruner="random")]
    assert seeds.rows[0][:2] == (
        "random, K = 4, 2 seeds",
        f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}",
    )


def test_a_page_that_would_be_large_leaves_out_other_seeds_first(run):
    found = page.section(run, picture, count=0, most_margins=5 * run.num_rows)
    dead = [one["label"] for one in found.data["settings"] if one["margin"] is None]
    assert dead == ["random, seed 1, K = 4"]
    assert any("1 settings" in note for note in found.notes)


def test_the_same_run_makes_the_same_bytes(folder, text, tmp_path):
    again = page.section(
        runs.load(folder, catalogue.get), picture, count=60, notes=["<i>a note</i>"]
    )
    extra = page.Table("Claims <b>", ("claim", "held"), (("a & b", "yes\n[<1, 2]"),), "note <i>")
    page.write(tmp_path / "a.html", [again], tables=[extra])
    assert (tmp_path / "a.html").read_text("utf-8") == text


def test_full_tokens_alone_make_a_page_too(folder, tmp_path):
    shutil.copytree(folder / "none", tmp_path / "none")
    page.write(tmp_path / "a.html", [page.section(runs.load(tmp_path, catalogue.get), picture)])
    found = Parsed((tmp_path / "a.html").read_text("utf-8"))
    assert len(found.of("article")) == PICTURES * ROWS_PER_PICTURE  # of unknown text
    assert not [a for a in found.of("image") if "tokens" in a.get("class", "")]


# The scripts' numbers, where node is


needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs node")


@needs_node
@pytest.mark.parametrize(("count", "equal_mass"), [(15, 0), (20, 0), (15, 1), (50, 1)])
def test_the_scripts_bin_as_the_library_does(run, section, count, equal_mass):
    top = run.settings[-1].top
    cut = calibration.bin_stats_equal_mass if equal_mass else calibration.bin_stats
    want = cut(jnp.asarray(top.confidence), jnp.asarray(top.correct), num_bins=count)
    filled = np.asarray(want.count) > 0
    got = computed(
        f"""
        const bins = binsOf(one, {count}, {equal_mass} === 1);
        return {{
          bins: bins.map((b) => [b.start, b.end, b.rows, b.confidence / b.rows, b.right / b.rows]),
          ends: bins.map((b) => wilson(b.right, b.rows)),
          ece: calibrationError(bins, one.correct.length),
        }};""",
        run,
        section,
    )
    edges = np.asarray(want.edges)
    columns = (edges[:-1], edges[1:], want.count, want.confidence, want.accuracy)
    np.testing.assert_allclose(got["bins"], np.stack(columns, axis=1)[filled], atol=FLOAT32)
    ends = calibration.wilson_interval(want.sum_correct[filled], want.count[filled])
    np.testing.assert_allclose(got["ends"], np.stack(ends, axis=1), atol=FLOAT32)
    gaps = np.abs(np.asarray(want.sum_confidence - want.sum_correct)).sum() / run.num_rows
    assert got["ece"] == pytest.approx(gaps, abs=FLOAT32)


@needs_node
def test_the_scripts_rank_and_compare_as_the_library_does(run, section):
    top, full = run.settings[-1].top, run.full.top
    got = computed(
        """
        return {
          curve: riskCoverage(one).map((p) => [p.coverage, p.risk]),
          above: answeredAbove(one, 1),
          tests: [mcnemar(3, 11), mcnemar(0, 0), mcnemar(5, 5), mcnemar(700, 900)],
          paired: pairedDifference(other.correct, one.correct, images),
        };""",
        run,
        section,
    )
    margin, correct = jnp.asarray(top.margin), jnp.asarray(top.correct)
    curve = np.stack(calibration.risk_coverage_curve(margin, correct), axis=1)
    places = [round(share * run.num_rows) - 1 for share, _ in got["curve"]]
    np.testing.assert_allclose(got["curve"], curve[places], atol=FLOAT32)
    kept = top.margin >= 1
    assert got["above"] == {"answered": kept.sum(), "errors": (kept & ~top.correct).sum()}
    exact = [mcnemar(*pair) for pair in ((3, 11), (0, 0), (5, 5), (700, 900))]
    np.testing.assert_allclose(got["tests"], exact, rtol=1e-9)
    image = jnp.asarray(run.full.rows.image)
    test = calibration.paired_difference_test(jnp.asarray(full.correct), correct, image)
    assert got["paired"]["centre"] == pytest.approx(float(test.difference), abs=FLOAT32)
    width = 1.959964 * float(test.standard_error)
    assert got["paired"]["high"] - got["paired"]["centre"] == pytest.approx(width, abs=FLOAT32)


def mcnemar(lost, won):
    """Return the p-value in whole numbers."""
    tail = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))
    return min(2 * tail / 2 ** (lost + won), 1)


def computed(body, run, section):
    """Return what a function's body says that has the scripts' functions and two settings."""
    given = {
        "rows": run.num_rows,
        "settings": [section.data["settings"][place] for place in (-1, 0)],
        "images": run.full.rows.image.tolist(),
    }
    script = (pathlib.Path(page.__file__).parent / "numbers.js").read_text("utf-8")
    script += f"""
        const {{ rows, settings, images }} = {json.dumps(given)};
        const [one, other] = settings.map((found) => readSetting(found, rows));
        const answer = () => {{ {body} }};
        console.log(JSON.stringify(answer()));"""
    ended = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


# The command


@pytest.fixture(scope="module")
def asked_of_scenes(tmp_path_factory):
    """A run about the embedded world's pictures, of the world's own digest."""
    out = tmp_path_factory.mktemp("scenes") / "pope"
    dataset = pope.BENCHMARK.scenes(Request("scenes", 3))
    asked = [example.question for example in dataset.examples]
    data, rng = dataset.digest(), np.random.default_rng(1)
    out.mkdir()
    questions.write(out, data, asked)
    full = rng.normal(size=len(asked)) + 1
    write(out, "none", asked, full, np.ones((len(asked), 576), bool), data=data, budget=576)
    masks = np.stack([rng.permutation(576) < 64 for _ in asked])
    write(out, "scope", asked, full + rng.normal(size=len(asked)), masks, data=data, budget=64)
    return out


def test_the_command_finds_the_pictures_and_writes_beside_the_records(asked_of_scenes):
    call = [sys.executable, "-m", "experiments.report", str(asked_of_scenes), "--examples=7"]
    ended = subprocess.run(call, env=os.environ, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{asked_of_scenes / 'report.html'}: 0.1 MB\n"
    text = (asked_of_scenes / "report.html").read_text("utf-8")
    assert text.count("<article") == 7
    assert 1 <= text.count("data:image/jpeg") <= 3
    assert "no result of LLaVA-1.5-7B" in text


def load(*folders):
    return [runs.load(folder, catalogue.get) for folder in folders]


def test_other_pictures_are_not_shown_and_two_runs_share_a_page(asked_of_scenes, folder, tmp_path):
    showing.write(load(folder, asked_of_scenes), tmp_path / "both.html", 9)
    text = (tmp_path / "both.html").read_text("utf-8")
    assert text.count('<section class="run"') == 2
    assert text.count("<article") == 9
    assert text.count("Pictures are left out: questions or pictures in the embedded world") == 1
    showing.write(load(asked_of_scenes), tmp_path / "nowhere.html", 9, data="nowhere")
    text = (tmp_path / "nowhere.html").read_text("utf-8")
    assert "Pictures are left out: --data=nowhere is no folder" in text
    assert "data:image/jpeg" not in text


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ([], 1, "usage: name the run folders"),
        (["nowhere"], 2, "refused: nowhere holds no finished setting"),
        (["a", "--examples=-1"], 1, "usage: "),
    ],
)
def test_wrong_calls_end_in_one_line(tmp_path, words, code, named):
    call = [sys.executable, "-m", "experiments.report", *words]
    ended = subprocess.run(call, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stderr.startswith(named)
    assert ended.stderr.count("\n") == 1
