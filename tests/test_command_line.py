"""scripts/command_line.py: what a script says of bad input."""

import command_line
import pytest
import study

from pong.config import InputError, RunError


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("this is\nwrong"), 2, "plot: this is wrong\n"),
        (RunError("it can't go on"), 1, "plot: it can't go on\n"),
        (FileNotFoundError(2, "No such file", "here"), 1, "plot: [Errno 2] No such file: 'here'\n"),
    ],
)
def test_an_error_is_said_in_one_line_and_has_its_status(monkeypatch, capsys, error, status, said):
    def main() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["scripts/plot.py"])
    with pytest.raises(SystemExit) as ended:
        command_line.run(main)
    assert ended.value.code == status
    assert capsys.readouterr().err == said


def test_all_are_chosen_if_none_is_named_and_an_unknown_one_is_refused():
    known = {"pong": 1, "karpathy": 2}
    assert command_line.chosen((), known) == ["pong", "karpathy"]
    assert command_line.chosen(("karpathy",), known) == ["karpathy"]
    assert command_line.chosen(("karpathy", "pong", "karpathy"), known) == ["pong", "karpathy"]
    with pytest.raises(InputError, match=r"there is no 'pnog'; did you mean pong\?"):
        command_line.chosen(("karpathy", "pnog"), known)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config = ", r"configs/studies/some\.toml: Invalid value"),
        ("config = 'configs/pong.toml'\n[variants]\n[comon]", r"configs/studies/some\.toml: .*comon"),
        (None, r"there is no configs/studies/some\.toml; there are other"),
    ],
)
def test_a_study_that_is_none_is_refused_by_name(tmp_path, monkeypatch, text, said):
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "other.toml").touch()
    if text is not None:
        (folder / "some.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"(?s){said}"):
        study.read("some")
