"""The config: shipped files, the round trip through TOML, and errors in one line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pong.config import GROUPS, Config, InputError, load_config, printable, to_toml, validate

exact = settings(deadline=None, derandomize=True)  # the same examples on every machine
CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(CONFIGS.glob("*.toml"))


def load(tmp_path, text):
    path = tmp_path / "some.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


# --- shipped files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_load_config_recipe_has_its_own_name_and_a_heading(path):
    assert load_config(path).name == path.stem
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


def test_load_config_karpathy_is_2016_constant_for_constant():
    config = load_config(CONFIGS / "karpathy.toml").model_dump()
    assert {key: config[key] for key in KARPATHY_2016} == KARPATHY_2016
    # the other keys do not affect the algorithm: neither Adam nor a baseline is used, and whole games have no horizon
    assert config.keys() - KARPATHY_2016.keys() == {
        *("name", "seed", "device", "horizon", "horizon_end", "players", "total_steps", "eval_episodes"),
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
def test_to_toml_round_trip(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    config = Config(**changes)
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_config(path) == config


def test_load_config_file_gives_the_name_unless_it_sets_one(tmp_path):
    assert load(tmp_path, "").name == "some"
    assert load(tmp_path, 'name = "other"').name == "other"


def test_load_config_whole_numbers_are_real_numbers_and_counts_may_be(tmp_path):
    assert load(tmp_path, "gamma = 1\ntotal_steps = 1e6") == Config(name="some", gamma=1.0, total_steps=1_000_000)


# --- errors -----------------------------------------------------------------------------------------------------------

VECTORS = "env = 'CartPole-v1'\npolicy = 'mlp'\n"
REFUSED = {  # TOML: what the line must contain
    "learning_rte = 1e-3": ["unknown key 'learning_rte'; did you mean learning_rate"],
    "[train]\nseed = 3": ["unknown key 'train'"],
    # wrong types: nothing is converted
    "seed = '3'": ["seed = '3'", "integer"],
    "seed = 3.0": ["seed = 3.0", "integer"],
    "seed = true": ["seed = True", "integer"],
    "gamma = '0.99'": ["gamma = '0.99'", "number"],
    "name = 'a b'": ["name = 'a b'", "pattern"],
    "hold = 2.5": ["hold = 2.5", "integer, or Input should be '2-4'"],
    # out of range
    "gamma = 1.01": ["gamma = 1.01", "less than or equal to 1"],
    "gamma = nan": ["gamma = nan", "finite"],
    "learning_rate = 0": ["learning_rate = 0", "greater than 0"],
    "learning_rate = inf": ["learning_rate = inf", "finite"],
    "num_envs = 5000": ["num_envs = 5000", "less than or equal to 4096"],
    "hidden = [10, 0]": ["hidden = [10, 0]", "greater than or equal to 1"],
    "baseline_channels = [1, 1, 1, 1]": ["baseline_channels = [1, 1, 1, 1]", "at most 3 items"],
    "until = 'game'": ["until = 'game'", "'steps' or 'episodes'"],
    "frames = 'stack'": ["frames = 'stack'", "'difference', 'both' or 'three'"],
    # too large for the emulator (32 bits) or torch's generator (64 bits)
    "hold = 3_000_000_000": ["hold = 3000000000", "less than"],
    "seed = 100_000_000_000_000_000_000": ["seed = 100000000000000000000", "less than"],
    # keys that do not go together
    "standardize = 'episode'": ['standardize = "episode" needs until = "episodes"'],
    "standardize = 'episode'\nuntil = 'episodes'\nbaseline = 'network'": ['"episode" needs baseline = "none"'],
    "noop_max = 30\nmax_frames = 30": ["noop_max = 30 fills a whole game; set max_frames above it"],
    "env = 'CartPole-v1'": ['policy = "karpathy" can\'t play env = "CartPole-v1"', '"mlp"'],
    "policy = 'mlp'": ['policy = "mlp" can\'t play env = "Pong"', '"karpathy"'],
    VECTORS + "sticky = 0.0\nhold = 2": [
        'sticky = 0.0, hold = 2: env = "CartPole-v1" has no such setting; leave it out'
    ],
    "env = 'VizdoomBasic-v1'\npolicy = 'conv'\nhold = '2-4'": ["hold = '2-4': env = \"VizdoomBasic-v1\" has no such"],
    "hidden = [200]": ['hidden = [200]: policy = "karpathy" has one hidden layer; give one number'],
    "baseline_hidden = [200]": ["baseline_hidden = [200]: ", "one hidden layer"],
    # no TOML, or not for a parser
    "seed 3": ["can't be read as TOML", "line 1"],
    "seed = " + 5_000 * "1": ["can't be read as TOML", "limit"],
    "hidden = " + 30_000 * "[": ["can't be read as TOML", "recursion"],
    "a" + 20_000 * ".a" + " = 1": ["can't be read as TOML: it has more than 65,536 bytes or 1,000 dots"],
    "#" + 65_536 * " ": ["can't be read as TOML: it has more than 65,536 bytes or 1,000 dots"],
    # code
    "env = 'payload:X-v0'\npolicy = 'mlp'": ["env = 'payload:X-v0' runs a module's code; if you trust it, add --trust"],
    "env = 'Pong\\u001b[2J'": ["env = 'Pong"],
}


@pytest.mark.parametrize(("text", "words"), REFUSED.items(), ids=[text[:60] for text in REFUSED])
def test_load_config_errors_are_one_line(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert str(tmp_path / "some.toml") in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_printable_escapes_what_commands_a_terminal():
    assert printable("Größe π …") == "Größe π …"
    assert printable("a\x1b[2J\u202e\udc80\nb") == r"a\x1b[2J\u202e\udc80\nb"
    assert printable("x" * 10**6) == "x" * 2000


def test_load_config_unreadable_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("utf-16.toml").write_text("seed = 1", encoding="utf-16")
    for path in ("configs", "utf-16.toml"):
        with pytest.raises(InputError, match=rf"^config file {path} can't be read"):
            load_config(path)


def test_config_replace_and_validate_check_values():
    config = Config(hidden=10).replace(total_steps=20_000, seed=4)
    assert config == Config(hidden=10, total_steps=20_000, seed=4)
    with pytest.raises(InputError, match=r"^unknown key 'total_step'; did you mean total_steps\?$"):
        config.replace(total_step=3)
    with pytest.raises(InputError, match=r"^command line: gamma = 2: "):
        validate({"gamma": 2}, source="command line")


# --- valid values -----------------------------------------------------------------------------------------------------


def test_config_hold_2_to_4_goes_with_noops(tmp_path):
    config = load(tmp_path, "hold = '2-4'\nnoop_max = 30\nmax_frames = 31")
    assert (config.hold, config.noop_max, config.game_frames) == ("2-4", 30, 31)
    assert load(tmp_path, "max_frames = 0").game_frames == 65_209  # the console's own clock


def test_config_hidden_is_units_of_one_layer_or_a_list(tmp_path):
    assert load(tmp_path, VECTORS + "hidden = 10").layers == [10]
    assert load(tmp_path, VECTORS + "hidden = 10").baseline_layers == [10]
    linear = load(tmp_path, VECTORS + "hidden = []\nbaseline_hidden = [5, 3]")
    assert (linear.layers, linear.baseline_layers) == ([], [5, 3])


def test_load_config_byte_order_mark(tmp_path):  # as Windows' Notepad writes it
    (tmp_path / "some.toml").write_bytes("# Größe\r\nhidden = 10\r\n".encode("utf-8-sig"))
    assert load_config(tmp_path / "some.toml") == Config(name="some", hidden=10)


NAMES = {"cartpole copy.toml": "cartpole-copy", "Понг 2.toml": "Понг-2", "12:30.toml": "12-30", "v1.2.toml": "v1.2"}


@pytest.mark.parametrize(("file", "name"), NAMES.items())
def test_load_config_any_file_name_gives_a_valid_run_name(tmp_path, file, name):
    (tmp_path / file).touch()
    assert load_config(str(tmp_path / file)) == Config(name=name)


def test_groups_have_every_key_once_and_explained():
    assert [key for group in GROUPS.values() for key in group.model_fields] == list(Config.model_fields)
    assert [key for key, field in Config.model_fields.items() if not field.description] == []
    headings = [line for line in to_toml(Config()).splitlines() if line.startswith("#")]
    assert headings == [f"# {group.__doc__}" for group in GROUPS.values()]
