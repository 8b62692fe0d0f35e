"""A policy's file for the page in the browser (web/): two layers, the first one in 8 bits."""

import json

import numpy as np

from pong.config import Config, InputError
from pong.envs.pong.task import pong_task
from pong.policies import Policy


def agent_bytes(policy: Policy, config: Config) -> bytes:
    """The file's bytes; an InputError if the page can't play this policy.

    A header in JSON, with its length before it (uint32); scales (H,) and W2 (outputs, H) float32; W1 (inputs, H) int8.
    A hidden unit's weights are its integers times its scale. All numbers are little-endian.
    """
    if not config.is_pong or policy.two_layers is None:
        raise InputError(f"export: the page plays Pong with networks of two layers; {config.name} has another")
    W1, W2 = (tensor.float().numpy() for tensor in policy.two_layers)
    task = pong_task(config)
    scales = np.maximum(np.abs(W1).max(axis=0) / 127, np.finfo(np.float32).tiny)  # (H,)
    header = {
        "name": config.name,
        "layout": {"differences": task.layout.differences, "actions": task.layout.actions, "width": task.layout.width},
        "sticky": task.sticky,
        "holds": task.holds,
        "hidden": W1.shape[1],
        "outputs": len(W2),
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    arrays = scales.astype("<f4"), W2.astype("<f4"), np.rint(W1 / scales).astype(np.int8)
    return b"".join([np.uint32(len(text)).tobytes(), text, *(array.tobytes() for array in arrays)])
