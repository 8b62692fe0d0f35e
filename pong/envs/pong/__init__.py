"""Pong, compiled and in ALE."""
