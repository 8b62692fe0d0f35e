"""Film the agent of pong.toml before training, on the way and after, at four times the natural speed.

    python scripts/learning_film.py

writes results/learning.gif. It trains the run of results/pong/s11 again, bit for bit; the times are of its metrics.csv.
"""

import contextlib
import copy
import itertools
from collections.abc import Iterator

import common
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pong.config import Config, load_config
from pong.policies import Policy
from pong.render.frame import play_frames
from pong.render.picture import DARK, LIGHT
from pong.train import Trainer

RUN, FILE = common.ROOT / "results/pong/s11", common.ROOT / "results/learning.gif"
SECONDS, SPEED, FPS, SCALE, MARGIN, TITLE = 15, 4, 15, 2, 8, 30  # FPS decisions a second are natural speed


def main() -> None:
    """Train and film."""
    config = load_config(RUN / "config.toml").replace(device="cpu")
    panes = [list(screens(policy, config)) for policy in policies(config)]
    pictures = [picture(images) for images in zip(*panes, strict=False)]
    pictures[0].save(FILE, save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0)


def policies(config: Config) -> Iterator[tuple[str, Policy]]:
    """The policy and what to call it: untrained, when it first breaks even, and at the end."""
    rows = pd.read_csv(RUN / "metrics.csv")
    even = rows[rows["charts/episodic_return_mean100"] >= 0].iloc[0]
    with contextlib.closing(Trainer(config)) as trainer:
        yield "untrained", copy.deepcopy(trainer.policy)
        for row in (even, rows.iloc[-1]):
            for _ in itertools.takewhile(lambda update: update.number < row["update"], trainer.run()):  # noqa: B023
                pass
            yield f"after {60 * row['minutes']:.0f} seconds", copy.deepcopy(trainer.policy)


def screens(named: tuple[str, Policy], config: Config) -> Iterator[Image.Image]:
    """Every fourth screen of a game, below the policy's name."""
    name, policy = named
    for frame in itertools.islice(play_frames(policy, config), 0, SPEED * SECONDS * FPS, SPEED):
        screen = ImageOps.scale(Image.fromarray(frame.screen), SCALE, Image.Resampling.NEAREST)
        image = ImageOps.expand(screen, (0, TITLE, 0, 0), DARK)
        ImageDraw.Draw(image).text((image.width // 2, TITLE // 2), name, LIGHT, ImageFont.load_default(20), anchor="mm")
        yield image


def picture(panes: tuple[Image.Image, ...]) -> Image.Image:
    """Panes beside each other, in few colours."""
    width, height = panes[0].width + MARGIN, panes[0].height
    whole = Image.new("RGB", (len(panes) * width - MARGIN, height), DARK)
    for i, pane in enumerate(panes):
        whole.paste(pane, (i * width, 0))
    return whole.quantize(32, dither=Image.Dither.NONE)


if __name__ == "__main__":
    common.run(main)
