"""``pong toy``: the list, the stories, the Monte-Carlo tables, the pictures, and what it refuses."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from small_runs import environment

import pong.cli
import pong.toy
from pong.toy import EXAMPLES, main, plots
from pong.toy.examples.bandits import BANDIT, BANDIT_WAY
from pong.toy.gradients import sampled

NAMES = [f"T{n}" for n in range(1, 11)]
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # rich would take a pipe for a terminal
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "40")  # a pipe has no width; whatever this says, 100 columns are there
    monkeypatch.chdir(tmp_path)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 100
    assert [line for line in out.splitlines() if line != line.rstrip()] == []
    return out


def told(out: str) -> list[str]:
    """The titles in the output, in order."""
    titles = {f"{example.name}  {example.title}" for example in EXAMPLES}
    return [line for line in out.splitlines() if line in titles]


# --- the list ---------------------------------------------------------------------------------------------------------


def test_without_a_name_it_lists_the_examples_and_says_how_to_see_one(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    for example in EXAMPLES:
        assert [line for line in lines if example.title in line and example.teaches in line]
    assert [line.split()[0] for line in lines if line.startswith("T")] == ["The", *NAMES]  # the heading, then each once
    assert [line for line in lines if line.startswith("pong toy T3 ")]
    assert len(lines) < 40  # a screen


# --- stories ----------------------------------------------------------------------------------------------------------

SHOWN = {  # cells of the tables, then numbers of the stories
    "T1": """-0.160000 +0.064000 +0.224000 0.518400 0.036864 −.16 +.064 .0262 .975 1.2""",
    "T2": """+0.666667 3.805556 -0.333333 2.771969 6.9444 2.2778 1.7727 −1.5""",
    "T3": """+8.000000 +4.000000 -2.000000 348.000000 87.000000 346.000000 +0.564190 +24.000000 +12.000000 +9.000000
        −2 +18 .5642 6.677374 +7.500000 +4.500000""",
    "T4": """10.758400 0.057600 -0.080000 -0.226274 -0.337077 -0.320000 −.2263 −.3371""",
    "T5": """+0.000000 0.160000 4.000000 2.000000""",
    "T6": """+0.160000 0.146400 0.038400 0.140800 2.96265 2.6984 .9783 0.0625 +0.225000""",
    "T7": """87.000000 42.000000 38.000000 4.000000 1656.150000 0.040000 0.342076 .24197""",
    "T8": """-2.500000 192.352539 111.172852 22.250000 −2.5625""",
    "T9": """2.75 -1.0625 6.456 0.6751""",
    "T10": """-0.160000 +0.160000 -0.040000 0.129600 0.075300 .7732 1.2268 .8244 1.1756 −.04 19.2768 +5.000000
        -5.675754 0.516059 0.682689 -0.125000 +0.062500 0.230259 2.8525 nan""",
}
HEADERS = ["by hand", "autograd", "finite difference", "variance", "off by", "right", "What to notice:"]


@pytest.mark.parametrize("name", NAMES)
def test_one_name_in_any_case_tells_that_example_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, name.lower())
    assert [text for text in SHOWN[name].split() + HEADERS if text not in out] == []
    assert told(out) == [f"{example.name}  {example.title}" for example in EXAMPLES if example.name == name]
    whole = [line for example in EXAMPLES if example.name == name for line in example.story.splitlines()]
    assert [line for line in whole if line not in out] == []


def test_several_names_are_told_once_each_and_in_the_order_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in told(shown(capsys, "T8", "t1", "T8"))] == ["T8", "T1"]


def test_all_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(shown(capsys, "all")) == [f"{example.name}  {example.title}" for example in EXAMPLES]


def test_a_wrong_way_says_by_how_much_and_a_right_one_that_it_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {line.split()[0]: line.split()[-1] for line in shown(capsys, "T1").splitlines() if " θ     " in line}
    assert rows == {"−log": "right", "−π·R,": "+0.224000"}


# --- Monte Carlo ------------------------------------------------------------------------------------------------------


def test_samples_are_shown_beside_the_exact_values(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "T1", "--samples", "300", "--seed", "7")
    draws = sampled(BANDIT, BANDIT.theta, BANDIT_WAY, 300, 7)
    mean, error = draws.mean().item(), draws.std().item() / 300**0.5
    (row,) = (line for line in out.splitlines() if "−log π·R" in line)
    assert row.split()[3:] == [
        "-0.160000",
        "-0.160000",
        f"{mean:+.6f}",
        f"{error:.6f}",
        f"{(mean + 0.16) / error:+.1f}",
    ]
    assert "300 random batches each, seed 7" in out


@pytest.mark.parametrize(
    ("flags", "line"),
    [("--seed 3", "1,000 random batches each, seed 3"), ("--samples 20", "20 random batches each, seed 1")],
)
def test_the_other_flag_has_a_default(flags: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in shown(capsys, "T5", *flags.split())


def test_every_example_can_be_sampled(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "all", "--samples", "5")
    assert told(out) == [f"{example.name}  {example.title}" for example in EXAMPLES]
    assert out.count("nothing to sample") == sum(example.system is None for example in EXAMPLES) == 3


def test_no_noise_and_no_truth_is_infinitely_many_standard_errors_off(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line for line in shown(capsys, "T7", "--samples", "50").splitlines() if "pathwise  " in line]
    assert [row.split()[-1] == "-inf" for row in rows] == [False, False, True]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_plots_need_no_backend_of_the_notebook_that_they_are_made_in() -> None:
    """Jupyter names its own to every program that it starts, installed there or not."""
    code = "from pong.toy import plots; import os; plots._figure(); print(os.environ['MPLBACKEND'])"
    settings = {**environment(), "MPLBACKEND": "module://nobody.has.this"}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("module://nobody.has.this\n", "")


def test_plot_writes_pictures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "SAMPLES", 10)
    files = [Path(line) for line in shown(capsys, "--plot").splitlines()]
    assert files == [Path("toy-plots") / f"{name}.png" for name in ("toy-log", "toy-baseline", "toy-pathwise")]
    for file in files:
        head = file.read_bytes()[:24]  # signature, IHDR, width, height
        assert head.startswith(b"\x89PNG")
        assert [int.from_bytes(head[at : at + 4], "big") for at in (16, 20)] == [1000, 600]


def curve(axes: object, index: int) -> dict[float, float]:
    line = axes.lines[index]
    return {round(float(x), 6): float(y) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}


def test_the_log_picture_shows_the_numbers_of_t1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "SAMPLES", 10)
    figure = Figure()
    plots.draw_log(figure)
    slope, with_log, without = (curve(figure.axes[0], i) for i in (1, 2, 3))  # 0 is the axis
    for p in (0.005, 0.5, 0.8, 0.995):
        near = min(slope, key=lambda x, p=p: abs(x - p))
        assert slope[near] == pytest.approx(-near * (1 - near), abs=1e-8)
        assert with_log[near] == pytest.approx(-near * (1 - near), abs=1e-7)  # p is rounded to 6 digits
        assert without[near] == pytest.approx(near * (1 - near) * (3 * near - 2), abs=1e-5)


def test_the_baseline_picture_shows_the_numbers_of_t4_and_t2() -> None:
    figure = Figure()
    plots.draw_baseline(figure)
    left, right = figure.axes
    assert [curve(left, i) for i in (1, 2, 3)] == [
        {b: pytest.approx(variance, abs=1e-12)} for b, variance in ((0, 0.5184), (1.2, 0.0576), (1.8, 0))
    ]
    assert [*curve(right, 2).values(), *curve(right, 3).values()] == pytest.approx([2.2778, 1.77273], abs=5e-5)
    assert curve(left, 0)[4.0] == pytest.approx(0.16 * 2.2**2, abs=1e-12)


def test_the_pathwise_picture_follows_the_formulas() -> None:
    figure = Figure()
    plots.draw_pathwise(figure)
    score, _, best, pathwise = (curve(figure.axes[0], i) for i in range(4))
    for sigma in score:
        assert score[sigma] == pytest.approx(16 / sigma**2 + 56 + 15 * sigma**2, rel=1e-4)  # σ is rounded to 6 digits
        assert best[sigma] == pytest.approx(32 + 6 * sigma**2, rel=1e-4)
        assert pathwise[sigma] == pytest.approx(4 * sigma**2, rel=1e-4)


def test_a_missing_matplotlib_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert pong.cli.main(["toy", "--plot"]) == 2
    assert capsys.readouterr() == ("", "pong: toy: --plot needs matplotlib; install it with: pip install matplotlib\n")
    assert list(Path().iterdir()) == []


# --- bad input --------------------------------------------------------------------------------------------------------

ALL = "the examples are T1, T2, T3, T4, T5, T6, T7, T8, T9, T10 and all"
ERRORS = {
    "T1 t99": f"unknown example 't99'; {ALL}",
    "T1 T0 xyz": f"unknown example 'T0', 'xyz'; {ALL}",
    "T1 --seed -1": "argument --seed: '-1': give a whole number from 0 to 9223372036854775807 (pong toy --help)",
    "T1 --seed 1.5": "argument --seed: '1.5': give a whole number from 0 to 9223372036854775807 (pong toy --help)",
    "T1 --seed": "argument --seed: expected one argument (pong toy --help)",
    "T1 --samples 1": "argument --samples: '1': give a whole number from 2 to 100000 (pong toy --help)",
    "T1 --samples 100001": "argument --samples: '100001': give a whole number from 2 to 100000 (pong toy --help)",
    "T1 --samples ²": "argument --samples: '²': give a whole number from 2 to 100000 (pong toy --help)",
    "--samples 10": "--samples and --seed need an example: pong toy T3 --samples 1000",
    "T1 --sam 10": "unrecognized arguments: --sam 10 (pong toy --help)",
    "T1 --fly": "unrecognized arguments: --fly (pong toy --help)",
    "T1 --plot here": "--plot here takes no examples; leave out T1",
    "--plot file/below": "--plot file/below: Not a directory; name a folder that can be written",
    "--plot file": "--plot file: File exists; name a folder that can be written",
}


@pytest.mark.parametrize(("arguments", "line"), ERRORS.items(), ids=ERRORS)
def test_bad_input_is_one_line(arguments: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert pong.cli.main(["toy", *arguments.split()]) == 2
    assert capsys.readouterr() == ("", f"pong: toy: {line}\n")
    assert list(Path().iterdir()) == [Path("file")]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    out = capsys.readouterr().out
    for word in ("usage: pong toy", "T1", "T10", "all", "--samples", "--seed", "--plot"):
        assert word in out


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_early_is_no_error_and_stories_load_no_matplotlib() -> None:
    code = "import sys; from pong.cli import main; sys.exit(main(['toy', 'all']) or 3 * ('matplotlib' in sys.modules))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        assert done.stdout.readline().startswith("T1")
        done.stdout.close()  # as `head -1` does
        assert done.stderr.read() == ""
        assert done.wait() == 0


def test_the_toy_imports_little() -> None:
    allowed = {"torch", "numpy", "rich", "matplotlib", "pong.losses", "pong.returns", "pong.config", "pong.threads"}
    for file in Path(pong.toy.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}"]
            for module in modules:
                root = module.split(".")[0]
                fine = root in sys.stdlib_module_names or module.startswith("pong.toy") or {root, module} & allowed
                assert fine, f"{file.name} imports {module}"
                if module == "pong.config":
                    assert [alias.name for alias in node.names] == ["InputError"]
