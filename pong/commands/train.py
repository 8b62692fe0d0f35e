"""``pong train``: train a recipe, or resume a run."""

import time

from pong.commands.train_flags import train_input


def train(arguments: list[str], began: float | None = None) -> int:
    """Train a config; keys of the config are flags. Under ``torchrun``, together with the other ranks.

    A run's minutes count from when the command ``began``, on the monotonic clock; from now if None.
    """
    began = time.monotonic() if began is None else began
    request = train_input(arguments)

    from pong import run  # here, so that help and bad input answer at once

    return run.train(run.TrainRequest(**vars(request)), ["pong", "train", *arguments], began)
