"""The notebook runs from its first cell to its last, and is kept without outputs."""

import json
import pathlib
import re

import nbclient
import nbformat
import pytest

FILE = pathlib.Path(__file__).parents[1] / "examples" / "library.ipynb"
NUMBER = r"[+-]?\d+\.\d+"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(FILE, as_version=4)


@pytest.fixture(scope="module")
def said(notebook, tmp_path_factory):
    """Run all cells in an empty folder; return what they said, and the kinds of all outputs."""
    place = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as environment:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
            environment.setenv(name, str(place / name))
        environment.delenv("MPLBACKEND", raising=False)
        client = nbclient.NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": place}}
        )
        client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    texts = [out.get("text", out.get("data", {}).get("text/plain", "")) for out in outputs]
    kinds = [kind for out in outputs for kind in out.get("data", {out.get("name"): ""})]
    return "\n".join(texts), kinds


def test_it_is_kept_without_outputs():
    content = json.loads(FILE.read_text("utf-8"))
    nbformat.validate(content)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    for cell in content["cells"]:
        assert cell["id"]
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert content["metadata"].keys() == {"kernelspec", "language_info"}
    assert FILE.stat().st_size < 30_000


def test_every_cell_runs_and_says_what_it_should(said):
    text, kinds = said
    assert "stderr" not in kinds, text
    assert kinds.count("image/png") == 4
    assert "576 visual tokens" in text
    assert re.search(r"all 576 tokens: yes 0\.\d{3}, no 0\.\d{3}", text)
    assert "432 answers" in text


def test_it_measures_what_it_tells(said):
    text, _ = said
    right = {
        name: float(x) for name, x in re.findall(r"'(.+?)': '432 answers, (.+?)% right'", text)
    }
    assert right["all tokens"] > 85
    assert right["SCOPE, 64"] > 75
    intervals = re.findall(
        rf"ECE of (.+): ({NUMBER}), 95 % interval ({NUMBER}) to ({NUMBER})", text
    )
    values = {}
    for name, *numbers in intervals:
        value, low, high = map(float, numbers)
        assert 0 < low <= high < 0.5
        values[name] = value
    assert values.keys() == right.keys()
    change, low, high = map(
        float,
        re.search(rf"ECE changes by ({NUMBER}), .* ({NUMBER}) to ({NUMBER}), p", text).groups(),
    )
    assert change == pytest.approx(values["SCOPE, 64"] - values["all tokens"], abs=0.0011)
    assert low <= change <= high
    assert (
        len(re.findall(rf"T = {NUMBER}, NLL of the other pictures {NUMBER} → {NUMBER}", text)) == 2
    )
