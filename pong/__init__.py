"""Karpathy's "Pong from Pixels" in PyTorch: plain policy gradient through the surrogate loss −log π·R."""

__version__ = "0.1.0"
