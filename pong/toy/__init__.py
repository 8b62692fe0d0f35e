"""The log-derivative trick in numbers: by hand | autograd through ``pong.losses`` | finite differences."""

from pong.toy.examples import EXAMPLES, Example, Way
from pong.toy.gradients import System
from pong.toy.tables import main

__all__ = ["EXAMPLES", "Example", "System", "Way", "main"]
