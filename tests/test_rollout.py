"""Rollouts against written-down play: which rows a batch holds, what they are worth, and what random streams give.

The play is scripted: known rewards and ends per moment and emulator. An observation names its emulator and moment and
the policy's action follows from both, so that every row of a batch can be told from every other one.
"""

from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pong.config import Config
from pong.envs.base import Fleet, StepResult
from pong.observations import PIXELS, SparseFrames
from pong.rollout import EVALUATION, TRAINING, ActionNoise, Episode, Rollout, emulator_seeds

exact = settings(deadline=None, derandomize=True, max_examples=60)  # the same examples on every machine
MOMENTS = 10  # the first pixel that names a moment; those before it name emulators


@dataclass(repr=False)
class Script(Fleet):
    """N emulators whose rewards and ends are written down, (T, N); past the end it starts over, or fails.

    An emulator without a decision misses its line: it neither pays nor ends.
    """

    rewards: Any
    ends: Any = None
    hold: int = 4
    repeat: bool = True
    moment: int = 0
    seeds: list[Any] = field(default_factory=list)  # of every reset
    actions: list[Any] = field(default_factory=list)  # of every step

    def __post_init__(self):
        self.rewards = np.array(self.rewards, np.float32)
        self.ends = np.zeros(self.rewards.shape, bool) if self.ends is None else np.array(self.ends, bool)
        self.num_envs = self.rewards.shape[1]

    def reset(self, seeds=None):
        self.seeds.append(None if seeds is None else [int(s) for s in seeds])
        return self._observe()

    def step(self, actions, active):
        self.actions.append(np.where(active, actions, -1).tolist())
        assert self.repeat or self.moment < len(self.rewards), "played on after the end of the script"
        t, decided = self.moment % len(self.rewards), active
        self.moment += 1
        return StepResult(self._observe(), self.rewards[t] * decided, self.ends[t] & decided, self.hold * decided)

    def _observe(self):
        frames = np.zeros((self.num_envs, PIXELS), np.int8)
        for i in range(self.num_envs):
            frames[i, i] = 1
            frames[i, MOMENTS + self.moment] = -1
        return SparseFrames.from_dense(frames)


def names(x):
    """(emulator, moment) of each row, read back from its two pixels."""
    return [tuple((row.nonzero().flatten() - torch.tensor([0, MOMENTS])).tolist()) for row in x.dense()]


class Namer:
    """Answers each observation with a fixed action, whatever the noise."""

    @staticmethod
    def answer(emulator, moment):
        return (emulator + moment // 2) % 2

    noise_shape = ()
    two_layers = None

    def act(self, x, noise):
        return torch.tensor([self.answer(*name) for name in names(x)])


class Coin:
    """Plays nothing but the noise."""

    noise_shape = ()
    two_layers = None

    def act(self, x, noise):
        return (noise < 0.5).long()


def config(**changes):
    """γ = ½ is exact in binary; horizon 3, no standardising, fresh emulators only at the start."""
    return Config(
        **{"gamma": 0.5, "horizon": 3, "standardize": "none", "checkpoint_every": 1000, "players": 1, **changes}
    )


def play(script, updates, actor=None, purpose=TRAINING, **changes):
    """The batches of that many updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pong.rollout.make_fleet", lambda config, n: script)
        rollout = Rollout(config(num_envs=script.num_envs, **changes), actor or Namer(), purpose)
    return [rollout.collect(update) for update in range(updates)]


def rows(batch):
    """{(emulator, moment): return} of a batch, whose rows must be aligned, distinct and in order.

    Each emulator's rows stand together, as they were played.
    """
    found = names(batch.observations)
    assert len(found) == len(batch.actions) == len(batch.returns) == len(set(found))
    assert found == sorted(found)
    assert batch.actions.tolist() == [Namer.answer(*name) for name in found]
    assert (batch.actions.dtype, batch.returns.dtype) == (torch.int64, torch.float32)
    assert batch.weight == 1
    return dict(zip(found, batch.returns.tolist(), strict=True))


# --- fixed horizon, by hand -------------------------------------------------------------------------------------------


def test_an_unfinished_rally_waits_for_the_next_batch():
    # moments     0  1  2 | 3  4  5 | 6  7  8
    emulator_0 = [0, 1, 0, 0, -1, 0, 0, 0, 1]
    emulator_1 = [0, 0, 0, 0, 0, 1, -1, 0, 0]
    script = Script(np.transpose([emulator_0, emulator_1]))
    first, second, third = play(script, 3)

    # emulator 0: the point of moment 1, and ½ of it one moment earlier; moment 2 waits, as does all of emulator 1
    assert rows(first) == {(0, 0): 1 / 2, (0, 1): 1}
    # over the boundary: −1 at moment 4 is −½ at 3 and −¼ at 2; +1 at moment 5 is 1/32 at 0
    assert rows(second) == {
        **{(0, 2): -1 / 4, (0, 3): -1 / 2, (0, 4): -1},
        **{(1, 0): 1 / 32, (1, 1): 1 / 16, (1, 2): 1 / 8, (1, 3): 1 / 4, (1, 4): 1 / 2, (1, 5): 1},
    }
    # emulator 0 had moment 5 waiting: 1/8 of moment 8; emulator 1 won at once and its moments 7 and 8 wait now
    assert rows(third) == {(0, 5): 1 / 8, (0, 6): 1 / 4, (0, 7): 1 / 2, (0, 8): 1, (1, 6): -1}
    # counted as played, not as learned from: 3 moments of 2 emulators, 4 frames each
    assert [(b.points, b.steps, b.frames, b.episodes) for b in (first, second, third)] == [
        (1, 6, 24, []),
        (2, 6, 24, []),
        (2, 6, 24, []),
    ]


def test_a_rally_may_wait_for_several_batches():
    emulator_0 = [1, 1, 1, 1, 1, 1, 1]
    emulator_1 = [0, 0, 0, 0, 0, 0, 1]
    batches = play(Script(np.transpose([emulator_0, emulator_1])), 4, horizon=2)
    assert [len(rows(batch)) for batch in batches] == [
        2,
        2,
        2,
        9,
    ]  # the last: emulator 0 wins twice, 7 rows of the other
    assert rows(batches[3])[1, 0] == 1 / 64


def test_unless_it_restarts_at_points_a_return_counts_those_to_come_and_waits_for_the_end_of_the_game():
    # moments             0  1  2 | 3  4  5
    rewards, ends = [0, 1, 0, 0, -1, 0], [0, 0, 0, 0, 1, 0]
    script = Script(np.transpose([rewards, [0, 0, 1, 1, 1, 1]]), np.transpose([ends, [0, 0, 1, 0, 0, 1]]))
    first, second = play(script, 2, reset_at_points=False)

    assert rows(first) == {(1, 0): 1 / 4, (1, 1): 1 / 2, (1, 2): 1}
    assert rows(second) == {
        **{(0, 0): 1 / 2 - 1 / 16, (0, 1): 1 - 1 / 8, (0, 2): -1 / 4, (0, 3): -1 / 2, (0, 4): -1},
        **{(1, 3): 7 / 4, (1, 4): 3 / 2, (1, 5): 1},
    }


def test_a_batch_without_a_point_goes_on_by_whole_horizons():
    script = Script([[0, 0], [0, 0], [0, 0], [0, 0], [0, 1], [0, 0]])  # horizon 2, the first point at moment 4
    batch = play(script, 1, horizon=2)[0]
    assert (batch.steps, batch.frames, batch.points) == (12, 48, 1)
    assert rows(batch) == {(1, 0): 1 / 16, (1, 1): 1 / 8, (1, 2): 1 / 4, (1, 3): 1 / 2, (1, 4): 1}


def test_a_horizon_grows_on_a_line_with_how_far_the_run_has_come():
    script = Script(np.ones((40, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pong.rollout.make_fleet", lambda config, n: script)
        rollout = Rollout(config(num_envs=1, horizon=2, horizon_end=12), Namer())
    moments = []
    for update, done in enumerate((0.0, 0.25, 0.5, 0.96)):
        rollout.begin(update, done)
        moments.append(rollout.finish().steps)
    assert moments == [2, 4, 7, 12]  # 2 + 10 · done: 2, 4.5, 7, 11.6, rounded; a half to the even number


def test_the_end_of_a_game_resets_the_sum():
    # the game ends at moment 1 without a point: its two rows are worth nothing, and the +1 of moment 3 stays behind it
    batch = play(Script([[0], [0], [0], [1]], [[0], [1], [0], [0]]), 1, horizon=4)[0]
    assert rows(batch) == {(0, 0): 0, (0, 1): 0, (0, 2): 1 / 2, (0, 3): 1}
    assert batch.episodes == [Episode(0, 0.0, 2)]


def test_a_game_without_a_point_ends_a_batch_too():
    """Games shorter than a rally never see a point: waiting for one would wait for ever."""
    batch = play(Script([[0]] * 3, [[0], [1], [0]], repeat=False), 1)[0]
    assert rows(batch) == {(0, 0): 0, (0, 1): 0}  # moment 2 waits
    assert (batch.points, batch.steps) == (0, 3)


def test_games_are_scored_across_batches():
    # emulator 1 plays one game of 5 moments, −1 −1 +1 = −1; emulator 0 two, of 2 moments and of 4
    rewards = np.transpose([[1, 1, 0, -1, 0, -1], [-1, 0, -1, 0, 1, 1]])
    ends = np.transpose([[0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0]])
    first, second = play(Script(rewards, ends), 2)
    assert first.episodes == [Episode(0, 2.0, 2)]
    assert second.episodes == [Episode(0, -2.0, 4), Episode(1, -1.0, 5)]
    assert (first.points, second.points) == (4, 4)


# --- fixed horizon, random scripts ------------------------------------------------------------------------------------


@exact
@given(data=st.data(), n=st.integers(1, 3), horizon=st.integers(1, 6), updates=st.integers(1, 6))
def test_every_row_comes_once_and_when_its_point_has_ended(data, n, horizon, updates):
    T = 12
    wins = st.sampled_from([0, 0, 0, 0, 1, -1])
    rewards = np.array(data.draw(st.lists(wins, min_size=T * n, max_size=T * n))).reshape(T, n)
    ends = np.array(data.draw(st.lists(st.sampled_from([0, 0, 0, 0, 0, 1]), min_size=T * n, max_size=T * n)))
    ends = ends.reshape(T, n).astype(bool)
    assume(rewards.any() or ends.any())
    script = Script(rewards, ends)
    batches = play(script, updates, horizon=horizon)

    rewards, ends = (np.tile(x, (script.moment // T + 1, 1))[: script.moment] for x in (rewards, ends))
    bounds = np.cumsum([0] + [batch.steps // n for batch in batches])  # moments
    for first, last, batch in zip(bounds, bounds[1:], batches, strict=False):
        expected = {}
        for i in range(n):
            ended = [t for t in range(last) if rewards[t, i] or ends[t, i]]
            for t in range(last):
                end = next((e for e in ended if e >= t), None)  # where t's point ends
                if end is not None and end >= first:
                    expected[i, t] = 0.5 ** (end - t) * rewards[end, i]
        assert rows(batch) == expected
        # whole horizons, and none more than it takes for a point to end
        assert (last - first) % horizon == 0
        assert not np.any((rewards != 0)[first : last - horizon] | ends[first : last - horizon])
        assert batch.steps == (last - first) * n
        assert batch.points == np.count_nonzero(rewards[first:last])
        assert len(batch.episodes) == ends[first:last].sum()
    assert bounds[-1] == script.moment


# --- whole games ------------------------------------------------------------------------------------------------------

# moments       0  1  2  3  4   the short one would earn and end more if it were told to play on
LONG = [0, 1, 0, 0, -1], [0, 0, 0, 0, 1]  # rewards, ends
SHORT = [0, -1, 1, -1, 1], [0, 1, 0, 1, 1]


def games(updates=1, **changes):
    rewards, ends = (np.transpose(rows) for rows in zip(LONG, SHORT, strict=True))  # each (T, N)
    script = Script(rewards, ends)
    return script, play(script, updates, until="episodes", **changes)


def test_every_emulator_plays_one_game_to_its_end():
    script, (batch,) = games()
    # the short game ends at moment 1, and its emulator stands still
    assert batch.episodes == [Episode(0, 0.0, 5), Episode(1, -1.0, 2)]
    assert batch.steps == sum(episode.length for episode in batch.episodes) == 7
    assert (batch.frames, batch.points) == (28, 3)
    # +1 at moment 1, −1 at moment 4 | −1 at moment 1
    assert rows(batch) == {
        **{(0, 0): 1 / 2, (0, 1): 1, (0, 2): -1 / 4, (0, 3): -1 / 2, (0, 4): -1},
        **{(1, 0): -1 / 2, (1, 1): -1},
    }
    assert [actions[1] for actions in script.actions] == [Namer.answer(1, 0), Namer.answer(1, 1), -1, -1, -1]
    assert [actions[0] for actions in script.actions] == [Namer.answer(0, t) for t in range(5)]


def test_a_game_that_is_over_costs_no_decision_and_shifts_nobodys_noise():
    asked = []

    class Asked(Namer):
        def act(self, x, noise):
            asked.append((names(x), noise.tolist()))
            return super().act(x, noise)

    games(actor=Asked())
    stream = ActionNoise(1, 0, range(2))
    drawn = [stream.draw().tolist() for _ in range(5)]
    both, one = [([(0, t), (1, t)], drawn[t]) for t in (0, 1)], [([(0, t)], drawn[t][:1]) for t in (2, 3, 4)]
    assert asked == both + one


def test_the_next_games_start_afresh():
    script, (first, second) = games(updates=2)
    assert second.episodes == first.episodes  # scores and lengths from zero, no row left from before
    assert list(rows(second).values()) == list(rows(first).values())
    assert min(moment for _, moment in rows(second)) == 5
    assert script.seeds == [emulator_seeds(1, 0, range(2)).tolist(), None]  # the second time their streams run on


@exact
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), data=st.data())
def test_whole_games_lose_nothing(lengths, data):
    T, n = max(lengths), len(lengths)
    rewards = np.array(data.draw(st.lists(st.sampled_from([0, 0, 1, -1]), min_size=T * n, max_size=T * n)))
    rewards = rewards.reshape(T, n)
    ends = np.array([[t == length - 1 for length in lengths] for t in range(T)])
    batch = play(Script(rewards, ends), 1, until="episodes")[0]
    assert rows(batch).keys() == {(i, t) for i in range(n) for t in range(lengths[i])}
    scores = {(episode.emulator, episode.score, episode.length) for episode in batch.episodes}
    assert scores == {(i, float(rewards[: lengths[i], i].sum()), lengths[i]) for i in range(n)}
    assert batch.steps == sum(lengths) == len(batch.returns)


# --- standardising: γ = 0 makes returns of rewards --------------------------------------------------------------------


def test_standardised_over_each_game():
    # 0 1 0 0 −1: mean 0, variance 2/5. 0 −1: mean −½, variance ¼; the population's, never n − 1
    _, (batch,) = games(gamma=0.0, standardize="episode")
    expected = {(0, 0): 0, (0, 1): sqrt(2.5), (0, 2): 0, (0, 3): 0, (0, 4): -sqrt(2.5), (1, 0): 1, (1, 1): -1}
    assert rows(batch) == pytest.approx(expected, abs=1e-6)


def test_points_are_left_to_the_trainer_to_standardise_over_a_batch():
    assert rows(games(standardize="batch")[1][0]) == rows(games(standardize="none")[1][0])


# --- fresh emulators --------------------------------------------------------------------------------------------------


def test_fresh_emulators_drop_what_was_cut():
    #          0  1 | 2  3 | 4  5 | 6  7   the emulator starts afresh before moment 4
    rewards = [0, 1, 0, 1, 1, 0, 0, -1]
    script = Script(np.transpose([rewards, [1, 0, 1, 0, 1, 0, 0, 1]]), np.transpose([[0] * 7 + [1], [0] * 8]))
    batches = play(script, 4, horizon=2, checkpoint_every=2, seed=5)
    # emulator 1's moment 3 was waiting, and is gone; its moment 1, not cut, is in the second batch
    assert [sorted(rows(batch)) for batch in batches] == [
        [(0, 0), (0, 1), (1, 0)],
        [(0, 2), (0, 3), (1, 1), (1, 2)],
        [(0, 4), (1, 4)],
        [(0, 5), (0, 6), (0, 7), (1, 5), (1, 6), (1, 7)],
    ]
    # the game that ends at moment 7 began at moment 4: +1 − 1 in 4 moments, not +2 + 1 − 1 in 8
    assert [batch.episodes for batch in batches] == [[], [], [], [Episode(0, 0.0, 4)]]
    assert script.seeds == [emulator_seeds(5, 0, range(2)).tolist(), emulator_seeds(5, 2, range(2)).tolist()]


def test_evaluation_has_seeds_of_its_own():
    script = Script([[1]])
    play(script, 1, purpose=EVALUATION)
    assert script.seeds == [emulator_seeds(1, 0, range(1), EVALUATION).tolist()]
    assert script.seeds != [emulator_seeds(1, 0, range(1)).tolist()]


@exact
@given(seed=st.integers(0, 2**64), update=st.integers(0, 10**7), n=st.integers(1, 20))
def test_emulator_seeds(seed, update, n):
    seeds = emulator_seeds(seed, update, range(n))
    assert seeds.shape == (n,)
    assert ((seeds >= 1) & (seeds < 2**31)).all()  # what ale-py takes
    first = n // 2
    assert seeds[first:].tolist() == emulator_seeds(seed, update, range(first, n)).tolist()  # whoever plays the others
    assert seeds.tolist() != emulator_seeds(seed, update + 1, range(n)).tolist()
    assert seeds.tolist() != emulator_seeds(seed + 1, update, range(n)).tolist()
    assert seeds.tolist() != emulator_seeds(seed, update, range(n), EVALUATION).tolist()


def test_emulators_differ():
    assert len(set(emulator_seeds(1, 0, range(500)).tolist())) == 500


# --- noise ------------------------------------------------------------------------------------------------------------


def draw(seed=1, update=0, emulators=range(3), purpose=TRAINING, moments=300):  # more than one block
    noise = ActionNoise(seed, update, emulators, purpose)
    return torch.stack([noise.draw() for _ in range(moments)])  # (moments, n)


def test_noise_is_uniform():
    numbers = draw(moments=2000)
    assert numbers.shape == (2000, 3)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # the mean of 2,000 uniform numbers has the standard deviation √(1/12/2000) = 0.0065; four of them
    torch.testing.assert_close(numbers.mean(0), torch.full((3,), 0.5), atol=0.026, rtol=0)
    assert len(numbers.unique()) > 5900  # no block is handed out twice


def test_what_comes_next_of_the_noise_is_what_is_drawn():
    """Looked at in any pieces, as often as one likes; it is there until it is used."""
    expected, noise, moment = draw(moments=4 * ActionNoise.BLOCK), ActionNoise(1, 0, range(3)), 0
    for used in (0, 1, 100, ActionNoise.BLOCK - 104 - 1, 0, ActionNoise.BLOCK - 2, 7):
        ahead = torch.from_numpy(noise.ahead())
        assert len(ahead) == ActionNoise.BLOCK - moment % ActionNoise.BLOCK
        assert ahead.equal(expected[moment : moment + len(ahead)])
        noise.use(used)  # what is left of the block at most
        moment += used
        assert noise.draw().equal(expected[moment])
        moment += 1
    assert ActionNoise(1, 0, range(3), shape=(2,)).ahead().shape == (ActionNoise.BLOCK, 3, 2)


def test_noise_is_reproducible():
    assert draw().equal(draw())


def test_an_emulators_noise_does_not_depend_on_the_others():
    assert draw(emulators=range(5))[:, 2:4].equal(draw(emulators=range(2, 4)))


@pytest.mark.parametrize("other", [{"seed": 2}, {"update": 1}, {"purpose": EVALUATION}], ids=str)
def test_noise_differs(other):
    assert (draw(**other) == draw()).sum() < 5  # of 900; float32 has few enough values for a chance hit


def test_emulators_have_noise_of_their_own():
    numbers = draw()
    assert (numbers[:, 0] == numbers[:, 1]).sum() < 5


def test_a_rollout_plays_its_updates_noise():
    script = Script([[1, 1]])
    play(script, 2, actor=Coin(), horizon=300, seed=7)
    expected = torch.cat([draw(seed=7, update=update, emulators=range(2)) for update in range(2)]) < 0.5
    assert script.actions == expected.long().tolist()


def test_a_rollout_that_goes_on_goes_on_in_its_noise():
    script = Script([[0]] * 39 + [[1]])  # horizon 10, a point at moment 39
    play(script, 1, actor=Coin(), horizon=10)
    assert script.actions == (draw(emulators=range(1), moments=40) < 0.5).long().tolist()
