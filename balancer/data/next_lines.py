"""The command lines that go on with some data, as they can be pasted."""

from __future__ import annotations

import shlex

from balancer.core.settings_base import PHANTOM, DataConfig
from balancer.data.label_spellings import joined

WITHOUT_FLAG = {"resize", "window", "frame", "dicom_source"}  # settings that --set alone takes
DEFAULT_SIDE = DataConfig().image_size


def command_lines(config: DataConfig, pattern: str | None, smallest: int | None, classes: int) -> list[str]:
    """Return the commands that go on with data of so many classes, with the settings that were given here.

    Args:
        config: the settings.
        pattern: a preset of patients' names that fits all files.
        smallest: the working size that suits images which are all smaller than the usual size.
        classes: how many there are.
    """
    flags = ["--data", config.path or PHANTOM, *settings_flags(config)]
    flags += ["--patient-pattern", pattern] if pattern and config.patients is None else []
    flags += ["--image-size", str(smallest)] if smallest and config.image_size == DEFAULT_SIDE else []
    audit = [flag for flag in flags if flag != "--strict"]
    return [
        shlex.join(["balancer", "audit", *audit]),
        shlex.join(["balancer", "gan-train", *flags, *(["--class", "all"] if classes > 2 else [])]),
        "balancer synthesize",
        "classifier ablate --regimes all",
    ]


def inspect_line(config: DataConfig) -> str:
    """Return the command that looks at the data again with these settings."""
    return shlex.join(["balancer", "inspect", config.path or PHANTOM, *settings_flags(config)])


def settings_flags(config: DataConfig) -> list[str]:
    """Return the flags of all settings of the data that are not the defaults, but for the place of the data."""
    flags: list[str] = []
    for name, value in config.model_dump(mode="json", exclude_defaults=True, exclude={"path", "columns"}).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            flags += [text for one in value for text in (flag, one)] if name == "where" else [flag, joined(value)]
        elif name == "flips":
            flags += ["--set", "data.flips=true"]
        elif value is True:
            flags.append(flag)
        else:
            flags += ["--set", f"data.{name}={value}"] if name in WITHOUT_FLAG else [flag, str(value)]
    columns = {role: name for role, name in config.columns.model_dump().items() if name}
    return [*flags, "--columns", ",".join(f"{role}={name}" for role, name in columns.items())] if columns else flags
