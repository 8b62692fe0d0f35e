"""scripts/grid.py trains what is missing of a study, and errors of scripts are one line."""

import json

import common
import grid
import pytest
import report
from small_runs import ROOT

from pong.cli import main
from pong.config import InputError, RunError, load_config

TINY = {"num_envs": 2, "horizon": 30, "hidden": 4, "total_steps": 120, "max_frames": 240, "eval_episodes": 0}


@pytest.fixture(autouse=True)
def folders(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(grid, "RUNS", tmp_path / "runs")
    for module in (grid, report):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")


def complete(plan, variant, seed):
    """Run the commands of a run in this process, which has imported torch already."""
    for arguments in grid.complete(plan, variant, seed):
        assert main([*map(str, arguments)]) == 0


def study(variants, common=TINY, **keys):
    return grid.Study(
        folder="study", config="configs/pong.toml", common=common, seeds=[1, 2], episodes=2, variants=variants, **keys
    )


def test_variant_is_the_config_with_the_common_changes_and_its_own():
    config, base = study({"three!": {"actions": 3, "hidden": 5}}).variant("three!"), load_config("configs/pong.toml")
    assert (config.name, config.actions, config.hidden, config.num_envs) == ("three", 3, 5, 2)
    assert (config.gamma, config.learning_rate) == (base.gamma, base.learning_rate)


def test_cumulative_variant_has_the_changes_of_those_before():
    plan = study({"a": {"hidden": 5}, "b": {"actions": 3}, "c": {"hidden": 6}}, cumulative=True)
    assert [(config.hidden, config.actions) for config in map(plan.variant, "abc")] == [(5, 2), (5, 3), (6, 3)]


def test_grid_runs_what_is_missing_and_report_shows_every_seed(tmp_path):
    plan = study({"plain": {}, "three": {"actions": 3}})
    for seed in (1, 2):
        complete(plan, "three", seed)
    evaluation = tmp_path / "results/study/three/s1/eval.json"
    time = evaluation.stat().st_mtime_ns
    complete(plan, "three", 1)
    assert evaluation.stat().st_mtime_ns == time  # it was complete
    assert grid.median(plan, "plain") is None
    runs = report.finished(plan)
    assert {name: [run.config.seed for run in seeds] for name, seeds in runs.items()} == {"three": [1, 2]}
    report.draw_study(runs, tmp_path / "results/study")
    assert {file.name for file in (tmp_path / "results/study").glob("scores.*")} == {"scores.csv", "scores.png"}
    scores = report.study_scores(runs)
    assert list(scores.steps) == [120, 120]
    mean = json.loads(evaluation.read_text(encoding="utf-8"))["sampled"]["mean"]
    assert scores.sampled[0] == pytest.approx(mean, abs=1e-3)
    assert "| three | actions = 3 | 0.0 |" in common.markdown(report.study_rows(runs, plan))


def test_interrupted_run_is_resumed(tmp_path, capsys):
    short = TINY | {"checkpoint_every": 1}
    complete(study({"plain": {}}, short | {"total_steps": 60}), "plain", 1)
    for folder in ("runs", "results"):
        (tmp_path / folder / "study/plain/s1/eval.json").unlink()
    complete(study({"plain": {}}, short), "plain", 1)
    assert "resuming after update 1" in capsys.readouterr().out
    assert load_config(tmp_path / "results/study/plain/s1/config.toml").total_steps == 120


def test_thinned_curve_has_few_rows_its_last_and_the_first_at_each_mark(tmp_path, monkeypatch):
    # 2507 rows: every fifth is kept, up to the last; 0 is first reached at 1004, and only there and at 1005
    monkeypatch.setattr(grid, "MARKS", (0, 5))
    rows = [f"{n},0,{1 if n in (1004, 1005) else '' if n < 9 else -1}\n" for n in range(1, 2508)]
    (tmp_path / "metrics.csv").write_text("step,minutes,charts/episodic_return_mean100\n" + "".join(rows))
    (tmp_path / "results").mkdir()
    grid.thin(tmp_path, tmp_path / "results")
    kept = (tmp_path / "results/metrics.csv").read_text().splitlines(keepends=True)[1:]
    assert kept == [row for n, row in enumerate(rows, 1) if n % 5 == 2 or n == 1004]


def test_every_mark_of_a_table_or_picture_is_kept():
    marks = [report.LADDER, report.GAMES, report.SEEDS, *(marks for _, marks in report.CURVES.values())]
    marks += [some for _, some, _ in report.RECIPES.values()]
    assert set().union(*marks) <= {*grid.MARKS}


def test_failed_run_names_its_reason_and_its_log(tmp_path, monkeypatch):
    (tmp_path / "runs/study/plain/s1").mkdir(parents=True)
    (tmp_path / "runs/study/plain/s1/config.toml").write_text("no config", encoding="utf-8")
    monkeypatch.setattr(grid, "load", lambda name: study({"plain": {}}).model_copy(update={"seeds": [1]}))
    with pytest.raises(RunError, match=r"s1: it has no checkpoints; .* \(see .*plain/s1\.log\)"):
        grid.main(("ladder",))


def test_broken_study_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "STUDIES", tmp_path)
    for text, message in (("config = ", "Invalid value"), ("[variants]\n[comon]", ".*comon")):
        (tmp_path / "broken.toml").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=rf"(?s)broken\.toml: {message}"):
            grid.load("broken")


def test_names_are_chosen_once_in_the_known_order_and_unknown_ones_refused():
    known = ["pong", "karpathy"]
    assert grid.chosen((), known) == known
    assert grid.chosen(("karpathy", "pong", "karpathy"), known) == known
    with pytest.raises(InputError, match=r"there is no 'pnog'; did you mean pong\?"):
        grid.chosen(("karpathy", "pnog"), known)


def ending(main, monkeypatch, capsys, *flags):
    """The exit status and the error of a script with some flags."""
    monkeypatch.setattr("sys.argv", ["scripts/grid.py", *flags])
    with pytest.raises(SystemExit) as ended:
        common.run(main)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [(InputError, 2), (RunError, 1), (OSError, 1)])
def test_error_of_a_script_is_one_line_with_its_status(monkeypatch, capsys, error, status):
    def main() -> None:
        raise error("this is\nwrong")

    assert ending(main, monkeypatch, capsys) == (status, "grid: this is wrong\n")


def test_number_out_of_range_is_one_line_with_status_2(monkeypatch, capsys):
    status, error = ending(grid.main, monkeypatch, capsys, "--at-once", "-1")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith("grid: at_once = -1: Input should")
