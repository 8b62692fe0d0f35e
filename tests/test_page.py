"""The page in the browser, in headless Chromium: its game, its gradient, its switches and a match."""

import functools
import http.server
import inspect
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import page
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pong.config import InputError, load_config
from pong.envs.pong import machine
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.task import PongTask
from pong.evaluate import evaluate
from pong.export import agent_bytes
from pong.losses import surrogate_loss
from pong.observations import RowLayout, SparseFrames
from pong.policies import KarpathyPolicy, make_policy
from pong.train import load_policy

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FRAMES, DECISIONS, SEED = 200_000, 20_000, 7
EXPERT = PongTask(actions=6, layout=RowLayout("both", 6))
MOST = 2 * machine.MOST * 2 + 1  # numbers of an expert's row


def random_words(seed: int, n: int) -> NDArray[np.uint32]:
    """The first n numbers of the page's generator."""
    return np.frombuffer(np.random.RandomState(seed).bytes(4 * n), "<u4")


def played_frames(players: int = 1) -> NDArray[np.int32]:
    """The state after each frame: random play, then an action that follows the ball, then the same with FIRE."""
    fleet = MachineFleet(1, PongTask(hold=1))
    fleet.emulators.words[0] = np.random.RandomState(SEED).get_state()[1]
    fleet.games["ale_drawn"] = machine.WORDS
    (left,) = np.zeros(1, machine.GAME)
    machine.reset(fleet.games[0])
    machine.reset(left)
    words, states = random_words(SEED + 1, FRAMES), np.empty((FRAMES, len(machine.GAME)), np.int32)
    for t in range(FRAMES):
        game = fleet.games[0]
        follow = [machine.UP if game["y"] < game[paddle] else machine.DOWN for paddle in ("own_y", "cpu_y")]
        random = int(words[t] % 6), int(words[t] // 6 % 6)
        action, left_action = [(random[k], follow[k], follow[k] + 2)[t * 3 // FRAMES] for k in range(2)]
        second = left if players == 2 else None
        machine.take(game, action, fleet.emulators.words[0], fleet.emulators.threshold, second, left_action)
        machine.act(game, fleet.task.max_frames, second)
        states[t] = game.tolist()
        if machine.is_over(game, fleet.task.max_frames):
            machine.reset(game)
    return states


def played_rows() -> NDArray[np.int32]:
    """Of each decision of random play: how many numbers the row has, their columns, and their columns times signs."""
    fleet = MachineFleet(1, EXPERT)
    x = fleet.reset(np.array([SEED]))
    fleet.emulators.words[0] = np.random.RandomState(SEED).get_state()[1]
    words, rows = random_words(SEED + 1, DECISIONS), np.zeros((DECISIONS, 2 * MOST + 1), np.int32)
    for t in range(DECISIONS):
        n = len(x.columns)
        rows[t, 0], rows[t, 1 : n + 1], rows[t, MOST + 1 : MOST + n + 1] = n, x.columns, x.signs
        x = fleet.step(np.array([words[t] % 6], np.int64), np.ones(1, np.bool_)).observations
    return rows


def gradient_case() -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Rows, weights, actions and advantages as lists, and the gradient of the loss by autograd."""
    fleet, words = MachineFleet(1, PongTask()), random_words(3, 600)
    rows = [fleet.reset(np.array([SEED]))]
    rows += [fleet.step(np.array([w % 2], np.int64), np.ones(1, np.bool_)).observations for w in words[:499]]
    x = SparseFrames.cat(rows)
    policy = KarpathyPolicy(40, generator=torch.Generator().manual_seed(1))
    actions, advantages = torch.from_numpy(words[:500] % 2).long(), torch.linspace(-2, 2, 500).roll(100)
    distribution = policy.distribution(x)
    loss = surrogate_loss(distribution.log_prob(actions), advantages, reduction="mean")
    (loss - 0.03 * distribution.entropy().mean()).backward()
    case = {"columns": x.columns, "signs": x.signs, "offsets": [*x.offsets.tolist(), len(x.columns)]}
    case |= {"W": policy.W1.flatten(), "w": policy.W2, "actions": actions, "advantages": advantages}
    lists = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    return lists, [policy.W1.grad, policy.W2.grad]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves web/ and tests/, arrays, and takes the browser's report."""

    arrays: dict[str, bytes]
    reports: list[dict[str, Any]]
    reported: threading.Event

    def translate_path(self, path: str) -> str:
        return str(ROOT / ("tests" if path.startswith("/page_checks") else "web") / path.lstrip("/").partition("?")[0])

    def do_GET(self) -> None:
        body = self.arrays.get(self.path)
        if body is None:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path == "/checks.html" else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def do_POST(self) -> None:
        self.reports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()
        self.reported.set()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The results of tests/page_checks.js."""
    if CHROMIUM is None:
        if os.environ.get("PONG_PAGE") == "required":
            pytest.fail("Chromium is missing")
        pytest.skip("needs Chromium")
    page.build()
    case, _ = gradient_case()
    Handler.arrays = {
        "/checks.html": b'<!doctype html><title>checks</title><script type="module" src="page_checks.js"></script>',
        "/frames": played_frames().tobytes(),
        "/duel": played_frames(players=2).tobytes(),
        "/rows": played_rows().tobytes(),
        "/gradient": json.dumps(case).encode(),
    }
    Handler.reports, Handler.reported = [], threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(ROOT)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    profile = tmp_path_factory.mktemp("chromium")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    url = f"http://127.0.0.1:{server.server_port}/checks.html"
    chromium = subprocess.Popen([CHROMIUM, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert Handler.reported.wait(300), "the browser has not reported"
        yield Handler.reports[0]
    finally:
        chromium.kill()
        chromium.wait()
        server.shutdown()


@pytest.mark.parametrize(
    ("key", "expected"),
    [("frames", f"{FRAMES} equal"), ("duel", f"{FRAMES} equal"), ("rows", f"{DECISIONS} equal"), ("errors", [])],
)
def test_game_and_rows_in_the_browser_are_the_compiled_ones(browser: dict[str, Any], key: str, expected: Any) -> None:
    assert browser[key] == expected


def test_gradient_in_the_browser_is_that_of_the_loss(browser: dict[str, Any]) -> None:
    _, (W, w) = gradient_case()
    for name, expected in (("W", W.flatten()), ("w", w)):
        error = (torch.tensor(browser["gradient"][name]) - expected).abs().max() / expected.abs().max()
        assert error < 1e-5, name


def test_learner_in_the_browser_learns(browser: dict[str, Any]) -> None:
    first, last = browser["learned"]
    assert first < -19.5
    assert last > -16


@pytest.mark.parametrize("key", ["log", "baseline", "ownReturn", "resetAtPoints", "rate", "sample"])
def test_switch_changes_what_is_learned_and_can_be_taken_back(browser: dict[str, Any], key: str) -> None:
    assert browser["switches"][key] == {"same": False, "sentence": True, "back": True}


def test_left_paddle_follows_the_keys(browser: dict[str, Any]) -> None:
    start, up, down = browser["keys"]
    assert up < start < down


def test_film_is_a_gif_of_its_frames(browser: dict[str, Any]) -> None:
    with Image.open(BytesIO(bytes(browser["film"]["bytes"]))) as film:
        assert (film.size, film.n_frames) == ((160, 210), browser["film"]["frames"])
        film.seek(film.n_frames - 1)
        pixels = np.asarray(film.convert("RGB"))
    assert pixels.reshape(-1, 3)[:: 160 * 7].tolist() == browser["film"]["sample"]


def test_agent_of_eight_bits_scores_like_the_original() -> None:
    policy, loaded = load_policy("pretrained/pong_expert")
    config = loaded.config.replace(emulator="machine")
    data = agent_bytes(policy, config)
    length = int(np.frombuffer(data, "<u4", 1)[0])
    header = json.loads(data[4 : 4 + length])
    hidden, outputs, width = header["hidden"], header["outputs"], header["layout"]["width"]
    scales = np.frombuffer(data, "<f4", hidden, 4 + length)
    W1 = np.frombuffer(data, np.int8, hidden * width, len(data) - hidden * width).reshape(width, hidden) * scales
    rounded = make_policy(config)
    W2 = np.frombuffer(data, "<f4", hidden * outputs, 4 + length + 4 * hidden).reshape(outputs, hidden)
    rounded.load_state_dict({"network.W1": torch.from_numpy(W1), "network.W2": torch.from_numpy(W2.copy())})
    scores = [evaluate(agent, config, episodes=100, seed=5).mean for agent in (policy, rounded)]
    assert scores[1] == pytest.approx(scores[0], abs=0.3)


def test_agent_bytes_rejects_what_the_page_cannot_play() -> None:
    config = load_config("configs/pong_conv_plain.toml")
    with pytest.raises(InputError, match="pong_conv_plain has another"):
        agent_bytes(make_policy(config), config)


def test_translate_rejects_what_it_does_not_know() -> None:
    assert "export function frame(" in page.translate(inspect.getsource(machine))
    with pytest.raises(NotImplementedError, match="yield"):
        page.translate("def f():\n    'A rule.'\n    yield 1\n")
