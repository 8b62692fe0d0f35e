"""Train two tiny updates of real Pong through the command line, then look at everything the run left behind."""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pong.tracking import TAGS

TINY = ["--num-envs", "4", "--horizon", "64", "--total-steps", "500", "--device", "cpu"]


def pong(*arguments: str) -> str:
    """What `pong …` prints; fails if it does not exit with 0."""
    command = [sys.executable, "-m", "pong", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(condition: bool, what: str) -> None:
    if not condition:
        sys.exit(f"smoke: {what}: no")
    print(f"smoke: {what}: yes")


def main() -> None:
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        log = pong("train", str(root / "configs/pong.toml"), *TINY, "--run-dir", str(run))
        expect("steps/s" in log and "saved" in log, "the log shows progress and where the weights are")
        rows = list(csv.DictReader((run / "metrics.csv").open(encoding="utf-8")))
        expect(len(rows) == 2, "metrics.csv has a row for each of the two updates")
        expect(float(rows[-1]["losses/grad_norm"]) > 0, "the gradient is not zero")
        expect(float(rows[-1]["losses/approx_kl"]) > 0, "the step changed the policy")
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
        expect("torch" in about["versions"], "run.json names the versions")
        events = EventAccumulator(str(run))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        missing = set(TAGS) - tags - {tag for tag in TAGS if not rows[-1][tag] and not rows[0][tag]}
        expect(not missing, "TensorBoard has every scalar of metrics.csv")
        scores = Path(folder) / "scores.json"
        said = pong("eval", str(run), "--episodes", "2", "--json", str(scores))
        games = [json.loads(scores.read_text(encoding="utf-8"))[way]["n"] for way in ("sampled", "greedy")]
        expect(said.count("standard error") == 2 and games == [2, 2], "eval plays, sampled and greedily")
    print("2 passed, 0 failed")


if __name__ == "__main__":
    main()
