"""The file of the 2016 program: read without running anything, played as the program plays, and written back."""

import pickle
import pickletools
from pathlib import Path

import karpathy_numpy
import numpy as np
import pytest
import torch
from small_runs import contents

from pong import save_p
from pong.checkpoint import load
from pong.cli import main
from pong.config import Config, InputError, load_config
from pong.export import PROGRAM
from pong.observations import PIXELS
from pong.train import load_policy

ROOT = Path(__file__).parents[1]
HIDDEN = 7
random = np.random.default_rng(0)
MODEL = {
    "W1": random.standard_normal((HIDDEN, PIXELS)) / np.sqrt(PIXELS),
    "W2": random.standard_normal(HIDDEN) / np.sqrt(HIDDEN),
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python_2(model):
    """The pickle of protocol 0 that ``pickle.dump(model, open('save.p', 'wb'))`` makes in Python 2."""

    def array(a):
        shape = "".join(f"I{n}\n" for n in a.shape)
        data = repr(a.astype("<f8").tobytes())[1:].encode()
        return (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n("
            + shape.encode()
            + b"tcnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS"
            + data
            + b"\ntb"
        )

    entries = b"".join(b"S'" + name.encode() + b"'\n" + array(weights) + b"s" for name, weights in model.items())
    return b"(dp0\n" + entries + b"."


def fortran(model):
    return {name: np.asfortranarray(weights) for name, weights in model.items()}


FILES = {
    "Python 2": python_2(MODEL),
    **{f"protocol {number}": pickle.dumps(MODEL, protocol=number) for number in range(6)},
    "NumPy 1": pickle.dumps(MODEL, protocol=2).replace(b"numpy._core", b"numpy.core"),
    "columns first": pickle.dumps(fortran(MODEL), protocol=2),
    "columns first, protocol 5": pickle.dumps(fortran(MODEL), protocol=5),
    "float32": pickle.dumps({name: weights.astype(np.float32) for name, weights in MODEL.items()}),
    "the other byte order": pickle.dumps({name: weights.astype(">f8") for name, weights in MODEL.items()}, protocol=2),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_every_way_of_writing_it_is_read(tmp_path, content):
    (tmp_path / "save.p").write_bytes(content)
    assert save_p.is_pickle(tmp_path / "save.p")
    found = save_p.read(tmp_path / "save.p")
    assert set(found) == {"W1", "W2"}
    for name, weights in MODEL.items():
        assert found[name].dtype == torch.float32
        np.testing.assert_array_equal(found[name].numpy(), weights.astype(np.float32))


class Runs:
    """Would leave a file behind if anybody believed it."""

    def __reduce__(self):
        return Path.touch, (Path("owned"),)


def model(**changes):
    return pickle.dumps({**MODEL, **changes}, protocol=2)


REFUSED = {
    "a program": (pickle.dumps({**MODEL, "W2": Runs()}), "it names pathlib"),
    "a shell": (b"cos\nsystem\n(S'touch owned'\ntR.", "it names (os|posix).system"),
    "a builtin": (b'c__builtin__\neval\n(S\'open("owned","w")\'\ntR.', "it names (__builtin__|builtins).eval"),
    "what NumPy could load": (b"cnumpy\nload\n(S'x'\ntR.", "it names numpy.load"),
    "an array that is made at once": (b"cnumpy\nndarray\n((I1\nI2\nttR.", "callable"),
    "an array without end": (b"cnumpy\ndtype\n(S'S2000000000'\ntR.", "an array of 'S2000000000'"),
    "objects": (pickle.dumps({**MODEL, "W2": np.array([Runs()])}), "(an array of 'O8'|it names)"),
    "another codec": (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "text in 'rot13'"),
    "one array": (pickle.dumps(MODEL["W1"]), "holds a ndarray, not W1 and W2"),
    "other entries": (pickle.dumps({"W1": MODEL["W1"], "b1": MODEL["W2"]}), "holds entries W1, b1"),
    "numbers": (pickle.dumps({"W1": 1, "W2": 2}), "holds int and int, not two arrays"),
    "other pixels": (model(W1=np.zeros((HIDDEN, 7056))), r"W1 \(7, 7056\) and W2 \(7,\), not \(hidden, 6400\)"),
    "other units": (model(W2=np.zeros(8)), r"W1 \(7, 6400\) and W2 \(8,\)"),
    "no number": (model(W2=np.full(HIDDEN, np.nan)), "a weight is NaN"),
    "half a file": (FILES["Python 2"][:5000], "is no pickle of W1 and W2 alone"),
    "no pickle": (b"hello", "is no pickle"),
    "nothing": (b"", "is no pickle"),
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused_and_nothing_is_run(elsewhere, capsys, content, words):
    Path("save.p").write_bytes(content)
    assert main(["import", "save.p", "agent"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pong: import: save.p")
    with pytest.raises(InputError, match=words):
        save_p.read(Path("save.p"))
    assert [path.name for path in elsewhere.iterdir()] == ["save.p"]


def test_a_file_that_is_not_there(elsewhere, capsys):
    assert main(["import", "save.p", "agent"]) == 2
    assert capsys.readouterr().err == "pong: import: save.p can't be read: No such file or directory\n"


def test_an_imported_policy_is_the_programs_and_is_played_like_any_other(elsewhere, capsys):
    Path("save.p").write_bytes(FILES["Python 2"])
    assert main(["import", "save.p", "agent"]) == 0
    policy, loaded = load_policy("agent")
    x = random.integers(-1, 2, (5, PIXELS)).astype(np.float32)
    single = {name: weights.astype(np.float32) for name, weights in MODEL.items()}
    expected = [karpathy_numpy.policy_forward(single["W1"], single["W2"], row)[1] for row in x]
    np.testing.assert_allclose(policy.distribution(torch.from_numpy(x)).probs.detach().numpy(), expected, rtol=1e-5)
    assert loaded.config.task == "sticky 0.25, hold 2-4"
    assert sorted(path.name for path in Path("agent").iterdir()) == [
        *("README.md", "config.toml", "game.gif", "policy.safetensors"),
    ]
    assert "Fresh games" not in Path("agent/README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["eval", "agent", "--episodes", "1", "--sampled", "--emulator", "machine"]) == 0
    assert "n = 1 games" in capsys.readouterr().out
    flags = ["--hidden", str(HIDDEN), "--total-steps", "1", "--num-envs", "1", "--device", "cpu", "--run-dir", "run"]
    assert main(["train", str(ROOT / "configs/pong.toml"), *flags, "--init", "agent"]) == 0
    assert torch.equal(load(Path("run/checkpoints/update-000000.safetensors")).policy["W1"], loaded.policy["W1"])


def test_an_imports_task_and_games_are_those_asked_for(elsewhere):
    Path("save.p").write_bytes(FILES["protocol 2"])
    flags = ["--hold", "4", "--sticky", "0", "--noop-max", "30", "--episodes", "2"]
    assert main(["import", "save.p", "agent", *flags]) == 0
    config = load_config("agent/config.toml")
    assert (config.hold, config.sticky, config.noop_max) == (4, 0, 30)
    assert Path("agent/eval.json").exists()


def test_the_programs_constants_are_those_of_karpathy_toml():
    program = load_config(ROOT / "configs/karpathy.toml")
    for key, value in {**Config(**PROGRAM, hold="2-4").model_dump()}.items():
        if key not in ("name", "total_steps", "checkpoint_every"):
            assert getattr(program, key) == value, key


def test_a_round_trip(elsewhere, capsys):
    Path("save.p").write_bytes(FILES["float32"])
    assert main(["import", "save.p", "agent"]) == 0
    assert main(["export", "agent", "--save-p", "again.p"]) == 0
    with Path("again.p").open("rb") as file:
        found = pickle.load(file)
    assert list(found) == ["W1", "W2"]
    for name, weights in MODEL.items():
        assert found[name].dtype == np.float64  # as np.random.randn makes them
        np.testing.assert_array_equal(found[name], weights.astype(np.float32))
    assert main(["import", "again.p", "agent-2"]) == 0
    assert load("agent").policy.keys() == load("agent-2").policy.keys()
    assert all(torch.equal(load("agent-2").policy[name], weights) for name, weights in load("agent").policy.items())


def test_what_is_written_python_2_and_an_old_numpy_can_read(tmp_path):
    """Nothing in it is newer than protocol 2, and the functions that it names were there in 2016."""
    weights = {name: torch.from_numpy(array) for name, array in MODEL.items()}
    save_p.write(tmp_path / "save.p", weights)
    codes = [(code, argument) for code, argument, _ in pickletools.genops((tmp_path / "save.p").read_bytes())]
    assert max(code.proto for code, _ in codes) <= 2
    named = {argument for code, argument in codes if code.name == "GLOBAL"}
    assert named <= {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"}
    assert "numpy.core.multiarray _reconstruct" in named


def test_other_networks_have_no_save_p(elsewhere, capsys):
    assert main(["export", str(ROOT / "pretrained/pong_conv_plain"), "--save-p", "save.p"]) == 2
    assert "is for the 2016 network" in capsys.readouterr().err
    assert main(["export", str(ROOT / "pretrained/pong")]) == 2
    assert "give a folder to write" in capsys.readouterr().err
    assert contents(elsewhere) == {}


def test_whoever_evaluates_a_save_p_is_told_what_to_do(elsewhere, capsys):
    for name in ("Python 2", "protocol 4"):
        Path("save.p").write_bytes(FILES[name])
        assert main(["eval", "save.p"]) == 2
        assert capsys.readouterr().err.endswith("make a folder: pong import save.p DIR\n")
