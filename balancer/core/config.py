"""Settings put together from layers.

Later layers win: defaults, demonstration sizes (only on the phantom set), what an earlier run hands on, the named
preset, the config file, the environment, the flags. The models are in ``settings``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from balancer.core.configs import find_config
from balancer.core.errors import UsageError, nearest
from balancer.core.presets import DEMO, PRESETS
from balancer.core.run_names import SYNTHESES, find_run
from balancer.core.sealed import YAML_SEAL, check_seal
from balancer.core.settings import (
    CLASSIFIER,
    CLASSIFIERS,
    COMMANDS,
    PHANTOM,
    RECIPE,
    SECTIONS,
    ClassifierConfig,
    GanTrainConfig,
    Settings,
    StageConfig,
)
from balancer.core.settings_base import ADDED_LATER, ADDED_LATER_TO_COMMANDS, PATHS_OF_DATA, DataConfig
from balancer.core.yaml_reader import read_yaml

DEFAULT_FOLDER = Path("data/chest_xray")

# Renamed values of settings: (setting, old value) -> new value. Files of earlier versions are read with the new value.
# Hashes are taken over the old value, so that the hashes of published runs stay valid.
OLD_SETTINGS = {("bn_statistics", "clean"): "reestimated"}
# Settings that are paths, beside those of the data.
PATHS = {"gan_run", "synthetic", "real", "fake", "training", "weights", "folder", "split_of", "checkpoint", "patients"}
PATHS |= {"init_from"}
RUNS_OF = {  # of these settings, a name under runs/ serves too
    "gan_run": ("gan-train",),
    "init_from": ("gan-train",),
    "synthetic": SYNTHESES,
    "split_of": ("gan-train", "ablate", "train", *SYNTHESES),
}
OF_A_STUDY = ("gan_train", "synthesize", "ablate", CLASSIFIER)  # sections that a study does not read: it has --gan
log = logging.getLogger("balancer")
SettingsT = TypeVar("SettingsT", bound=Settings)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dictionaries laid over one another; later ones win key by key.

    >>> merge({"data": {"path": "a", "image_size": 64}}, {"data": {"path": "b"}})
    {'data': {'path': 'b', 'image_size': 64}}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def read_config_file(path: Path, command: str) -> dict[str, Any]:
    """Return the section of a YAML file that belongs to a command, laid over the sections that commands share.

    A file holds a mapping per command (``gan_train``, ``ablate``, ...), ``data`` for all commands that read a data set,
    and ``classifier`` for all commands that train classifiers. A file of this package is found by
    its name. The YAML loader is the safe one, which executes nothing.
    """
    path = find_config(path)
    try:
        text = path.read_bytes()
        check_seal(path, text, YAML_SEAL, "if you changed the file on purpose, delete its first and last line")
        content = read_yaml(text.decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"config file {path} cannot be read: {error.strerror}; give an existing YAML file") from error
    except ValueError as error:
        raise UsageError(f"config file {path} is not valid YAML: {error}") from error
    if content is None:
        log.warning("config file %s is empty: it sets nothing", path)
        content = {}
    if not isinstance(content, dict):
        raise UsageError(f"config file {path} holds a {type(content).__name__}; expected sections {sorted(SECTIONS)}")
    for section, body in content.items():
        if section not in SECTIONS:
            raise UsageError(
                f"config file {path} has an unknown section {section!r}; {nearest(str(section), SECTIONS)}"
            )
        if body is not None and not isinstance(body, dict):
            raise UsageError(f"config file {path}: section {section!r} is a {type(body).__name__}; expected a mapping")
        try:
            check_keys(SECTIONS[section], body or {})
        except UsageError as error:
            raise UsageError(f"config file {path}, section {section}: {error}") from error
    data = {"data": content["data"]} if content.get("data") and reads_data(command) else {}
    training = content.get(CLASSIFIER) or {} if command in CLASSIFIERS else {}
    shared = {CLASSIFIER} if command in CLASSIFIERS else set()
    like = CLASSIFIERS if command in CLASSIFIERS else OF_A_STUDY if command == "study" else ()
    others = [name for name in content if name in like and name != command]
    if not content.keys() & {command, *shared} and others:
        log.warning(
            "config file %s has no section %s; what it says of %s does not count here",
            path,
            command,
            " and ".join(others),
        )
    return without_nulls(merge(data, training, content.get(command) or {}))


def reads_data(command: str) -> bool:
    """Whether a command works on a data set; ``evaluate`` is given folders of images instead."""
    return "data" in COMMANDS[command].model_fields


def without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is null: in a config file, null says "as if not given", at every level."""
    present = {key: without_nulls(v) if isinstance(v, Mapping) else v for key, v in values.items()}
    return {key: v for key, v in present.items() if v is not None}


def parse_assignment(text: str, option: str = "--set") -> dict[str, Any]:
    """``data.image_size=128`` as ``{"data": {"image_size": 128}}``; the value is read as YAML.

    Only ``null`` or ``~`` is null. An empty value is refused: mostly, it is a variable of the shell that is not set.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        example = "data.image_size=128" if option == "--set" else "steps=1000"
        raise UsageError(f"{option} got {text!r}; expected key=value, as in {option} {example}")
    try:
        content = read_yaml(value)
    except ValueError as error:
        raise UsageError(f"{option} {key}: {value!r} is not a YAML value: {error}") from error
    if content is None and value.strip().lower() not in ("null", "~"):
        raise UsageError(f"{option} {key}: there is no value after =; give one, or null for what is not set")
    return nested(key.strip(), content)


def parse_assignments(texts: Sequence[str], option: str = "--set") -> list[dict[str, Any]]:
    """Return the settings of several assignments; of two to one setting the last counts, with a warning.

    ``option`` is the one that gave them, for messages.
    """
    keys = [text.partition("=")[0].strip() for text in texts]
    for key in sorted({key for key in keys if keys.count(key) > 1}):
        log.warning("%s gives %s %d times; the last counts", option, key, keys.count(key))
    return [parse_assignment(text, option) for text in texts]


def resolve(
    model: type[SettingsT], explicit: Mapping[str, Any], inherited: Mapping[str, Any] | None = None
) -> SettingsT:
    """Return the settings of a command: its defaults, what an earlier run hands on, and what the user set.

    Args:
        model: the settings model of the command, a value of :data:`COMMANDS`.
        explicit: config file, environment and flags, already merged in that order.
        inherited: settings taken over from the run that this run builds on, such as its ``data`` section.

    Raises:
        UsageError: an unknown key or preset, or a value out of range.
    """
    layered = merge(inherited or {}, explicit)
    command = next(name for name, of_command in COMMANDS.items() if of_command is model)
    if not reads_data(command):
        return validate(model, layered)
    data = layered.get("data") or {}
    if not isinstance(data, Mapping):
        raise UsageError(f"setting 'data' is {data!r}; expected a mapping, as in --set data.path=FOLDER")
    path = data.get("path")
    if path is None or isinstance(path, str):  # the settings model refuses all else
        path = data_path(path)
    preset = layered.get("preset", GanTrainConfig().preset)
    if command == "gan_train" and preset not in list(PRESETS):  # a list, since what was given may be unhashable
        raise UsageError(f"preset is {preset!r}; {nearest(str(preset), PRESETS)}")
    demo = DEMO[command] if path == PHANTOM else {}
    preset_values = PRESETS[preset] if command == "gan_train" else {}
    layers = [demo, inherited or {}, preset_values, explicit]
    config = validate(model, merge(*layers, {"data": {"path": path}}))
    if isinstance(config, GanTrainConfig) and "preset" in layered:  # whoever names none overrules none
        _warn_of_overruled(config, explicit)
    if isinstance(config, ClassifierConfig):
        _refuse_overruled(config, explicit)
    return config


def explicit_values(config: Settings | None) -> dict[str, Any]:
    """Return the settings that were set when the model was made, without those left at their defaults."""
    return {} if config is None else absolute_paths(config.model_dump(mode="json", exclude_unset=True))


def absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with absolute paths, so that ``--resume`` finds the files from anywhere."""
    values = dict(values)
    data = values.get("data")
    if isinstance(data, Mapping):
        files = {key: data[key] for key in PATHS_OF_DATA if isinstance(data.get(key), str)}
        absolute = {key: data_path(v) if key == "path" else _absolute(f"data.{key}", v) for key, v in files.items()}
        values["data"] = {**data, **absolute}
    for key in values.keys() & PATHS:
        value = values[key]
        if key != "weights" or value not in (None, "imagenet", "none"):
            values[key] = (
                [_absolute(key, v) for v in value] if isinstance(value, list | tuple) else _absolute(key, value)
            )
    return values


def _absolute(key: str, value: Any) -> Any:
    """Return a path made absolute; the settings model refuses what is no text."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise UsageError(f"setting {key!r} is empty; give a path")
    return _resolved(key, str(find_run(Path(value), *RUNS_OF[key])) if key in RUNS_OF and "\0" not in value else value)


def _resolved(key: str, path: str) -> str:
    """Return an absolute path; refuse what can be no path."""
    try:
        os.fsencode(path)
        if "\0" in path:
            raise ValueError("null character")
        return str(Path(path).expanduser().resolve())
    except (ValueError, RuntimeError) as error:  # UnicodeEncodeError, and a home folder that is not known
        raise UsageError(f"setting {key!r} is {path!r}, which can be no path ({error}); give another") from error


def overruled(config: ClassifierConfig) -> set[str]:
    """Return the settings that do nothing, because every stage of training has its own."""
    lengths = {"steps": ("steps", "epochs")}
    return {
        key
        for key in StageConfig.model_fields
        if config.stages
        and all(any(getattr(stage, n) is not None for n in lengths.get(key, (key,))) for stage in config.stages)
    }


def _refuse_overruled(config: ClassifierConfig, explicit: Mapping[str, Any]) -> None:
    for key in sorted(explicit.keys() & overruled(config)):
        raise UsageError(
            f"setting {key!r} is {explicit[key]!r}, but every stage has its own; leave it out, or change the stages"
        )


def _warn_of_overruled(config: GanTrainConfig, explicit: Mapping[str, Any]) -> None:
    """Name what was given beside the preset and is otherwise in it."""
    pure, used = (flatten(c.model_dump(mode="json")) for c in (preset_config(config.preset), config))
    fixed = {*RECIPE, *flatten(PRESETS[config.preset])} & flatten(explicit).keys()
    overruled = [key for key in changed_keys(pure, used) if key in fixed]
    if overruled:
        changes = "; ".join(f"{key} {used[key]!r} (in the preset {pure[key]!r})" for key in overruled)
        log.warning("preset %s is overruled by settings given beside it: %s", config.preset, changes)


def preset_config(name: str) -> GanTrainConfig:
    """Return a named preset laid over the defaults."""
    return validate(GanTrainConfig, merge(PRESETS[name], {"preset": name}))


def recipe_changes(config: GanTrainConfig) -> list[str] | None:
    """Return the settings of the recipe that differ from the preset; None if there is no such preset any more."""
    if config.preset not in PRESETS:
        return None
    pure, used = (c.model_dump(include=set(RECIPE)) for c in (preset_config(config.preset), config))
    return changed_keys(pure, used)


def data_path(path: str | None) -> str:
    """Return the data that a run reads: a path, else ``data/chest_xray`` if it is there, else the phantom set.

    A folder is made absolute, so that a later command finds it from wherever it is started.
    """
    if path is not None and not path.strip():
        raise UsageError("setting 'data.path' is empty; give a folder, a table, a MedMNIST .npz or 'phantom'")
    if path is None:
        path = str(DEFAULT_FOLDER) if DEFAULT_FOLDER.is_dir() else PHANTOM
    return path if path == PHANTOM else _resolved("data.path", path)


def validate(model: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """Build a settings model; the first problem becomes one line that names the key."""
    values = _renamed(values, OLD_SETTINGS)
    check_keys(model, values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        names, problems = setting_names(model), error.errors()
        path = [str(part) for part in problems[0]["loc"]]
        dotted = (".".join(path[:n]) for n in range(1, len(path) + 1))
        key = next((name for name in dotted if name in names), ".".join(path))
        depth = key.count(".") + 1
        if key == "stages" and len(path) > depth:
            raise UsageError(_of_stage(path[depth:], problems)) from error
        same = [p["msg"][:1].lower() + p["msg"][1:] for p in problems if ".".join(map(str, p["loc"][:depth])) == key]
        raise UsageError(f"setting {key!r} is {problems[0]['input']!r}: {', or '.join(same)}") from error


def _of_stage(path: list[str], problems: list[Any]) -> str:
    """Return the message on the first problem of the stages, with the stage and its key."""
    stage = f"stage {int(path[0]) + 1}"
    if len(path) == 1:
        return f"{stage} is {problems[0]['input']!r}: expected a mapping such as {{epochs: 10, trainable: head}}"
    if problems[0]["type"] == "extra_forbidden":
        return f"unknown setting {path[1]!r} in {stage}; {nearest(path[1], StageConfig.model_fields)}"
    same = [p["msg"][:1].lower() + p["msg"][1:] for p in problems if list(map(str, p["loc"][1:3])) == path[:2]]
    return f"{stage}: setting {path[1]!r} is {problems[0]['input']!r}: {', or '.join(same)}"


def check_keys(model: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Refuse a key that the model does not have, naming the nearest one that it has."""
    known = setting_names(model)
    if dotted := next((key for key in values if "." in str(key)), None):
        first, _, rest = str(dotted).partition(".")
        raise UsageError(f"setting {dotted!r} is one key with a dot; write it nested, as in {first}: {{{rest}: ...}}")
    for key, value in flatten(values).items():
        if key in known:
            continue
        section = key.rpartition(".")[0]
        if section in known:
            field = model.model_fields.get(section)
            about = f"; expected: {field.description}" if field and field.description else ""
            raise UsageError(f"setting {section!r} is a single value, not a mapping{about}")
        if any(name.startswith(f"{key}.") for name in known):
            raise UsageError(f"setting {key!r} is {value!r}; expected a mapping")
        raise UsageError(f"unknown setting {key!r}; {nearest(key, known)}")


def setting_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All settings of a model by their dotted names."""
    names: list[str] = []
    for key, field in model.model_fields.items():
        nested = field.annotation
        is_section = isinstance(nested, type) and issubclass(nested, BaseModel)
        names += setting_names(nested, f"{prefix}{key}.") if is_section else [prefix + key]  # type: ignore[arg-type]
    return names


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted keys.

    >>> flatten({"seed": 3, "data": {"image_size": 64}})
    {'seed': 3, 'data.image_size': 64}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return one setting as nested dictionaries.

    >>> nested("data.image_size", 64)
    {'data': {'image_size': 64}}
    """
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def changed_keys(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Return the requested settings, by their dotted names, that the saved ones contradict or lack."""
    before, after = flatten(saved), flatten(requested)
    return [k for k in sorted(after) if k not in before or _plain(before[k]) != _plain(after[k])]


def differences(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """One phrase for a message per key of :func:`changed_keys`: ``steps (saved 4000, asked 200)``."""
    before, after = flatten(saved), flatten(requested)
    return [f"{k} (saved {before.get(k)!r}, asked {after[k]!r})" for k in changed_keys(saved, requested)]


def dump(section: Settings) -> str:
    """Return settings as YAML."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False)


def config_hash(section: Settings, exclude: set[str] | None = None) -> str:
    """Return the first 8 hex digits of the settings' SHA-256, leaving out ``exclude``."""
    to_old = {(name, new): old for (name, old), new in OLD_SETTINGS.items()}
    values = section.model_dump(mode="json", exclude=exclude)
    fields = type(section).model_fields
    values = {k: v for k, v in values.items() if k not in ADDED_LATER_TO_COMMANDS or v != _plain(fields[k].default)}
    if isinstance(values.get("data"), dict):
        usual = DataConfig().model_dump(mode="json")
        data = values["data"].items()
        values["data"] = {key: v for key, v in data if key not in ADDED_LATER or v != usual[key]}
        if values["data"].get("task") == usual["task"]:
            values["data"]["task"] = "binary"  # the default of earlier versions, and the same on their data
    text = json.dumps(_renamed(values, to_old), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _renamed(values: Mapping[str, Any], renames: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    return {key: renames.get((key, v), v) if isinstance(v, str) else v for key, v in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
