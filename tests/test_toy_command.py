"""``pong toy``: the list, stories, Monte Carlo tables and bad input."""

import plot_docs
import pytest
from matplotlib.figure import Figure

import pong.cli
from pong.toy import EXAMPLES, NAMES

TITLES = [f"{example.name}  {example.title}" for example in EXAMPLES]


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch):
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # rich would treat a pipe as a terminal
        monkeypatch.delenv(variable, raising=False)


def output(capsys, *arguments):
    assert pong.cli.main(["toy", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100
    return out


def titles(out):
    return [line for line in out.splitlines() if line in TITLES]


def test_toy_lists_the_examples(capsys):
    lines = output(capsys).splitlines()
    for example in EXAMPLES:
        assert [line for line in lines if example.title in line and example.teaches in line]
    assert len(lines) < 40  # a screen


def test_toy_prints_a_story_and_its_table(capsys):
    out = output(capsys, "t3")
    assert titles(out) == [title for title in TITLES if title.startswith("T3 ")]
    for example in EXAMPLES[2:5]:
        assert [line for line in example.story.splitlines() if line not in out] == []
    (row,) = (line.split() for line in out.splitlines() if "no log   w" in line)
    assert row[-5:] == ["+1.128379", "+1.128379", "+8.000000", "3.831658", "-6.871621"]
    for text in (
        "by hand",
        "autograd",
        "difference",
        "variance",
        "348.000000       right",
        "What to notice:",
        "6.677374",
    ):
        assert text in out


def test_toy_prints_examples_in_order(capsys):
    assert [title.split()[0] for title in titles(output(capsys, "T8", "t1", "T8"))] == ["T8", "T1"]
    assert titles(output(capsys, "all")) == TITLES


def test_toy_samples(capsys):
    out = output(capsys, "T7", "--samples", "300", "--seed", "7")
    assert "300 random batches each, seed 7" in out
    assert out != output(capsys, "T7", "--samples", "300", "--seed", "8")
    (row,) = (line.split() for line in out.splitlines() if line.startswith(" score ") and "0.24" in line)
    mean, slope, error, off = map(float, row[-4:])
    assert (mean - slope) / error == pytest.approx(off, abs=0.051)  # printed with one decimal
    assert out.splitlines()[-4].endswith("-inf ")  # pathwise on the jump: no noise, and wrong
    assert "1,000 random batches each, seed 3" in output(capsys, "T5", "--seed", "3")
    assert "20 random batches each, seed 1" in output(capsys, "T10", "--samples", "20")


def test_plot_of_the_log_by_hand(monkeypatch):
    """T1: −p(1 − p), and without the log p(1 − p)(3p − 2)."""
    monkeypatch.setattr(plot_docs, "SAMPLES", 10)
    figure = Figure()
    plot_docs.log(figure)
    p, without_log = (values.tolist() for values in figure.axes[0].lines[4].get_data())
    assert without_log == pytest.approx([x * (1 - x) * (3 * x - 2) for x in p], abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("T1 T0 xyz", f"toy: unknown example 'T0', 'xyz'; there are {', '.join(NAMES)} and all"),
        ("T1 --seed -1", "toy: seed = -1: Input should be greater than or equal to 0"),
        ("T1 --samples 1", "toy: samples = 1: Input should be greater than or equal to 2"),
        ("T1 --samples 100001", "toy: samples = 100001: Input should be less than or equal to 100000"),
        ("--samples 10", "toy: --samples and --seed need an example: pong toy T3 --samples 1000"),
    ],
)
def test_toy_rejects(arguments, message, capsys):
    assert pong.cli.main(["toy", *arguments.split()]) == 2
    assert capsys.readouterr() == ("", f"pong: {message}\n")
