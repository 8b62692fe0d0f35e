"""Film the agent of results/pong/s11 before training, on the way and after, at four times the natural speed.

The run is trained again, bit for bit on the same kind of processor; the times are those of its metrics.csv.
"""

import contextlib
import itertools
from collections.abc import Iterator

import common
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from pong.config import Config, load_config
from pong.render.frame import play_frames
from pong.render.picture import DARK, LIGHT
from pong.train import Trainer

RUN, FILE = common.ROOT / "results/pong/s11", common.ROOT / "results/learning.gif"
SECONDS, SPEED, FPS = 15, 4, 15  # FPS decisions a second are natural speed
WIDTH, HEIGHT, MARGIN, TITLE = 320, 420, 8, 30


def main() -> None:
    """Train and film."""
    config = load_config(RUN / "config.toml").replace(device="cpu")
    pictures = [picture(panes) for panes in zip(*games(config), strict=False)]
    pictures[0].save(FILE, save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0)


def games(config: Config) -> Iterator[list[tuple[str, Image.Image]]]:
    """Every fourth screen of a game and its title: untrained, when the policy first breaks even, and at the end."""
    rows = pd.read_csv(RUN / "metrics.csv")
    even, end = rows[rows["charts/episodic_return_mean100"] >= 0].iloc[0], rows.iloc[-1]
    after = [(row["update"], f"after {60 * row['minutes']:.0f} seconds") for row in (even, end)]
    with contextlib.closing(Trainer(config)) as trainer:
        updates = trainer.run()
        for number, title in [(0, "untrained"), *after]:
            while trainer.updates < number:
                next(updates)
            frames = itertools.islice(play_frames(trainer.policy, config), 0, SPEED * SECONDS * FPS, SPEED)
            screens = [Image.fromarray(frame.screen) for frame in frames]
            yield [(title, screen.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)) for screen in screens]


def picture(panes: tuple[tuple[str, Image.Image], ...]) -> Image.Image:
    """Screens beside each other, each below its title, in few colours."""
    whole = Image.new("RGB", (len(panes) * (WIDTH + MARGIN) - MARGIN, TITLE + HEIGHT), DARK)
    for i, (title, screen) in enumerate(panes):
        left, pen = i * (WIDTH + MARGIN), ImageDraw.Draw(whole)
        pen.text((left + WIDTH // 2, TITLE // 2), title, LIGHT, ImageFont.load_default(20), anchor="mm")
        whole.paste(screen, (left, TITLE))
    return whole.quantize(32, dither=Image.Dither.NONE)


if __name__ == "__main__":
    common.run(main)
