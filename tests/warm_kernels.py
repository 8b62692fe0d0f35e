"""Pong's compiled functions, loaded."""

from pong.config import Config
from pong.envs import prepare

prepare(Config())
