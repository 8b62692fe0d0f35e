"""The notebooks: cells print the committed text, answers pass the checks, and mistakes get their names.

``PONG_LESSON=required`` makes a missing Jupyter an error; otherwise notebooks that need it are not run.
"""

import contextlib
import functools
import io
import json
import os
import re
from importlib.util import find_spec
from unittest.mock import Mock

import matplotlib
import pytest
from small_runs import ROOT, environment

FOLDER = ROOT / "notebooks"
BANDIT, CARTPOLE, PONG, ANSWERS = NAMES = ["1_two_arms_and_the_log", "2_cartpole", "3_pong", "answers"]
STEPS = {CARTPOLE: "2000", PONG: "40000"}  # enough to finish some games, not to learn
LEARNED = {"train", "trainer-train", "experiments-train", "evaluate", "plain-train"}  # cells that depend on training
FACTS = {
    # docs/log-derivative-trick.md: exact ascent ends at 0.0262 with the log and at 0.975 without
    BANDIT: ["abs(climb(surrogate)[-1] - 0.0262) < 0.01", "abs(climb(no_log)[-1] - 0.975) < 0.01"],
    CARTPOLE: ["sum(mine) >= STEPS", "trainer.steps >= STEPS", "min(map(len, curves.values())) >= 16"],
    PONG: [
        "(x != 0).sum() > 20",  # a ball and a paddle or two
        "(difference(frames[-1], frames[-2]) == game[-1].observation[0]).all()",
        "largest < 1e-5 and len(ups) > 100",
        "min(trainer.steps, plain.steps) >= STEPS and min(len(scores), len(plain_scores)) > 10",
        "len(others) == 104 and (144, 72, 17) in {x for _, x in others[99].convert('RGB').getcolors()}",  # the field
        "fresh.n == 100 and in_copy.scores == in_ale.scores and in_ale.n == 2",
    ],
}
needs_jupyter = pytest.mark.skipif(
    find_spec("ipykernel") is None and os.environ.get("PONG_LESSON") != "required",
    reason="Jupyter is not installed; make notebook installs it",
)


def code_cells(name):
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return {cell["id"]: cell for cell in cells if cell["cell_type"] == "code"}


def solutions(name):
    """The answers to a notebook's exercises."""
    return {key[:-2]: "".join(cell["source"]) for key, cell in code_cells(ANSWERS).items() if key[-1] == name[0]}


def printed_text(cell):
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def summary(cells):
    """The types of each cell's outputs, and the text where it does not depend on training."""
    types = {key: [sorted(x.get("data", [x.get("name")])) for x in cell["outputs"]] for key, cell in cells.items()}
    return {key: (types[key], key in LEARNED or printed_text(cells[key])) for key in cells}


def numbers(name, cell):
    """The numbers with a point that a cell printed."""
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", printed_text(code_cells(name)[cell]))]


def run_here(name, sources=(), until=None, **replaced):
    """Run a notebook in this process, with other sources or values: its variables, and what each cell prints."""
    matplotlib.use("Agg")
    variables, printed = {"__name__": "__main__"}, {}
    for key, cell in code_cells(name).items():
        if key == until:
            break
        if key != "install":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(dict(sources).get(key, "".join(cell["source"])), variables)
            printed[key] = output.getvalue()
            variables.update({"display": Mock(), **replaced})
    matplotlib.pyplot.close("all")
    return variables, printed


@needs_jupyter
@pytest.mark.parametrize("name", NAMES)
def test_cells_print_the_committed_text(name, compiled):
    import nbformat
    from nbclient import NotebookClient

    notebook, resources = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4), {"metadata": {"path": FOLDER}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources, coalesce_streams=True)
    client.execute(env={**environment(), "PONG_LESSON_STEPS": STEPS.get(name, "")})
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert summary(cells) == summary(code_cells(name))


@needs_jupyter
@pytest.mark.parametrize("name", NAMES[:3])
def test_answers_pass_the_checks(name, monkeypatch, compiled):
    monkeypatch.setenv("PONG_LESSON_STEPS", STEPS.get(name, ""))
    exercises = {key for key, cell in code_cells(name).items() if cell["source"][-1].strip() == "..."}
    variables, printed = run_here(name, solutions(name))
    assert {printed[f"{key}-check"] for key in exercises} == {"right\n"}
    assert [fact for fact in FACTS[name] if not eval(fact, variables)] == []


@needs_jupyter
@pytest.mark.parametrize(("name", "scores"), [(CARTPOLE, "mine"), (PONG, "scores")])
def test_stop_before_the_first_update(name, scores, monkeypatch, compiled):
    """All later cells run, and the training cell continues."""
    monkeypatch.setenv("PONG_LESSON_STEPS", STEPS[name])
    variables, _ = run_here(name, live=Mock(side_effect=KeyboardInterrupt))
    assert variables[scores] == []
    with contextlib.redirect_stdout(io.StringIO()):
        exec("".join(code_cells(name)["train"]["source"]), {**variables, "live": lambda updates, curves: updates})
    assert len(variables[scores]) > 10


MISTAKES = [  # in the answer: what is written instead of what, and the message
    (BANDIT, "limit", "2 / 3", "0.5", "too small"),
    (BANDIT, "limit", "2 / 3", "1 / 0", "ZeroDivisionError: division by zero"),
    (BANDIT, "score", "1 - p, -p", "p * (1 - p), -p * (1 - p)", "without the log: divide by π"),
    (BANDIT, "loss", "-(log_probs", "(log_probs", "wrong sign: it should fall when"),
    (BANDIT, "loss", "(log_probs *", "(log_probs.exp() *", "no log"),
    (BANDIT, "loss", "assert", "#", "gave 9 terms instead of 3"),
    (BANDIT, "baseline", "1.8", "1.2", "variance 0.0576"),  # by hand
    (CARTPOLE, "returns", "gamma * ", "", "γ is missing"),
    (CARTPOLE, "advantages", "correction=0", "", "n − 1"),
    (CARTPOLE, "advantages", " + 1e-8", "", "NaN"),
    (CARTPOLE, "update", "-(log_probs", "(log_probs", "wrong sign"),
    (CARTPOLE, "update", "optimizer.step()", "", "the weights did not change"),
    (CARTPOLE, "update", "optimizer.zero_grad()", "", "zero_grad"),
    (PONG, "frame", "35:195:2", "::2", "crop to rows 35 to 194"),
    (PONG, "frame", "(red != 109)", "True", "red 109, is still there"),
    (PONG, "frame", "red = ", "screen[screen == 109] = 0; red = ", "changes the screen itself"),
    (PONG, "difference", ".astype(np.int8)", "", "0 − 1 became 255"),
    (PONG, "returns", "== 0:\n            returns[t] ", "> -9:\n            returns[t] +", "no reset at the point"),
]
start = functools.cache(run_here)  # up to the first exercise


@needs_jupyter
@pytest.mark.parametrize(("name", "key", "right", "wrong", "message"), MISTAKES)
def test_checks_name_the_mistake(name, key, right, wrong, message, capsys, compiled):
    first = {BANDIT: "limit", CARTPOLE: "returns", PONG: "frame"}[name]
    variables = dict(start(name, until=first)[0])
    exec(solutions(name)[key].replace(right, wrong), variables)
    exec("".join(code_cells(name)[f"{key}-check"]["source"]), variables)
    (line,) = capsys.readouterr().out.splitlines()
    assert message in line


def test_committed_numbers():
    # 10,000 plays; of one play ∇π·R is 0.16 or −0.32, variance 0.0369; ∇ log π·R is 0.2 or −1.6, variance 0.5184
    assert numbers(BANDIT, "no-log") == pytest.approx([0.064, -0.16], abs=3 * (0.0369 / 10_000) ** 0.5)
    assert numbers(BANDIT, "with-log") == pytest.approx([-0.16, -0.16], abs=3 * (0.5184 / 10_000) ** 0.5)
    by_autograd, by_hand = numbers(BANDIT, "backward")
    assert by_autograd == pytest.approx(by_hand, abs=2e-12)
    # of 100 plays, with b = 0 and b = 1.2, by hand in docs/log-derivative-trick.md
    assert numbers(BANDIT, "noise")[1::3] == pytest.approx([0.005184, 0.000576], rel=0.1)


def test_committed_training_learns():
    mine, theirs, (above, wrong_sign, *others) = (
        [int(mean) for mean in re.findall(r": (\d+)$", printed_text(code_cells(CARTPOLE)[cell]), re.MULTILINE)]
        for cell in ("train", "trainer-train", "experiments-train")
    )
    assert min(mine + theirs) >= 400
    assert wrong_sign < 20 < 200 < min(above, *others)
    assert numbers(PONG, "train")[-1] >= 0
    with_baseline, without = numbers(PONG, "plain-train")
    assert without < with_baseline == numbers(PONG, "train")[-1]


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebook(name):
    """It was run in order; it is small, without errors, times or local paths, and it has links."""
    text, cells = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"), code_cells(name)
    assert [cell["execution_count"] for cell in cells.values()] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells.values() for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    for kind, most in (("png", 100_000), ("gif", 200_000)):
        assert all(len(picture) < most * 4 / 3 for picture in re.findall(rf'"image/{kind}": "(.*)"', text))
    assert max(len(cell["source"]) for cell in cells.values()) <= 25  # lines, to fit on a screen
    assert not [cell for cell in cells.values() if "execution" in cell["metadata"]]
    assert not re.findall(r"/(?:work|tmp|root|home|Users)\b", re.sub(r'"image/\w+": ".*"', "", text))
    assert re.search(r"\]\((?!https:)", text)  # links, which tests/test_readme.py follows
