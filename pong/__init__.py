"""Karpathy's "Pong from Pixels" in PyTorch: plain policy gradient through the surrogate loss −log π·R."""

import time

STARTED = time.monotonic()  # the program, of whose imports this is the first
__version__ = "1.0.0"
