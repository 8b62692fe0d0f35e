"""The 2016 program's file: read without executing anything, played as the program plays, and written back."""

import gzip
import io
import pickle
import pickletools
import resource
from collections import OrderedDict
from pathlib import Path

import karpathy_numpy
import numpy as np
import pytest
import torch

from pong import save_p
from pong.checkpoint import load
from pong.cli import main
from pong.config import load_config
from pong.evaluate import Evaluation
from pong.export import import_save_p
from pong.observations import PIXELS
from pong.rollout import Episode
from pong.train import load_policy

ROOT = Path(__file__).parents[1]
HIDDEN = 7
random = np.random.default_rng(0)
MODEL = {
    "W1": random.standard_normal((HIDDEN, PIXELS)) / np.sqrt(PIXELS),
    "W2": random.standard_normal(HIDDEN) / np.sqrt(HIDDEN),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python_2(model):
    """The pickle of protocol 0 that ``pickle.dump(model, open('save.p', 'wb'))`` makes in Python 2, also in order."""

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

    entries = [b"S'" + name.encode() + b"'\n" + array(weights) for name, weights in model.items()]
    if isinstance(model, OrderedDict):
        return b"ccollections\nOrderedDict\n((l" + b"".join(b"(" + entry + b"la" for entry in entries) + b"tR."
    return b"(dp0\n" + b"s".join(entries) + b"s."


def model(protocol=2, convert=lambda weights: weights, **changes):
    return pickle.dumps({name: convert(weights) for name, weights in {**MODEL, **changes}.items()}, protocol)


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


CACHE = {name: weights**2 for name, weights in MODEL.items()}
PORT = {"model": MODEL, "rmsprop_cache": CACHE, "episode": np.int64(8000), "mean": np.float64(-20.5)}
FILES = {
    "Python 2": python_2(MODEL),
    **{f"protocol {number}": model(number) for number in range(6)},
    "NumPy 1": model().replace(b"numpy._core", b"numpy.core"),
    "columns first": model(2, np.asfortranarray),
    "columns first, protocol 5": model(5, np.asfortranarray),
    "float32": model(4, lambda weights: weights.astype(np.float32)),
    "the other byte order": model(2, lambda weights: weights.astype(">f8")),
    "gzip": gzip.compress(model()),
    "npz": npz(**MODEL, history=np.array([None])),
    "in order": pickle.dumps(OrderedDict(MODEL)),
    "in order, Python 2": python_2(OrderedDict(MODEL)),
    "a column": model(W2=MODEL["W2"][:, None]),
    "a row": model(W2=MODEL["W2"][None]),
    "a port": pickle.dumps(PORT),
    "a port, protocol 2": pickle.dumps(OrderedDict(PORT), 2),
    "one inner dictionary": pickle.dumps({"policy": MODEL, "hidden": (HIDDEN,)}),
    "a history of scores": model(scores=[-21.0] * 8000),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_read_any_protocol(tmp_path, content):
    (tmp_path / "save.p").write_bytes(content)
    weights, _ = save_p.read(tmp_path / "save.p")
    assert weights.keys() == MODEL.keys()
    for name, expected in MODEL.items():
        np.testing.assert_array_equal(weights[name].numpy().T, expected.astype(np.float32), strict=True)


class Bomb:
    """Unpickling it creates a file."""

    def __reduce__(self):
        return Path.touch, (Path("crater"),)


# numpy.ndarray and numpy.dtype, b'b' and a tuple: the reconstruct call of an array without its state
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
TUPLES = b")" + 60 * b"2\x86"  # () in a pair twice, that pair in a pair twice, …: 2⁶⁰ to hash or to print
REFUSED = {
    "a program": (model(4, W2=Bomb()), "it names 'pathlib"),
    "a shell": (b"cos\nsystem\n(S'touch crater'\ntR.", "it names 'os.system'"),
    "objects": (pickle.dumps({**MODEL, "W2": np.array([None])}), "it holds '|O8', not floating-point numbers"),
    "an array without a state": (b"(dS'W1'\n" + RECONSTRUCT + b"sS'W2'\nNs.", "no attribute 'state'"),
    "other entries": (pickle.dumps({"W1": MODEL["W1"], "b1": MODEL["W2"]}), "its content is not W1 and W2"),
    "numbers": (pickle.dumps({"W1": 1, "W2": 2}), "'int' object"),
    "other pixels": (model(W1=np.zeros((HIDDEN, 7056))), "W1 (7, 7056) and W2 (7,) are not (hidden, 6400)"),
    "no units": (model(4, W1=np.zeros((0, PIXELS)), W2=np.zeros(0)), "W1 (0, 6400) and W2 (0,)"),
    "not a number": (model(W2=np.full(HIDDEN, np.nan)), "a weight is NaN or infinite"),
    "too large for float32": (model(W2=np.full(HIDDEN, 1e300)), "a weight is NaN or infinite"),
    "half a file": (FILES["Python 2"][:5000], "it is incomplete or too large"),
    "half a file, protocol 4": (FILES["protocol 4"][:5000], "expected"),
    "nothing": (b"", "it is incomplete or too large"),
    "two policies": (pickle.dumps({"old": MODEL, "new": MODEL}), "or in one called 'model'"),
    "half a file, gzip": (gzip.compress(FILES["Python 2"])[:5000], "ended before"),
    "objects, npz": (npz(**{**MODEL, "W2": np.array([None])}), "allow_pickle=False"),
    "another zip": (b"PK\x03\x04", "not a zip file"),
    "a negative length": (model().replace(b"K\x07M", b"J\xff\xff\xff\xffM"), "negative dimensions"),
    # small files that make a reader allocate gigabytes, and values that crash or stop whoever hashes or prints them
    "large when decompressed": (gzip.compress(model(4, history=np.zeros(2**18))), "expected"),
    "large when decompressed, npz": (npz(**MODEL, history=np.zeros(2**18)), "it is incomplete or too large"),
    "a large memo": (b"\x80\x02}r\xff\xff\xff\x07.", "is not W1 and W2"),
    "many tuples as a key": (b"}" + TUPLES + b"Ns.", "unhashable"),
    "many tuples in a set": (b"\x80\x04\x8f(" + TUPLES + b"\x90.", "it is incomplete or too large"),
    "many tuples as a name": (model().replace(b"X\x01\x00\x00\x00<", TUPLES), "expected str instance"),
    "a long line": (b"F" + 10**6 * b"x" + b"\n.", "could not convert string to float"),
    "a large bytearray": (b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b".", "bytearray8"),
    "deep nesting": (b"\x80\x02})" + 10**6 * b"\x85" + b"Ns.", "it is incomplete or too large"),
    "a long integer": (b"\x80\x02}\x8b" + (10**4).to_bytes(4, "little") + 10**4 * b"\x01" + b"Ns.", "too large"),
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_import_refuses_other_files_in_one_line(folder, monkeypatch, capsys, content, words):
    monkeypatch.setattr(save_p, "MAX_BYTES", 2**20)
    Path("save.p").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["import", "save.p", "agent"]) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pong: import: save.p can't be read as save.p: ")
    assert words in line
    assert len(line) < 400
    assert [path.name for path in folder.iterdir()] == ["save.p"]  # nothing was executed


def test_import_plays_as_the_program_and_can_be_trained(folder, capsys):
    Path("save.p").write_bytes(FILES["Python 2"])
    assert main(["import", "save.p", "agent"]) == 0
    policy, loaded = load_policy("agent")
    x = random.integers(-1, 2, (5, PIXELS)).astype(np.float32)
    single = {name: weights.astype(np.float32) for name, weights in MODEL.items()}
    expected = [karpathy_numpy.policy_forward(single["W1"], single["W2"], row)[1] for row in x]
    np.testing.assert_allclose(policy.distribution(torch.from_numpy(x)).probs.detach().numpy(), expected, rtol=1e-5)
    assert loaded.config.task == "sticky 0.25, hold 2-4"
    files = ["README.md", "config.json", "config.toml", "game.gif", "policy.safetensors"]
    assert sorted(path.name for path in Path("agent").iterdir()) == files
    capsys.readouterr()
    assert main(["eval", "agent", "--episodes", "1", "--sampled", "--emulator", "machine"]) == 0
    assert "one fresh game, sampled, seed 0" in capsys.readouterr().out
    flags = ["--hidden", str(HIDDEN), "--total-steps", "1", "--num-envs", "1", "--device", "cpu", "--run-dir", "run"]
    assert main(["train", str(ROOT / "configs/pong.toml"), *flags, "--init", "agent"]) == 0
    assert torch.equal(load(Path("run/checkpoints/update-000000.safetensors")).policy["W1"], loaded.policy["W1"])


def test_import_names_what_it_leaves_out(folder, capsys):
    Path("save.p").write_bytes(pickle.dumps({**PORT, "\x1b[2J": 0}))
    policy, _ = import_save_p(Path("save.p"), {})
    assert capsys.readouterr().out == "save.p: took W1 and W2, left out 'rmsprop_cache, episode, mean, \\x1b[2J'\n"
    assert torch.equal(policy.state_dict()["W2"], torch.from_numpy(MODEL["W2"]).float())


def test_import_task_and_games_by_flags(folder, monkeypatch):
    monkeypatch.setattr("pong.export.evaluate", lambda *_, **__: Evaluation([Episode(0, -21.0, 1000)]))
    Path("save.p").write_bytes(FILES["protocol 2"])
    flags = ["--hold", "4", "--sticky", "0", "--noop-max", "30", "--episodes", "1"]
    assert main(["import", "save.p", "agent", *flags]) == 0
    config = load_config("agent/config.toml")
    assert (config.hold, config.sticky, config.noop_max) == (4, 0, 30)
    assert "- greedy: -21.00, one fresh game" in Path("agent/README.md").read_text(encoding="utf-8")


def test_export_save_p_round_trip(folder):
    """Nothing in the written file is newer than protocol 2, and the functions that it names existed in 2016."""
    Path("save.p").write_bytes(FILES["float32"])
    assert main(["import", "save.p", "agent"]) == 0
    assert main(["export", "agent", "--save-p", "again.p"]) == 0
    content = Path("again.p").read_bytes()
    written = pickle.loads(content)
    assert list(written) == ["W1", "W2"]
    for name, weights in MODEL.items():  # float64, as np.random.randn makes them
        np.testing.assert_array_equal(written[name], weights.astype(np.float32).astype(np.float64), strict=True)
    codes = [(code, argument) for code, argument, _ in pickletools.genops(content)]
    assert max(code.proto for code, _ in codes) == 2
    calls = {argument for code, argument in codes if code.name == "GLOBAL"}
    assert calls == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"}


def test_load_of_a_save_p_names_the_command(folder, capsys):
    Path("save.p").write_bytes(FILES["Python 2"])
    assert main(["eval", "save.p"]) == 2
    assert capsys.readouterr().err.endswith("; if it is a save.p of 2016: pong import save.p DIR\n")
