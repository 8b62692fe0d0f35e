"""The log-derivative trick in numbers: by hand | autograd through ``pong.losses`` | finite differences."""

from pong.toy.command import main
from pong.toy.examples import EXAMPLES
from pong.toy.systems import Example, System, Way

__all__ = ["EXAMPLES", "Example", "System", "Way", "main"]
