"""A temporary stand-in for the new ``pong/render/frame.py``."""

from pong.render.game import RenderedFrame
from pong.render.game import play as play_frames

__all__ = ["RenderedFrame", "play_frames"]
