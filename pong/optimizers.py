"""Torch's Adam and RMSProp, without the import of torch's compiler."""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pong.config import Config, InputError


class _Plain(Optimizer):
    """An optimiser that does not import torch's compiler, which takes two seconds and 250 MB."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all parameters; no ``closure`` is called."""
        inspect.unwrap(super().step)(self)


for _name in ("zero_grad", "add_param_group", "state_dict", "load_state_dict"):
    setattr(_Plain, _name, inspect.unwrap(getattr(Optimizer, _name)))


class Adam(_Plain, torch.optim.Adam):
    """Torch's; ``fused=True`` passes over the numbers once."""


class RMSprop(_Plain, torch.optim.RMSprop):
    """Torch's: ``alpha`` is the decay, and ``eps`` stands outside the root, as in 2016."""


def make_optimizer(config: Config, policy: torch.nn.Module) -> Optimizer:
    """Adam, or the RMSProp of 2016."""
    if config.optimizer == "rmsprop":
        return RMSprop(policy.parameters(), lr=config.learning_rate, alpha=config.rmsprop_decay, eps=config.epsilon)
    betas = (config.adam_beta1, config.adam_beta2)
    return Adam(policy.parameters(), lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)


def load_optimizer(optimizer: Optimizer, saved: dict[int, dict[str, Tensor]]) -> None:
    """Give a fresh optimiser the state of a saved one, by parameter number and name."""
    names = {"step", "square_avg"} if isinstance(optimizer, torch.optim.RMSprop) else {"step", "exp_avg", "exp_avg_sq"}
    parameters = dict(enumerate(optimizer.param_groups[0]["params"]))
    state: dict[int, dict[str, Tensor]] = {}
    for number, values in saved.items():
        like, step = parameters.get(number, torch.empty(0)), torch.empty(())
        if set(values) != names or any(v.shape != (like, step)[k == "step"].shape for k, v in values.items()):
            raise InputError(f"the checkpoint does not fit its config: optimiser state {number}, {', '.join(values)}")
        state[number] = {name: value.clone() for name, value in values.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
