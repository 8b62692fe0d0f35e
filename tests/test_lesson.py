"""The lesson: its cells print the committed text, and its numbers equal those by hand.

``PONG_LESSON=required`` makes a missing Jupyter an error; otherwise the cells are not run.
"""

import base64
import io
import json
import os
import re
from importlib.util import find_spec

import pytest
from PIL import Image
from small_runs import ROOT, environment

LESSON = ROOT / "notebooks" / "pong_from_pixels.ipynb"
STEPS = 40_000  # ten updates: enough to finish some games, not to win any
LEARNED = {"train", "evaluate", "explained", "no-baseline-train"}  # cells whose text depends on the length of training
PROBE = """\
import json
print(json.dumps({
    "by arithmetic": [knowing_all, with_log, without_log],
    "logistic": [by_autograd.tolist(), by_hand.tolist()],
    "difference": bool((difference == frames[-1].observation[0]).all()), "moved": int(abs(difference).sum()),
    "prob_up": [prob_up, frames[-1].probs[1]],
    "steps": [trainer.steps, plain.steps], "games": [len(games), len(plain_games)],
    "fresh": fresh.n, "two games": [in_copy.scores, in_ale.scores],
    "climbs": [with_log_path[-1], no_log_path[-1]], "broadcast": [paired, broadcast], "refusal": refusal,
    "variances": list(variances.values()),
}))
"""


def load_notebook():
    return json.loads(LESSON.read_text(encoding="utf-8"))


def code_cells(notebook):
    return {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}


def printed_text(cell):
    """The text that a cell prints."""
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def output_types(cell):
    """The types of a cell's outputs."""
    return [sorted(output.get("data", [output.get("name")])) for output in cell["outputs"]]


def run(notebook, **variables):
    """Run all cells in a fresh kernel, in the notebook's folder; raises the first error."""
    from nbclient import NotebookClient

    resources = {"metadata": {"path": LESSON.parent}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources, coalesce_streams=True)
    return client.execute(env={**environment(), **variables})


@pytest.mark.skipif(
    find_spec("ipykernel") is None and os.environ.get("PONG_LESSON") != "required",
    reason="Jupyter is not installed; make notebook installs it",
)
def test_notebook_cells_print_the_committed_text():
    import nbformat

    lesson = nbformat.read(LESSON, as_version=4)
    lesson.cells.append(nbformat.v4.new_code_cell(PROBE, id="probe"))
    cells = code_cells(run(lesson, PONG_LESSON_STEPS=str(STEPS)))
    values = json.loads(printed_text(cells.pop("probe")))
    before = code_cells(load_notebook())
    types, types_before = ({name: output_types(cell) for name, cell in x.items()} for x in (cells, before))
    assert types == types_before
    fixed = cells.keys() - LEARNED
    assert {name: printed_text(cells[name]) for name in fixed} == {name: printed_text(before[name]) for name in fixed}
    check(values)


def check(values):
    """The values in the kernel; those of parts 1 and 6 are derived in pong/toy/stories.txt and docs."""
    assert values["by arithmetic"] == pytest.approx([-0.16, -0.16, 0.064], abs=1e-12)
    by_autograd, by_hand = values["logistic"]
    assert by_autograd == pytest.approx(by_hand, abs=1e-12)
    assert min(map(abs, by_hand)) > 0.1
    assert values["difference"]
    assert values["moved"] > 20  # pixels: a ball and a paddle or two
    assert values["prob_up"][0] == pytest.approx(values["prob_up"][1], abs=1e-5)
    assert min(values["steps"]) >= STEPS
    assert min(values["games"]) > 10
    assert values["fresh"] == 100
    in_copy, in_ale = values["two games"]
    assert in_copy == in_ale
    assert len(in_ale) == 2
    assert values["climbs"] == pytest.approx([0.0262, 0.975], abs=5e-5)
    assert values["broadcast"] == pytest.approx([-0.16, -0.04], abs=1e-12)
    assert "(4, 1) and (4,)" in values["refusal"]
    assert values["variances"] == pytest.approx([0.5184, 0.1024, 0.0576, 0, 10.7584], abs=1e-12)


def test_notebook_printed_gradients():
    cells = code_cells(load_notebook())
    assert "∇J = -0.160" in printed_text(cells["t1-backward"])
    assert "∇w = +8, ∇b = +4" in printed_text(cells["t3-backward"])
    # 10,000 plays of variance .5184, 100,000 of 348 and 87: three standard errors
    (estimate,) = re.findall(r"[+-][\d.]+", printed_text(cells["t1-sampled"]))
    assert float(estimate) == pytest.approx(-0.16, abs=3 * (0.5184 / 10_000) ** 0.5)
    slopes = [float(number) for number in re.findall(r"[+-][\d.]+", printed_text(cells["t3-sampled"]))]
    assert slopes[0] == pytest.approx(8, abs=3 * (348 / 100_000) ** 0.5)
    assert slopes[1] == pytest.approx(4, abs=3 * (87 / 100_000) ** 0.5)


def test_notebook_training_breaks_even():
    cells = code_cells(load_notebook())
    (mean,) = re.findall(r"last 100 games: ([+-][\d.]+)", printed_text(cells["train"]))
    assert float(mean) >= 0
    with_baseline, without = map(float, re.findall(r"[+-]\d+\.\d+", printed_text(cells["no-baseline-train"])))
    assert with_baseline == float(mean)
    assert without < with_baseline - 2


def test_notebook_film_is_nine_seconds_of_pong():
    cells = code_cells(load_notebook())
    (output,) = cells["film"]["outputs"]
    (gif,) = re.findall(r"data:image/gif;base64,([^\"]*)", "".join(output["data"]["text/html"]))
    film = Image.open(io.BytesIO(base64.b64decode(gif)))
    assert film.n_frames == 9 * 15
    film.seek(100)
    assert (144, 72, 17) in {colour for _, colour in film.convert("RGB").getcolors(2**20)}  # of the play field


def test_notebook_was_run_in_order():
    cells = list(code_cells(load_notebook()).values())
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert len(outputs) > 20


def test_notebook_is_small_and_has_no_local_paths():
    assert LESSON.stat().st_size < 1_500_000
    notebook = load_notebook()
    for cell in code_cells(notebook).values():
        assert len(cell["source"]) <= 25  # lines, to fit on a screen
        assert "execution" not in cell["metadata"]  # when it was run
        for output in cell["outputs"]:
            for kind in output.get("data", {}).keys() - {"text/plain"}:
                del output["data"][kind]  # pictures
    assert not re.findall(r"/(?:work|tmp|root|home|Users)\b", json.dumps(notebook))


def test_notebook_links():
    text = "".join("".join(cell["source"]) for cell in load_notebook()["cells"] if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\((\.\./[^)#]*)(?:#([^)]*))?\)", text)
    assert links
    for path, anchor in links:
        heads = re.findall(r"^#+ (.*)$", (LESSON.parent / path).read_text(encoding="utf-8"), re.MULTILINE)
        anchors = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
        assert not anchor or anchor in anchors
