"""Stable-Baselines3's PPO on the compiled Pong, in an environment that SB3 vectorises itself.

pip install stable-baselines3 && python examples/sb3.py
"""

import sys

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

envs = make_vec_env("pong.envs:pong/Pong-v5", 8, seed=1, env_kwargs={"obs_type": "atari", "noop_max": 30})
model = PPO("CnnPolicy", envs, n_steps=128, batch_size=256, n_epochs=4, clip_range=0.1, ent_coef=0.01, verbose=1)
model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
