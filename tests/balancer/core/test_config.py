"""Settings: precedence, layers, and mistakes that name the nearest right thing."""

import json
import logging
import os
import signal
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.command import HELP, CommandArgs, CommandResult, plain_command, run_command
from balancer.core.config import (
    DEMO,
    PRESETS,
    absolute_paths,
    changed_keys,
    config_hash,
    differences,
    dump,
    flatten,
    merge,
    nested,
    parse_assignment,
    read_config_file,
    reads_data,
    recipe_changes,
    resolve,
    setting_names,
    validate,
)
from balancer.core.defaults import find_field
from balancer.core.errors import BalancerError, Interrupted, UsageError, nearest
from balancer.core.options import setting
from balancer.core.program import CommandGroup
from balancer.core.settings import (
    COMMANDS,
    RECIPE,
    AblateConfig,
    DataConfig,
    GanTrainConfig,
    SynthesizeConfig,
    TrainConfig,
)

DATA = {"data": {"path": "/some/folder"}}  # not the phantom set: no demonstration sizes


@click.group(cls=CommandGroup, context_settings={**HELP, "auto_envvar_prefix": "BALANCER"})
def group() -> None:
    """A command line made as the toolkit's are."""


@run_command(group, "gan-train", setting("--preset", "preset"), setting("--steps", "steps", type=int))
def gan_train(args: CommandArgs) -> CommandResult:
    """Resolve the settings and say them."""
    said = {"device": args.device, "out": str(args.out), "resume": args.resume, "force": args.force}
    return CommandResult({**resolve(GanTrainConfig, args.explicit).model_dump(mode="json"), "said": said}, "in words")


@plain_command(group, "fail", click.option("--how"))
def fail(how: str) -> CommandResult:
    """Fail in a known way."""
    if how == "nan":
        return CommandResult({"x": float("nan")}, "")
    if how == "log":
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger("balancer").log(level, logging.getLevelName(level))
        return CommandResult({"fine": True}, "fine")
    if how == "sigterm":
        os.kill(os.getpid(), signal.SIGTERM)
    raise {
        "error": BalancerError("one clear line"),
        "usage": UsageError("what was meant?"),
        "interrupted": Interrupted(signal.SIGINT, "state saved"),
        "control-c": KeyboardInterrupt(),
        "bug": ZeroDivisionError("a bug"),
    }[how]


def call(*args: object, **env: str) -> Result:
    return CliRunner().invoke(group, ["gan-train", *map(str, args)], env=env)


def settings(*args: object, **env: str) -> dict:
    result = call("--json", *args, **env)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def mistake(*args: object, **env: str) -> str:
    result = call(*args, **env)
    assert result.exit_code == 2, (result.exit_code, result.exception)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


# --- keys and values


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"stepz": 3}, "unknown setting 'stepz'; did you mean 'steps'?"),
        ({"data": {"image_sise": 3}}, "unknown setting 'data.image_sise'; did you mean 'data.image_size'?"),
        ({"image_size": 3}, "unknown setting 'image_size'; did you mean 'data.image_size'?"),
        ({"seed": {"x": 3}}, "setting 'seed' is a single value, not a mapping"),
        ({"qqqq": 1}, "known: ada_images, ada_target, architecture,"),
        ({5: 1}, "unknown setting '5'"),
        ({"data": 3}, "setting 'data' is 3; expected a mapping"),
        ({"steps": 0}, "setting 'steps' is 0: "),
        ({"steps": "many"}, "setting 'steps' is 'many': "),
        ({"seed": 1.5}, "setting 'seed' is 1.5: "),
        ({"seed": None}, "setting 'seed' is None: "),
        ({"lr_generator": float("nan")}, "setting 'lr_generator' is nan: "),
        ({"data": {"val_fraction": 1.0}}, "setting 'data.val_fraction' is 1.0: "),
        ({"data": {"resize": "stretch"}}, "setting 'data.resize' is 'stretch': "),
        ({"diffaugment": 3}, "setting 'diffaugment' is 3: "),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(values: dict, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate(GanTrainConfig, values)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("count", "fits"), [("deficit", True), ("all", True), (7, True), ("some", False), (1.5, False)]
)
def test_a_choice_of_number_or_word(count: object, fits: bool) -> None:
    if fits:
        assert validate(AblateConfig, {"synthetic_count": count}).synthetic_count == count
    else:
        with pytest.raises(UsageError, match="setting 'synthetic_count' is"):
            validate(AblateConfig, {"synthetic_count": count})


@pytest.mark.parametrize("said", ["cutout,contrast", " cutout , contrast, ", ["cutout", "contrast"]])
def test_names_as_text_or_as_a_list(said: object) -> None:
    assert validate(GanTrainConfig, {"diffaugment": said}).diffaugment == ("cutout", "contrast")
    assert validate(GanTrainConfig, {"diffaugment": ""}).diffaugment == ()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_whole_number_has_a_highest_value(command: str) -> None:
    """Seeds aside: any number names a random stream."""
    model, too_many = COMMANDS[command], 10**30
    numbers = []
    for key in setting_names(model):
        kinds = {find_field(model, key).annotation, *get_args(find_field(model, key).annotation)}
        if int in kinds and key not in ("seed", "data.split_seed"):
            numbers.append(key)
            with pytest.raises(UsageError, match=rf"'{key}' is {too_many}: .*less than or equal to \d+") as error:
                validate(model, nested(key, too_many))
            assert "\n" not in str(error.value)
    assert numbers


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        GanTrainConfig().steps = 3


def test_nearest_lists_what_is_known_when_nothing_is_near() -> None:
    assert nearest("stesp", ["steps", "seed"]) == "did you mean 'steps'?"
    assert nearest("xyz", ["b", "a"]) == "known: a, b"


def test_every_preset_and_demo_size_fits_its_command() -> None:
    for name in PRESETS:
        config = resolve(GanTrainConfig, {**DATA, "preset": name})
        assert config.preset == name
    for command, sizes in DEMO.items():
        validate(COMMANDS[command], sizes)
    assert DEMO.keys() == {command for command in COMMANDS if reads_data(command)}


# --- layers

TREES = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(MAPPINGS, MAPPINGS, MAPPINGS)
def test_merging_lays_later_over_earlier(one: dict, two: dict, three: dict) -> None:
    before = json.dumps([one, two])
    both = merge(one, two)
    for key in one.keys() | two.keys():
        if key not in two or key not in one:
            assert both[key] == (one | two)[key]
        elif isinstance(one[key], dict) and isinstance(two[key], dict):
            assert both[key] == merge(one[key], two[key])
        else:
            assert both[key] == two[key]
    assert merge(one, two, three) == merge(both, three)
    assert json.dumps([one, two]) == before, "a layer was changed"


def test_precedence_flag_environment_file_default(file: Path) -> None:
    file.write_text("gan_train: {seed: 2, z_dim: 7}")
    env = {"BALANCER_GAN_TRAIN_SEED": "3"}
    assert settings()["seed"] == 0
    assert settings("--config", file)["seed"] == 2
    assert settings("--config", file, **env)["seed"] == 3
    assert settings("--config", file, "--seed", 4, **env)["seed"] == 4
    assert settings("--config", file, "--set", "seed=5", **env)["seed"] == 5
    assert settings("--config", file, "--seed", 4, **env)["z_dim"] == 7


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("BALANCER_GAN_TRAIN_STEPS", "12", "steps"),
        ("BALANCER_GAN_TRAIN_IMAGE_SIZE", "48", "data.image_size"),
        ("BALANCER_GAN_TRAIN_VAL_FRACTION", "0.25", "data.val_fraction"),
        ("BALANCER_GAN_TRAIN_DEVICE", "cpu", "said.device"),
        ("BALANCER_GAN_TRAIN_OUT", "there", "said.out"),
        ("BALANCER_GAN_TRAIN_FORCE", "1", "said.force"),
    ],
)
def test_the_environment_names_flags(variable: str, value: str, key: str) -> None:
    found = flatten(settings(**{variable: value}))[key]
    assert str(found) == value or found is True


def test_an_empty_variable_is_none_and_a_wrong_one_a_mistake() -> None:
    assert settings(BALANCER_GAN_TRAIN_SEED="")["seed"] == 0
    result = call(BALANCER_GAN_TRAIN_SEED="many")
    assert result.exit_code == 2
    assert "'many' is not a valid int" in result.stderr


def test_where_the_data_are(runs_cwd: Path, file: Path) -> None:
    file.write_text("data: {path: from-file}")
    here = runs_cwd.resolve()
    assert settings()["data"]["path"] == "phantom"
    assert settings("--config", file)["data"]["path"] == str(here / "from-file")
    env = {"BALANCER_DATA": "from-environment"}
    assert settings("--config", file, **env)["data"]["path"] == str(here / "from-environment")
    assert settings("--config", file, "--data", "/flag", **env)["data"]["path"] == "/flag"
    assert settings("--data", "phantom", **env)["data"]["path"] == "phantom"
    assert settings(**env, BALANCER_GAN_TRAIN_DATA="/own")["data"]["path"] == "/own"
    (here / "data" / "chest_xray").mkdir(parents=True)
    assert settings()["data"]["path"] == str(here / "data" / "chest_xray")
    assert settings("--data", "~")["data"]["path"] == str(Path.home().resolve())


@pytest.mark.parametrize("how", ["file", "flag", "environment"])
def test_what_is_given_beats_the_preset(file: Path, how: str) -> None:
    file.write_text(
        "gan_train: {preset: sngan_diffaug, ema_decay: 0.5}" if how == "file" else "gan_train: {ema_decay: 0.5}"
    )
    args = ["--data", "/x", "--config", file, *(["--preset", "sngan_diffaug"] if how == "flag" else [])]
    found = settings(*args, **({"BALANCER_GAN_TRAIN_PRESET": "sngan_diffaug"} if how == "environment" else {}))
    preset = {**PRESETS["sngan_diffaug"], "preset": "sngan_diffaug", "ema_decay": 0.5}
    assert {key: found[key] for key in preset} == json.loads(json.dumps(preset))
    assert PRESETS["sngan_diffaug"]["ema_decay"] != 0.5


def test_a_preset_lies_over_the_demo_and_under_the_flags() -> None:
    found = settings("--preset", "s2", "--data", "phantom")
    preset = flatten({**PRESETS["s2"], "preset": "s2", "data": {**PRESETS["s2"]["data"], "path": "phantom"}})
    assert {key: flatten(found)[key] for key in preset} == json.loads(json.dumps(preset))
    assert preset["steps"] != DEMO["gan_train"]["steps"]
    found = settings("--preset", "s2", "--image-size", 96, "--steps", 5)
    assert (found["steps"], found["data"]["image_size"], found["architecture"]) == (5, 96, "s2")


@pytest.mark.parametrize("preset", ["dcgann", "[a]", "null", "3"])
def test_an_unknown_preset(preset: str) -> None:
    assert "preset is" in mistake("--set", f"preset={preset}")
    if preset == "dcgann":
        assert "did you mean 'dcgan'" in mistake("--preset", preset)


def test_demo_sizes_only_on_the_phantom_set(runs_cwd: Path) -> None:
    plain = GanTrainConfig()
    for args in ((), ("--data", "phantom")):
        found = settings(*args)
        assert {key: found[key] for key in DEMO["gan_train"]} == DEMO["gan_train"]
    found = settings("--data", "/some/folder")
    assert {key: found[key] for key in DEMO["gan_train"]} == {key: getattr(plain, key) for key in DEMO["gan_train"]}
    assert settings("--steps", 9)["steps"] == 9
    assert resolve(AblateConfig, {"data": {"path": "phantom"}}).steps == DEMO["ablate"]["steps"]
    assert resolve(AblateConfig, DATA).steps == AblateConfig().steps


def test_what_an_earlier_run_hands_on() -> None:
    inherited = {"data": {"path": "/earlier", "image_size": 96, "split_seed": 4}}
    config = resolve(AblateConfig, {"data": {"split_seed": 5}}, inherited)
    assert config.data == DataConfig(path="/earlier", image_size=96, split_seed=5)
    assert config.steps == AblateConfig().steps
    assert resolve(AblateConfig, {}, {"data": {"path": "phantom"}}).steps == DEMO["ablate"]["steps"]
    assert resolve(SynthesizeConfig, {"data": {"path": "/other"}}, inherited).data.path == "/other"


# --- files and assignments


def test_a_file_serves_several_commands(file: Path) -> None:
    file.write_text("data: {image_size: 96, resize: pad}\ngan_train: {steps: 9, data: {image_size: 48}}\nablate:\n")
    assert read_config_file(file, "gan_train") == {"data": {"image_size": 48, "resize": "pad"}, "steps": 9}
    assert read_config_file(file, "ablate") == {"data": {"image_size": 96, "resize": "pad"}}
    file.write_text("")
    assert read_config_file(file, "ablate") == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"gan_trian: {steps: 3}", "unknown section 'gan_trian'; did you mean 'gan_train'?"),
        (b"gan-train: {steps: 3}", "did you mean 'gan_train'?"),
        (b"5: {}", "unknown section 5"),
        (b"gan_train: {stepz: 3}", "unknown setting 'stepz'; did you mean 'steps'?"),
        (b"data: {image_sise: 3}", "section data: unknown setting 'image_sise'; did you mean 'image_size'?"),
        (b"gan_train: {5: 1}", "unknown setting '5'"),
        (b"gan_train: {data: 5}", "setting 'data' is 5; expected a mapping"),
        (b"data: 5", "section 'data' is a int"),
        (b"gan_train: [1]", "section 'gan_train' is a list"),
        (b"- gan_train", "holds a list"),
        (b"just words", "holds a str"),
        (b"gan_train: {steps: 3", "is not valid YAML"),
        (b"gan_train:\n\tsteps: 3", "is not valid YAML"),
        (b"a: 1\n---\nb: 2", "is not valid YAML"),
        (b"gan_train: {seed: 2020-13-45}", "setting 'seed' is '2020-13-45'"),
        (b"gan_train: {seed: 1, seed: 2}", "key 'seed' stands twice"),
        (b"gan_train: {steps: yes}", "setting 'steps' is 'yes'"),
        (b"gan_train: {seed: 1:30}", "setting 'seed' is '1:30'"),
        (b"gan_train: {steps: true}", "setting 'steps' is True"),
        (b"gan_train: {lr_generator: .nan}", "setting 'lr_generator' is nan"),
        (b"gan_train: {data.image_size: 32}", "setting 'data.image_size'"),
        (b"\xff\xfe\xfa", "is not valid YAML"),
        (b"gan_train: &a [*a]", "is not valid YAML"),
    ],
)
def test_bad_files_are_one_line(file: Path, content: bytes, says: str) -> None:
    file.write_bytes(content)
    assert says in mistake("--config", file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in mistake("--config", tmp_path / "none.yaml")
    assert "cannot be read" in mistake("--config", tmp_path)


@pytest.mark.parametrize("where", ["file", "assignment"])
def test_nothing_in_yaml_is_executed(file: Path, tmp_path: Path, where: str) -> None:
    trap = f"!!python/object/apply:os.mkdir ['{tmp_path / 'sprung'}']"
    file.write_text(f"gan_train:\n  seed: {trap}\n")
    message = mistake("--config", file) if where == "file" else mistake("--set", f"seed={trap}")
    assert "YAML" in message
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("text", "nested"),
    [
        ("seed=3", {"seed": 3}),
        ("data.resize=pad", {"data": {"resize": "pad"}}),
        ("a.b.c=[1, x]", {"a": {"b": {"c": [1, "x"]}}}),
        ("loss=null", {"loss": None}),
        ("loss=~", {"loss": None}),
        ("loss=''", {"loss": ""}),
        ("loss=a=b", {"loss": "a=b"}),
        (" seed =3", {"seed": 3}),
        ("spectral_norm=true", {"spectral_norm": True}),
    ],
)
def test_assignments(text: str, nested: dict) -> None:
    assert parse_assignment(text) == nested


@pytest.mark.parametrize(
    "text", ["seed", "=3", "", " =3", "seed=[1", "seed={", "data={path: a, path: b}", "loss=", "loss= "]
)
def test_bad_assignments(text: str) -> None:
    assert "--set" in mistake("--set", text)


@pytest.mark.parametrize(
    "text",
    ["seed=2020-13-45", "seed=0x_", "data=5", "data=[1]", "data.=3", "data..x=3", "stepz=3", "data.paht=x", "seed.x=1"],
)
def test_assignments_to_nothing(text: str) -> None:
    assert "setting" in mistake("--set", text)


def test_assignments_are_laid_over_one_another() -> None:
    args = ["--set", "seed=1", "--set", "seed=2", "--set", "data.resize=pad", "--set", "diffaugment=[cutout]"]
    found = settings(*args, "--image-size", 32, "--set", "lr_generator=1e-3")
    assert (found["seed"], found["data"]["resize"], found["data"]["image_size"]) == (2, "pad", 32)
    assert (found["diffaugment"], found["lr_generator"]) == (["cutout"], 1e-3)


def test_two_assignments_to_one_setting_are_pointed_out() -> None:
    result = call("--set", "seed=1", "--set", "steps=2", "--set", "seed=2")
    assert "--set gives seed 2 times" in result.stderr
    assert "steps" not in result.stderr


PATHS = [("gan_train", "data.path"), ("synthesize", "gan_run"), ("synthesize", "inception"), ("train", "weights")]
PATHS += [("evaluate", key) for key in ("real", "fake", "training")]


@pytest.mark.parametrize(
    "value", ["[a, b]", "{a: 1}", "5", "true", "1.5", "''", r'"a\0b"', r'"\ud800"', "~nobody-here/x"]
)
@pytest.mark.parametrize(("command", "key"), PATHS)
def test_what_is_no_path_is_refused_by_key(file: Path, command: str, key: str, value: str) -> None:
    section, _, name = key.rpartition(".")
    file.write_text(f"{section or command}: {{{name}: {value}}}")
    if key == "inception" and value[0] in "\"'~":  # a file that is looked for when it is needed
        return
    with pytest.raises(UsageError, match=name) as caught:
        resolve(COMMANDS[command], absolute_paths(read_config_file(file, command)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["[[a]]", "{a: 1}", "5", "[5]", "[true]"])
def test_what_is_no_list_of_folders_is_refused(file: Path, value: str) -> None:
    file.write_text(f"ablate: {{synthetic: {value}}}")
    with pytest.raises(UsageError, match="synthetic"):
        resolve(AblateConfig, absolute_paths(read_config_file(file, "ablate")))


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        (GanTrainConfig, "steps", True),
        (GanTrainConfig, "lr_generator", False),
        (AblateConfig, "doses", [True, 2]),
        (AblateConfig, "synthetic_count", True),
        (AblateConfig, "trainable", True),
        (DataConfig, "val_fraction", True),
    ],
)
def test_a_switch_is_no_number(model: type, key: str, value: object) -> None:
    with pytest.raises(UsageError, match=key):
        validate(model, {key: value})


# --- the environment


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("BALANCER_DTA", "BALANCER_DATA"),
        ("BALANCER_CACHES", "BALANCER_CACHE"),
        ("BALANCER_GAN_TRAIN_SEDE", "BALANCER_GAN_TRAIN_SEED"),
        ("BALANCER_GANTRAIN_STEPS", "BALANCER_GAN_TRAIN_STEPS"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_nearest(variable: str, near: str) -> None:
    message = mistake(**{variable: "3"})
    assert variable in message
    assert near in message
    assert call(**{variable: ""}).exit_code == 0, "an empty variable is none"
    assert CliRunner().invoke(group, ["fail", "--how", "log"], env={variable: "3"}).exit_code == 2


# What a container of Kubernetes holds for a service of each name, and one of Docker for a link.
KUBERNETES = """
BALANCER_SERVICE_HOST=10.0.0.1 BALANCER_SERVICE_PORT=80 BALANCER_SERVICE_PORT_HTTP=80 BALANCER_PORT=tcp://10.0.0.1:80
BALANCER_PORT_80_TCP=tcp://10.0.0.1:80 BALANCER_PORT_80_TCP_PROTO=tcp BALANCER_PORT_80_TCP_PORT=80
BALANCER_PORT_80_TCP_ADDR=10.0.0.1 BALANCER_API_SERVICE_HOST=10.0.0.1 BALANCER_API_PORT_53_UDP_ADDR=10.0.0.1
BALANCER_NAME=/web/balancer BALANCER_ENV_PATH=/bin
"""


def test_variables_of_services_are_not_looked_at() -> None:
    variables = dict(text.split("=", 1) for text in KUBERNETES.split())
    assert call(**variables).exit_code == 0
    for name in ("BALANCER_PORT", "BALANCER_NAME", "BALANCER_SERVICE_HOSTS"):
        assert name in mistake(**{name: "80"})


def test_variables_of_other_programs_are_not_looked_at() -> None:
    assert call(BALANCERS="3", MY_BALANCER_DATA="x", XBALANCER_DTA="x", CLASSIFIER_ABLATE_SEDES="3").exit_code == 0


# --- comparing and writing


def test_differences_name_what_is_asked_for_otherwise() -> None:
    saved = {"seed": 0, "loss": "hinge", "data": {"path": "/a", "image_size": 64}, "diffaugment": ["cutout"]}
    assert differences(saved, {}) == []
    assert differences(saved, {"seed": 0, "diffaugment": ("cutout",), "data": {"path": "/a"}}) == []
    asked = {"seed": 1, "data": {"image_size": 32}, "new": None}
    assert differences(saved, asked) == [
        "data.image_size (saved 64, asked 32)",
        "new (saved None, asked None)",
        "seed (saved 0, asked 1)",
    ]


def test_changed_keys_are_names_whatever_the_values_hold() -> None:
    saved = {"seed": 0, "loss": "hinge", "data": {"path": "/a b (c)", "image_size": 64}, "diffaugment": ["cutout"]}
    assert changed_keys(saved, {"seed": 0, "diffaugment": ("cutout",), "data": {"path": "/a b (c)"}}) == []
    asked = {"seed": 1, "data": {"path": "/d e", "image_size": 64}, "new": None}
    assert changed_keys(saved, asked) == ["data.path", "new", "seed"]


NOT_THE_RECIPE = {
    "init_from": "/x",
    "data": {"path": "phantom", "image_size": 32, "split_seed": 3},
    "seed": 4,
    "target_class": "pneumonia",
    "steps": 7,
    "precision": "bfloat16",
    "log_every": 3,
    "snapshot_every": 5,
    "snapshot_images": 9,
    "features": "random",
    "selection": "last",
    "min_diversity": 0.5,
    "tensorboard": True,
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_recipe_is_compared_with_the_whole_preset(preset: str) -> None:
    """Also where the preset leaves the default, and whatever else of the run is other."""
    named = {**PRESETS[preset], "preset": preset, **NOT_THE_RECIPE}
    assert recipe_changes(validate(GanTrainConfig, named)) == []
    assert {*NOT_THE_RECIPE, "preset", *RECIPE} == GanTrainConfig.model_fields.keys()
    for key, value in {"loss": "hinge_", "n_dis": 9, "lecam_weight": 0.1, "diffaugment": ["contrast"]}.items():
        assert recipe_changes(validate(GanTrainConfig, {**named, key: value})) == [key]


def test_a_preset_that_is_no_more() -> None:
    assert recipe_changes(validate(GanTrainConfig, {"preset": "sngan"})) is None


def test_the_hash_names_the_settings() -> None:
    one = resolve(GanTrainConfig, {**DATA, "lr_generator": "1e-5"})
    assert config_hash(one) == config_hash(resolve(GanTrainConfig, {**DATA, "lr_generator": 1e-5}))
    assert config_hash(one) != config_hash(resolve(GanTrainConfig, DATA))
    assert len(config_hash(one)) == 8


def test_settings_of_the_data_that_came_later_leave_hashes_as_they_were() -> None:
    """Hashes that the commit before these settings gave: a run of that time is resumed and compared as before."""
    data = DataConfig(path="/x")
    assert config_hash(GanTrainConfig(data=data)) == "08d8ef19"
    assert config_hash(GanTrainConfig(data=data, features="own")) != "08d8ef19"
    assert config_hash(AblateConfig(data=data)) == config_hash(AblateConfig(data=DataConfig(path="/x", task="binary")))
    assert config_hash(AblateConfig(data=data)) == "d28f6cc1"
    assert config_hash(AblateConfig(data=DataConfig(path="/x", task="multiclass"))) == "2e832985"
    assert config_hash(GanTrainConfig(data=DataConfig(path="/x", positive="ill"))) != "08d8ef19"


def test_columns_conditions_and_paths_of_a_table(tmp_path: Path) -> None:
    """As flags, as assignments and from YAML; what lies beside the table is named absolutely, for --resume."""
    (tmp_path / "c.yaml").write_text("data:\n  columns: {path: imagename, label: finding}\n  where: view=PA\n")
    read = read_config_file(tmp_path / "c.yaml", "gan_train")
    set_ = parse_assignment("data.columns.label=dx")
    config = resolve(GanTrainConfig, absolute_paths(merge(read, set_, {"data": {"path": "t.csv", "images": "scans"}})))
    assert (config.data.columns.path, config.data.columns.label, config.data.where) == ("imagename", "dx", ("view=PA",))
    assert Path(config.data.images) == Path("scans").resolve()
    assert config.data.without_paths().images is None
    with pytest.raises(UsageError, match=r"data.columns.pth.*did you mean 'data.columns.path'"):
        resolve(GanTrainConfig, parse_assignment("data.columns.pth=x"))


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_dumped_is_read_back(command: str) -> None:
    folders = {"evaluate": {"real": "/a", "image_size": 32}}
    config = resolve(COMMANDS[command], DATA if reads_data(command) else folders.get(command, {}))
    assert validate(COMMANDS[command], yaml.safe_load(dump(config))) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stages": [{"epochs": 3}, {"steps": 5}], "steps": 50}, "setting 'steps' is 50, but every stage has its own"),
        ({"stages": [{"lr": 0.1}], "lr": 0.2}, "setting 'lr' is 0.2, but every stage has its own"),
        ({"stages": [{"epochs": 3}, {"epoch": 5}]}, "unknown setting 'epoch' in stage 2; did you mean 'epochs'?"),
        ({"stages": [{"lr": "fast"}]}, "stage 1: setting 'lr' is 'fast': input should be a valid number"),
        ({"stages": [{"trainable": "top"}]}, "stage 1: setting 'trainable' is 'top': input should be 'all' or 'head'"),
        ({"stages": [7]}, "stage 1 is 7: expected a mapping"),
    ],
)
def test_stages_that_do_not_fit_are_named(given: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(TrainConfig, {**DATA, **given})
    assert str(caught.value).startswith(message)


def test_a_stage_without_a_length_of_its_own_leaves_steps_in_force() -> None:
    given = {**DATA, "stages": [{"epochs": 3}, {"trainable": "all"}], "steps": 50, "lr": 0.2}
    assert resolve(TrainConfig, given).steps == 50


def test_a_file_for_other_commands_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("train: {steps: 3}\nablate: {steps: 3}\ngan_train: {steps: 3}\n")
    for command in ("train", "gan_train", "synthesize"):
        read_config_file(file, command)
    assert caplog.messages == []
    assert read_config_file(file, "crossvalidate") == {}
    assert caplog.messages == [
        f"config file {file} has no section crossvalidate; what it says of train and ablate does not count here"
    ]


def test_a_study_says_which_sections_it_does_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("gan_train: {steps: 4}\nablate: {steps: 3}\n")
    assert read_config_file(file, "study") == {}
    assert "has no section study; what it says of gan_train and ablate does not count here" in caplog.text
    caplog.clear()
    file.write_text("gan_train: {steps: 4}\nstudy: {gans: 2}\n")
    assert read_config_file(file, "study") == {"gans": 2}
    assert not caplog.text
    file.write_text("study:\n  gan: {steps: 4}\n")
    with pytest.raises(UsageError, match=r"setting 'gan' .* not a mapping; expected: KEY=VALUE"):
        read_config_file(file, "study")


# --- the console


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("error", 1, "error: one clear line"),
        ("usage", 2, "error: what was meant?"),
        ("interrupted", 130, "error: SIGINT: state saved"),
        ("control-c", 130, "interrupted"),
        ("sigterm", 143, "error: SIGTERM: stopped"),
    ],
)
def test_failures_are_one_line_and_an_exit_code(how: str, code: int, says: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(group, ["fail", "--how", how])
    assert (result.exit_code, result.stdout, result.stderr.splitlines()) == (code, "", [says])
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_bug_keeps_its_traceback() -> None:
    assert isinstance(CliRunner().invoke(group, ["fail", "--how", "bug"]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("flags", "levels"), [((), ["INFO", "WARNING"]), (("-q",), ["WARNING"]), (("-v",), ["DEBUG", "INFO", "WARNING"])]
)
@pytest.mark.parametrize("as_json", [True, False])
def test_results_on_stdout_logs_on_stderr(flags: tuple, levels: list[str], as_json: bool) -> None:
    result = CliRunner().invoke(group, ["fail", "--how", "log", *flags, *(["--json"] if as_json else [])])
    assert result.stderr.split() == levels
    assert (json.loads(result.stdout) == {"fine": True}) if as_json else (result.stdout == "fine\n")


def test_resume_names_its_own_directory() -> None:
    for other in (("--out", "x"), ("--force",)):
        result = call("--resume", "latest", *other)
        assert result.exit_code == 2
        assert "--resume names its own directory" in result.stderr
    assert settings("--resume", "latest")["said"] == {
        "device": "auto",
        "out": "None",
        "resume": "latest",
        "force": False,
    }


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["gan-train", "--sed", "3"], "--seed"),
        (["gan-train", "--seed", "x"], "--seed"),
        (["gan-train", "--seed"], "--seed"),
        (["gan-train", "--seed="], "--seed"),
        (["gan-train", "--seed", "1", "--seed", "1"], "--seed"),
        (["gan-train", "more"], "more"),
        (["none"], "none"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], names: str) -> None:
    result = CliRunner().invoke(group, words)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert result.stderr.startswith("error: ")
    assert names in result.stderr


def test_an_option_that_may_be_given_twice_may_be() -> None:
    assert call("--set", "seed=1", "--set", "steps=3", "-q", "-q").exit_code == 0


def test_a_caller_gets_clicks_own_errors() -> None:
    with pytest.raises(click.UsageError):
        group.main(["gan-train", "--sed", "3"], standalone_mode=False)


def test_unknown_flags_and_help() -> None:
    assert "Usage:" in CliRunner().invoke(group, []).stderr
    for flag in ("-h", "--help"):
        result = call(flag)
        assert result.exit_code == 0
        assert "Resolve the settings" in result.stdout


def test_a_preset_overruled_by_its_own_settings_is_said(caplog):
    said = resolve(
        GanTrainConfig, {"preset": "sngan_diffaug", "loss": "non_saturating", "steps": 5, "data": {"path": "/x"}}
    )
    assert said.loss == "non_saturating"
    assert "preset sngan_diffaug is overruled" in caplog.text
    assert "loss" in caplog.text
    assert "steps" not in caplog.text


@pytest.mark.parametrize("preset", ["dcgan_diffaug", "sngan_diffaug"])
def test_a_preset_is_overruled_in_what_it_leaves_at_the_default_too(preset, caplog):
    given = {"preset": preset, "n_dis": 3, "steps": 5, "seed": 2, "data": {"path": "/x", "image_size": 32}}
    resolve(GanTrainConfig, given)
    (message,) = caplog.messages
    assert message.endswith("beside it: n_dis 3 (in the preset 1)")


def test_a_preset_that_nobody_named_or_that_is_kept_is_not_overruled(caplog):
    resolve(GanTrainConfig, {"loss": "hinge", **DATA})
    preset = {
        **PRESETS["sngan_diffaug"],
        "lr_discriminator": "4e-4",
        "diffaugment": "brightness,contrast,translation,cutout",
    }
    resolve(GanTrainConfig, {**preset, "preset": "sngan_diffaug", **DATA})
    resolve(GanTrainConfig, {"preset": "sngan_diffaug", "data": {"path": "phantom"}})  # the demo's widths
    assert not caplog.messages


def test_imagenet_weights_bring_imagenet_normalisation():
    plain, pretrained = resolve(TrainConfig, {}), resolve(TrainConfig, {"model": "resnet18", "weights": "imagenet"})
    assert (plain.input_normalisation, pretrained.input_normalisation) == ("per_image", "imagenet")
    asked = resolve(TrainConfig, {"model": "resnet18", "weights": "imagenet", "normalisation": "unit"})
    assert asked.input_normalisation == "unit"


@pytest.mark.parametrize("value", [False, "off"])
def test_off_may_be_written_bare_in_yaml(value):
    assert resolve(SynthesizeConfig, {"inception": value}).inception == "off"


def test_a_typo_in_another_commands_section_is_found(tmp_path):
    (tmp_path / "c.yaml").write_text("ablate: {stepz: 3}\n")
    with pytest.raises(UsageError, match=r"section ablate: unknown setting 'stepz'; did you mean 'steps'"):
        read_config_file(tmp_path / "c.yaml", "gan_train")
