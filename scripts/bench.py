"""How far the machine leaves ALE behind, and training in it ALE's own speed and the 2016 loop.

Everything is measured in turns on the same computer, see bench_turns.py; what counts is the ratios.
"""

import contextlib
import json
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import ale_py
import numpy as np
import plot
import torch
import tyro
from bench_2016 import loop_of_2016
from bench_turns import Training, best_threads, fleet, hold, in_turns, raw, rollout_only, where_the_time_goes
from numpy.typing import NDArray
from processes import ROOT, watch
from rich.console import Console
from rich.markdown import Markdown

from pong.config import Config, load_config
from pong.distributed import cores

GAMES = (16, 32, 1024)
MOST_IN_ALE = 32  # 1,024 emulators would take minutes to start, and be no faster
BESIDE_ALE = (("machine.step", "AtariVectorEnv, threads: 1"), ("MachineFleet", "PongFleet"))
BESIDE_RAW = (("training", "raw"), ("rollout", "raw"), ("training", "2016 loop"))
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "250")


@dataclass(frozen=True)
class Flags:
    """Measure emulation, rollout and training in turns, and print their ratios."""

    configs: Annotated[tuple[str, ...], tyro.conf.arg(help="recipes in configs/")] = ("pong", "karpathy")
    rounds: Annotated[int, tyro.conf.arg(help="turns of each")] = 4
    seconds: Annotated[float, tyro.conf.arg(help="the least each turn takes")] = 1.5
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda")] = "auto"
    watch_updates: Annotated[int, tyro.conf.arg(help="updates over which `pong train` is watched from outside")] = 100
    ranks: Annotated[int, tyro.conf.arg(help="also watch it with so many torch.distributed ranks")] = 0
    json: Annotated[Path | None, tyro.conf.arg(help="file for all of it; the tables go to .md beside it")] = None


def main() -> None:
    """Measure, print, write."""
    flags = tyro.cli(Flags, prog="scripts/bench.py")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    report: dict[str, Any] = {"machine": machine(), "one core": one_core(flags), "recipes": {}}
    for name in flags.configs:
        endless = {"device": flags.device, "total_steps": 2**31}
        config = load_config(ROOT / "configs" / f"{name}.toml").model_copy(update=endless)
        report["recipes"][name] = recipe(config, flags)
    text = markdown(report)
    Console().print(Markdown(text))
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        flags.json.with_suffix(".md").write_text(text, encoding="utf-8")


def machine() -> dict[str, Any]:
    """Where this was measured."""
    told = Path("/proc/cpuinfo")
    cpu = re.search(r"^model name\s*: *(.*)$", told.read_text(encoding="utf-8") if told.exists() else "", re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else "unknown",
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ale_py": ale_py.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def one_core(flags: Flags) -> dict[str, Any]:
    """The machine on one core beside ALE, in pong.toml's task: the game alone, and with the rows that a policy sees."""
    config = load_config(ROOT / "configs/pong.toml")
    threads = sorted({1, best_threads(config, flags.seconds / 2)})
    report = {}
    for games in GAMES:
        ours, ale = (config.model_copy(update={"num_envs": n}) for n in (games, min(games, MOST_IN_ALE)))
        as_many = games <= MOST_IN_ALE  # else ALE's speed is only compared with, on one thread
        turns = {f"AtariVectorEnv, threads: {n}": raw(ale, n) for n in (threads if as_many else [1])}
        turns["PongFleet"] = fleet(ale.model_copy(update={"emulator": "ale"}))
        turns |= {"machine.step": fleet(ours, "play"), "MachineFleet": fleet(ours)}
        speeds = in_turns(turns, flags.rounds, flags.seconds)
        shown = list(turns)[0 if as_many else -2 :]
        kept = summaries({what: speeds[what] for what in shown}, hold(config))
        report[f"{games:,} games"] = kept | ratios(speeds, BESIDE_ALE)
    return report


def recipe(config: Config, flags: Flags) -> dict[str, Any]:
    """All about a recipe."""
    threads = best_threads(config, flags.seconds / 2)
    with contextlib.ExitStack() as stack:
        training = Training(config, stack)
        turns = {
            "raw": raw(config, threads),
            "rollout": rollout_only(config, stack),
            "training": training.turn,
            "2016 loop": loop_of_2016(config, stack),
        }
        with gpu_busy() as busy:
            speeds = in_turns(turns, flags.rounds, flags.seconds)
    return {
        **summaries(speeds, hold(config)),
        "raw_threads": threads,
        **ratios(speeds, BESIDE_RAW),
        **training.medians(),
        "microseconds_per_step": where_the_time_goes(config, 2 * flags.seconds),
        "pong train": watch(config, flags.watch_updates, ranks=1),
        f"pong train, {flags.ranks} ranks": watch(config, flags.watch_updates, flags.ranks) if flags.ranks else None,
        "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "gpu_busy_percent": round(np.mean(busy), 1) if busy else None,
    }


def summaries(speeds: dict[str, NDArray[np.float64]], frames: int) -> dict[str, Any]:
    """Median and range of agent steps a second over the turns, each step this many frames."""
    return {
        what: {
            "steps_per_second": round(np.median(some)),
            "steps_per_second_range": [round(some.min()), round(some.max())],
            "frames_per_second": round(frames * np.median(some)),
        }
        for what, some in speeds.items()
    }


def ratios(speeds: dict[str, NDArray[np.float64]], pairs: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Median and range, turn by turn, so that a slow minute of the computer cancels out."""
    found = {f"{one} ÷ {other}": speeds[one] / speeds[other] for one, other in pairs}
    return {
        what: {"median": round(np.median(some), 3), "range": [round(some.min(), 3), round(some.max(), 3)]}
        for what, some in found.items()
    }


@contextlib.contextmanager
def gpu_busy() -> Iterator[list[int]]:
    """A list that holds, after the block, how busy the GPU was, percent, four times a second; empty without one."""
    busy: list[int] = []
    if not shutil.which(NVIDIA_SMI[0]):
        yield busy
        return
    with subprocess.Popen(NVIDIA_SMI, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sampler:
        try:
            yield busy
        finally:
            sampler.terminate()
            busy += [int(sample) for sample in sampler.communicate()[0].split() if sample.isdigit()]


def markdown(report: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    here = report["machine"]
    where = (
        f"{here['cpu']}, {here['cores']} cores, GPU: {here['gpu'] or 'none'}; torch {here['torch']}, "
        f"ale-py {here['ale_py']}, Python {here['python']}, {here['date']}.\n"
    )
    games = {name: speeds_of(result, "frames_per_second") for name, result in report["one core"].items()}
    recipes = {f"{name}.toml": of_recipe(result) for name, result in report["recipes"].items()}
    title = f"frames/s on one core; ALE with {MOST_IN_ALE} games at most"
    return "\n".join((where, table(title, games), table("", recipes)))


def table(title: str, columns: dict[str, dict[str, str]]) -> str:
    """A table whose columns are what they show by row."""
    rows = dict.fromkeys(row for cells in columns.values() for row in cells)
    return plot.markdown([title, *columns], [[row, *(some.get(row, "") for some in columns.values())] for row in rows])


def speeds_of(result: dict[str, Any], key: str, unit: str = "") -> dict[str, str]:
    """What to show of the turns and of their ratios."""
    shown = {}
    for what, one in result.items():
        if "÷" in what:
            digits = 2 if one["median"] < 100 else 0
            shown[what] = "{0:,.{3}f} ({1:,.{3}f} … {2:,.{3}f})".format(one["median"], *one["range"], digits)
        elif isinstance(one, dict) and "frames_per_second" in one:  # a summary
            shown[what + unit] = f"{one[key]:,}"
    return shown


def of_recipe(result: dict[str, Any]) -> dict[str, str]:
    """What to show of a recipe."""
    shown = speeds_of(result, "steps_per_second", ", agent steps/s")
    shown["learner, ms per update"] = f"{result['learner_ms_per_update']} ({result['rows_per_update']:,} rows)"
    for what, spent in result["microseconds_per_step"].items():
        shown[f"{what}, µs per step"] = str(spent)
    for command, seen in result.items():
        if command.startswith("pong train") and seen:
            memory = f"{command}, memory of all processes, MiB: first tenth, most (updates)"
            shown[f"{command}, agent steps/s"] = f"{seen['steps_per_second']:,}"
            shown[memory] = "{early_mb:,}, {peak_mb:,} ({updates})".format(**seen)
    if result["peak_gpu_mb"] is not None:
        shown |= {"GPU memory, MiB": f"{result['peak_gpu_mb']:,}", "GPU busy, %": str(result["gpu_busy_percent"])}
    return shown


if __name__ == "__main__":
    main()
