"""The config: shipped files, the round trip through TOML, and what it refuses, in one line."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pong.config import GROUPS, RENAMED, Config, InputError, load_config, to_toml, validate

exact = settings(deadline=None, derandomize=True)  # the same examples on every machine
CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(CONFIGS.glob("*.toml"))


def load(tmp_path, text):
    path = tmp_path / "some.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def complaint(tmp_path, text):
    """The error of loading that text: one line that names the file."""
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert str(tmp_path / "some.toml") in message
    assert "\n" not in message
    return message


# --- shipped files ----------------------------------------------------------------------------------------------------


def test_there_are_the_recipes():
    assert {"karpathy.toml", "pong.toml"} <= {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_config_loads_under_its_own_name(path):
    assert load_config(path).name == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_config_says_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


# gist a4166c7fe253700972fcbc77e4ea32c5 (pg-pong.py, 2016-05-30) and gym's Pong-v0 of May 2016; the network's shape and
# initial weights, the pixels and the sampling are tested with the policy and the frames
KARPATHY_2016 = {
    "env": "Pong",
    "policy": "karpathy",
    "hold": "2-4",  # Pong-v0: frameskip=(2, 5), the upper end excluded
    "sticky": 0.25,  # Pong-v0: repeat_action_probability
    "noop_max": 0,
    "max_frames": 0,  # no cap in the gist's loop
    "actions": 2,  # action = 2 if np.random.uniform() < aprob else 3
    "frames": "difference",  # x = cur_x - prev_x
    "last_action": False,
    "num_envs": 10,  # batch_size = 10
    "until": "episodes",
    "hidden": 200,  # H = 200
    "gamma": 0.99,  # gamma = 0.99
    "reset_at_points": True,  # if r[t] != 0: running_add = 0
    "standardize": "episode",  # discounted_epr -= np.mean(…); /= np.std(…)
    "reduction": "sum",  # grad_buffer[k] += grad[k], never divided
    "baseline": "none",
    "entropy_bonus": 0.0,
    "entropy_bonus_end": None,
    "optimizer": "rmsprop",
    "learning_rate": 1e-4,  # learning_rate = 1e-4
    "learning_rate_end": None,
    "rmsprop_decay": 0.99,  # decay_rate = 0.99
    "epsilon": 1e-5,  # np.sqrt(rmsprop_cache[k]) + 1e-5
    "stop_at_mean100": None,
}


def test_karpathy_toml_is_2016_constant_for_constant():
    config = load_config(CONFIGS / "karpathy.toml").model_dump()
    assert {key: config[key] for key in KARPATHY_2016} == KARPATHY_2016
    # what is left says nothing of the algorithm: neither Adam nor a baseline is used, and whole games have no horizon
    assert config.keys() - KARPATHY_2016.keys() == {
        *("name", "seed", "device", "horizon", "horizon_end", "players", "act_on", "total_steps", "eval_episodes"),
        *("emulator", "checkpoint_every", "checkpoint_seconds"),
        *("adam_beta1", "adam_beta2", "baseline_hidden", "baseline_learning_rate", "baseline_passes"),
        *("channels", "baseline_channels", "baseline_unit"),
    }


# --- round trip -------------------------------------------------------------------------------------------------------

finite = {"allow_nan": False, "allow_infinity": False}
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[A-Za-z0-9_.-]+", fullmatch=True),
        "seed": st.integers(0, 2**62),
        "hold": st.one_of(st.integers(1, 60), st.just("2-4")),
        "sticky": st.floats(0, 1, exclude_max=True),
        "gamma": st.floats(0, 1),
        "learning_rate": st.floats(0, exclude_min=True, **finite),
        "learning_rate_end": st.one_of(st.none(), st.floats(0, **finite)),
        "stop_at_mean100": st.one_of(st.none(), st.floats(**finite)),
        "until": st.sampled_from(["steps", "episodes"]),
        "optimizer": st.sampled_from(["adam", "rmsprop"]),
    },
)


@exact
@given(CHANGES)
def test_to_toml_and_back(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    config = Config(**changes)
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_config(path) == config


def test_a_file_gives_its_name_unless_it_sets_one(tmp_path):
    assert load(tmp_path, "").name == "some"
    assert load(tmp_path, 'name = "other"').name == "other"


def test_whole_numbers_are_real_numbers(tmp_path):
    assert load(tmp_path, "gamma = 1\nstop_at_mean100 = 18") == Config(name="some", gamma=1.0, stop_at_mean100=18.0)


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = {  # TOML: what the line must say
    "learning_rte = 1e-3": ["unknown key 'learning_rte'", "learning_rate"],
    "[train]\nseed = 3": ["unknown key 'train'"],
    # wrong types: nothing is converted
    "seed = '3'": ["seed = '3'", "integer"],
    "seed = 3.0": ["seed = 3.0", "integer"],
    "seed = true": ["seed = True", "integer"],
    "gamma = '0.99'": ["gamma = '0.99'", "number"],
    "name = 3": ["name = 3", "string"],
    "device = 0": ["device = 0", "'auto', 'cpu' or 'cuda'"],
    # out of range
    "seed = -1": ["seed = -1", "greater than or equal to 0"],
    "gamma = 1.01": ["gamma = 1.01", "less than or equal to 1"],
    "gamma = nan": ["gamma = nan", "finite"],
    "sticky = 1.0": ["sticky = 1.0", "less than 1"],
    "learning_rate = 0": ["learning_rate = 0", "greater than 0"],
    "learning_rate = inf": ["learning_rate = inf", "finite"],
    "learning_rate_end = -1e-9": ["learning_rate_end = -1e-09", "greater than or equal to 0"],
    "entropy_bonus = -0.1": ["entropy_bonus = -0.1", "greater than or equal to 0"],
    "entropy_bonus = inf": ["entropy_bonus = inf", "finite"],
    "entropy_bonus_end = -0.1": ["entropy_bonus_end = -0.1", "greater than or equal to 0"],
    "baseline_learning_rate = 0": ["baseline_learning_rate = 0", "greater than 0"],
    "baseline_unit = 0": ["baseline_unit = 0", "greater than 0"],
    "baseline_passes = 0": ["baseline_passes = 0", "greater than or equal to 1"],
    "stop_at_mean100 = nan": ["stop_at_mean100 = nan", "finite"],
    "num_envs = 0": ["num_envs = 0", "greater than or equal to 1"],
    "num_envs = 5000": ["num_envs = 5000", "less than or equal to 4096"],
    "horizon = 0": ["horizon = 0", "greater than or equal to 1"],
    "checkpoint_every = 0": ["checkpoint_every = 0", "greater than or equal to 1"],
    "total_steps = 0": ["total_steps = 0", "greater than or equal to 1"],
    "hidden = 0": ["hidden = 0", "greater than or equal to 1"],
    "epsilon = 0.0": ["epsilon = 0.0", "greater than 0"],
    "adam_beta1 = 1.0": ["adam_beta1 = 1.0", "less than 1"],
    "adam_beta2 = 1.0": ["adam_beta2 = 1.0", "less than 1"],
    "rmsprop_decay = -0.1": ["rmsprop_decay = -0.1", "greater than or equal to 0"],
    "noop_max = -1": ["noop_max = -1", "greater than or equal to 0"],
    "max_frames = -1": ["max_frames = -1", "greater than or equal to 0"],
    "players = -1": ["players = -1", "greater than or equal to 0"],
    "players = 5000": ["players = 5000", "less than or equal to 4096"],
    # no such choice
    "until = 'game'": ["until = 'game'", "'steps' or 'episodes'"],
    "standardize = 'all'": ["standardize = 'all'", "'batch', 'episode' or 'none'"],
    "baseline = 'mean'": ["baseline = 'mean'", "'none' or 'network'"],
    "reduction = 'none'": ["reduction = 'none'", "'sum' or 'mean'"],
    "optimizer = 'sgd'": ["optimizer = 'sgd'", "'adam' or 'rmsprop'"],
    "name = 'a b'": ["name = 'a b'", "pattern"],
    "name = ''": ["name = ''", "pattern"],
    # hold is a number of frames, or the one word
    "hold = 0": ["hold = 0", "greater than or equal to 1"],
    "hold = -4": ["hold = -4", "greater than or equal to 1"],
    "hold = 2.5": ["hold = 2.5", "integer"],
    "hold = true": ["hold = True", "integer"],
    "hold = '2-5'": ["hold = '2-5'", "'2-4'"],
    # what the emulator (32 bits) or torch's generator (64) can't take
    "max_frames = 3_000_000_000": ["max_frames = 3000000000", "less than"],
    "noop_max = 3_000_000_000": ["noop_max = 3000000000", "less than"],
    "hold = 3_000_000_000": ["hold = 3000000000", "less than"],
    "seed = 100_000_000_000_000_000_000": ["seed = 100000000000000000000", "less than"],
    # keys that contradict each other
    "standardize = 'episode'": ['standardize = "episode"', 'until = "episodes"'],
    "standardize = 'episode'\nuntil = 'episodes'\nbaseline = 'network'": ['standardize = "batch"', 'baseline = "none"'],
    "noop_max = 30\nmax_frames = 30": ["before its first decision", "max_frames above noop_max"],
    "env = 'CartPole-v1'": ['policy = "karpathy"', 'env = "CartPole-v1"', '"mlp"'],
    "policy = 'mlp'": ['policy = "mlp"', 'env = "Pong"', '"karpathy"'],
    "env = 'CartPole-v1'\npolicy = 'mlp'\nsticky = 0.0": ["sticky = 0.0 is a setting of Pong", "leave it out"],
    "env = 'CartPole-v1'\npolicy = 'mlp'\nhold = 2": ["hold = 2 is a setting of Pong", "leave it out"],
    "hidden = [200]": ["hidden = [200]", "one hidden layer", "one number"],
    "baseline_hidden = [200]": ["baseline_hidden = [200]", "one hidden layer", "one number"],
    "hidden = [10, 0]": ["hidden = [10, 0]", "greater than or equal to 1"],
    "hidden = '10'": ["hidden = '10'", "integer"],
    # no TOML
    "seed 3": ["can't be read as TOML", "line 1"],
    "seed = 3\nseed = 4\n": ["can't be read as TOML", "overwrite"],
}


@pytest.mark.parametrize(("text", "words"), REFUSED.items(), ids=REFUSED)
def test_refused_in_one_line(tmp_path, text, words):
    message = complaint(tmp_path, text)
    for word in words:
        assert word in message


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_older_files_are_read_as_they_were_meant(tmp_path, old, new):
    assert load(tmp_path, f"{old} = 3") == load(tmp_path, f"{new} = 3") != load(tmp_path, "")


def test_whole_games_may_be_standardised_one_by_one(tmp_path):
    assert load(tmp_path, "standardize = 'episode'\nuntil = 'episodes'").standardize == "episode"


@pytest.mark.parametrize("max_frames", [0, 31])
def test_any_hold_goes_with_noops(tmp_path, max_frames):
    config = load(tmp_path, f"hold = '2-4'\nnoop_max = 30\nmax_frames = {max_frames}")
    assert (config.hold, config.noop_max, config.max_frames) == ("2-4", 30, max_frames)


def test_hidden_is_a_number_of_units_or_one_for_each_layer(tmp_path):
    vectors = "env = 'CartPole-v1'\npolicy = 'mlp'\n"
    assert load(tmp_path, vectors + "hidden = 10").layers == [10]
    assert load(tmp_path, vectors + "hidden = [10, 2]").layers == [10, 2]
    linear = load(tmp_path, vectors + "hidden = []\nbaseline_hidden = [5, 3]")
    assert (linear.layers, linear.baseline_layers) == ([], [5, 3])
    assert load(tmp_path, vectors + "hidden = 10").baseline_layers == [10]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]  # the last two as Windows' Notepad and PowerShell write them


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_is_read_as_its_byte_order_mark_says(tmp_path, encoding):
    (tmp_path / "some.toml").write_bytes("# Größe\r\nhidden = 10\r\n".encode(encoding))
    assert load_config(tmp_path / "some.toml") == Config(name="some", hidden=10)


NAMES = {
    "cartpole copy.toml": "cartpole-copy",
    "Понг 2.toml": "Понг-2",
    "12:30.toml": "12-30",
    "a/b.toml": "b",
    "(new).toml": "-new-",
    "v1.2.toml": "v1.2",
}


@pytest.mark.parametrize(("file", "name"), NAMES.items())
def test_any_file_makes_a_name_for_its_run(tmp_path, file, name):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    config = load_config(str(tmp_path / file))  # a str does as well
    assert config.name == name
    assert validate(config.model_dump(), "again") == config


def test_a_changed_config_is_checked():
    config = Config(hidden=10).replace(total_steps=20_000, seed=4)
    assert config == Config(hidden=10, total_steps=20_000, seed=4)
    for changes, words in {
        "total_step": "unknown key 'total_step'; did you mean total_steps?",
        "seed": "seed = 'x': ",
    }.items():
        with pytest.raises(InputError, match=rf"^replace: {re.escape(words)}"):
            config.replace(**{changes: "x"})


def test_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^config file nowhere\.toml does not exist$"):
        load_config(Path("nowhere.toml"))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.toml").touch()
    with pytest.raises(InputError, match=r"^config file nowhere\.toml does not exist; there are configs/mine\.toml$"):
        load_config(Path("nowhere.toml"))


def test_no_text_file(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} can't be read"):
        load_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.toml can't be read"):
        load_config(tmp_path / "binary.toml")


def test_the_source_is_named():
    with pytest.raises(InputError, match=r"^command line: gamma = 2: "):
        validate({"gamma": 2}, source="command line")


def test_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Config().seed = 2


def test_every_key_is_explained():
    assert [key for key, about in Config.model_fields.items() if not about.description] == []


def test_the_groups_have_every_key_once_and_in_their_order():
    assert [key for group in GROUPS for key in group.model_fields] == list(Config.model_fields)


GROUP_OF = {key: group.title for group in GROUPS for key in group.model_fields}


def headings(text):
    """The heading that each key of a file stands under, as far as the heading's first colon."""
    found, heading = {}, ""
    for line in text.splitlines():
        if line.startswith("# "):
            heading = line[2:].split(":")[0]
        elif " = " in line:
            found[line.split(" = ")[0]] = heading
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_recipe_and_what_a_run_writes_of_it_have_the_same_headings(path):
    recipe, written = headings(path.read_text(encoding="utf-8")), headings(to_toml(load_config(path)))
    assert len(recipe) > 10
    assert recipe.items() <= written.items() <= GROUP_OF.items()
