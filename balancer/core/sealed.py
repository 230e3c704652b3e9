"""Seals: a file carries the SHA-256 of its own content, so that no damaged file is used in silence.

The seal is part of each format, and every other program still reads the file. In JSON, and in a line of JSON, the seal
is the last key. In YAML the seal is a comment at the end, and the first line says so: a file that was cut at
the end of a line is not taken for one without a seal. In a zip file, such as a checkpoint of torch or an ``npz``
of numpy, the seal is the comment of the archive. A CSV file has no place for a seal: a second file in the format of
``sha256sum`` lies beside it.

A file without a seal was made by an earlier version, or by hand. The file is read, with a warning.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject, encoded, write_bytes
from balancer.core.system_errors import is_out_of_memory

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger("balancer")
T = TypeVar("T")
KEY = "sha256"
DIGITS = 64  # of a SHA-256 in hexadecimal
JSON_SEAL = re.compile(rb',?\s*"sha256": "([0-9a-f]{64})"\s*\}\n?\Z')
YAML_HEAD = b"# sealed: the last line is the SHA-256 of all lines before it\n"
YAML_SEAL = re.compile(rb"# sha256 ([0-9a-f]{64})\n\Z")
ZIP_END = b"PK\5\6"  # 22 bytes before the end of a zip file that has no comment
ZIP_COMMENT_LENGTH = len("sha256 ") + DIGITS
ZIP_SEAL = re.compile(re.escape(ZIP_COMMENT_LENGTH.to_bytes(2, "little")) + rb"sha256 ([0-9a-f]{64})\Z")


class DamagedFile(BalancerError):
    """Raised when a file is not what this program wrote."""

    def __init__(self, path: Path, problem: str, remedy: str = "") -> None:
        super().__init__(f"{path} is damaged: {problem}" + (f"; {remedy}" if remedy else ""))
        self.path, self.problem = path, problem


def digest(content: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def content_of(path: Path, remedy: str = "") -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: it is a folder, or no regular file.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe would wait for ever
        raise DamagedFile(path, "it is no regular file", remedy)
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise DamagedFile(path, "it is a folder, not a file", remedy) from error


def check_seal(path: Path, content: bytes, pattern: re.Pattern[bytes], remedy: str = "") -> bool:
    """Return whether the content of a file ends with a seal, of the pattern ``YAML_SEAL`` or ``ZIP_SEAL``.

    Raises:
        DamagedFile: the seal does not fit, or is gone from a YAML file that was written with one.
    """
    seal = pattern.search(content, max(0, len(content) - 2 * DIGITS))
    if seal is not None and digest(content[: seal.start()]) != seal[1].decode():
        raise DamagedFile(path, "its content differs from its SHA-256 at its end", remedy)
    if seal is None and content.startswith(YAML_HEAD):
        raise DamagedFile(path, "its last line, the SHA-256, is missing", remedy)
    return seal is not None


# --- JSON


def sealed_json(value: Mapping[str, Any], indent: int | None = 2) -> str:
    """Return JSON text whose last key is the SHA-256 of all text before it, without a newline at the end.

    Raises:
        ValueError: a number is not finite, or the value has a key of the seal's name.
    """
    if KEY in value:
        raise ValueError(f"a sealed JSON object cannot have a key {KEY!r} of its own")
    head = json.dumps(value, indent=indent, allow_nan=False)[:-1].rstrip()
    joint = ("," if value else "") + (" " if indent is None else "\n" + " " * indent)
    return f'{head}{joint}"{KEY}": "{digest(head.encode())}"' + ("}" if indent is None else "\n}")


def unsealed_json(text: bytes) -> tuple[JsonObject, bool]:
    """Return the object of sealed JSON text without its seal, and whether there was one.

    Raises:
        ValueError: the text is not a JSON object, or the seal does not fit. The message says which.
    """
    seal = JSON_SEAL.search(text, max(0, len(text) - 2 * DIGITS))  # from its last bytes: reports hold megabytes
    if seal is not None and digest(memoryview(text)[: seal.start()]) != seal[1].decode():
        raise ValueError("its content differs from its SHA-256")
    value = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    if seal is not None:
        del value[KEY]
    return value, seal is not None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, and JSON has finite numbers alone")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a sealed JSON object atomically; a number that is not finite is refused, since JSON has none."""
    write_bytes(path, sealed_json(value).encode() + b"\n")


def read_json(path: Path, remedy: str = "") -> JsonObject:
    """Return a JSON object without its seal.

    Args:
        path: of the file.
        remedy: what the user can do about a damaged file, for the message.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: the file is no JSON object, or its seal does not fit.
    """
    try:
        value, sealed = unsealed_json(content_of(path, remedy))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, str(error), remedy) from error
    if not sealed:
        warn_of_no_seal(path)
    return value


# --- YAML


def write_yaml(path: Path, text: str) -> None:
    """Write YAML text atomically, with its SHA-256 as a comment in the last line."""
    text = YAML_HEAD.decode() + (text if text.endswith("\n") else text + "\n")
    write_bytes(path, f"{text}# {KEY} {digest(text.encode())}\n".encode())


def read_yaml_text(path: Path, remedy: str = "") -> str:
    """Return the text of a YAML file of this program.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: the seal does not fit, or the text is not UTF-8.
    """
    content = content_of(path, remedy)
    if not check_seal(path, content, YAML_SEAL, remedy):
        if not content.endswith(b"\n"):  # as every version wrote it
            raise DamagedFile(path, "it is cut: its last line has no end", remedy)
        warn_of_no_seal(path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DamagedFile(path, "it is not UTF-8", remedy) from error


# --- zip files: tensors and arrays


def save_tensors(path: Path, content: Mapping[str, Any], previous: Path | None = None) -> None:
    """Write tensors and plain values atomically, as ``torch.save`` does, with a seal.

    The bytes are made in memory first: on a full disk torch's own writer hides the operating system's error.
    ``previous`` is the name that the replaced file gets.
    """
    write_bytes(path, tensor_bytes(content), previous)


def tensor_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of :func:`save_tensors`."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return sealed_zip(buffer.getvalue())


def load_tensors(path: Path, device: torch.device, remedy: str = "") -> JsonObject:
    """Return what :func:`save_tensors` wrote; code in the file is never executed.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: the seal does not fit, or the file holds no dictionary of tensors and plain values.
    """
    import torch

    value = _read_zip(
        path, "torch", lambda content: torch.load(content, map_location=device, weights_only=True), remedy
    )
    if not isinstance(value, dict):
        raise DamagedFile(path, "it holds no dictionary", remedy)
    return value


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays atomically as ``npz``, with a seal."""
    write_bytes(path, array_bytes(arrays))


def array_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of :func:`save_arrays`."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return sealed_zip(buffer.getvalue())


def load_arrays(path: Path, remedy: str = "") -> dict[str, np.ndarray]:
    """Return what :func:`save_arrays` wrote.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: the seal does not fit, or the file is no ``npz`` of plain arrays.
    """
    import numpy as np

    def read(content: io.BytesIO) -> dict[str, np.ndarray]:
        with np.load(content, allow_pickle=False) as stored:
            return dict(stored)

    return _read_zip(path, "numpy", read, remedy)


def sealed_zip(content: bytes) -> bytes:
    """Return a zip file with the SHA-256 of its content as its comment. The file must have no comment yet."""
    if content[-2:] != b"\0\0":
        raise ValueError("the zip file has a comment already")
    comment = f"{KEY} {digest(content[:-2])}".encode()
    return content[:-2] + ZIP_COMMENT_LENGTH.to_bytes(2, "little") + comment


def _read_zip(path: Path, library: str, read: Callable[[io.BytesIO], T], remedy: str) -> T:
    """Return what a library reads in a zip file whose seal fits."""
    content = content_of(path, remedy)
    sealed = check_seal(path, content, ZIP_SEAL, remedy)
    if not sealed and (content[-22:-18] != ZIP_END or content[-2:] != b"\0\0"):
        raise DamagedFile(path, "it is cut, or its end was changed", remedy)
    try:
        value = read(io.BytesIO(content))
    except Exception as error:  # libraries raise many kinds for a damaged file
        if is_out_of_memory(error):
            raise
        raise DamagedFile(path, f"{library} cannot read it ({type(error).__name__})", remedy) from error
    if not sealed:
        warn_of_no_seal(path)
    return value


def check_archive(path: Path, remedy: str = "") -> None:
    """Refuse a zip file, such as a checkpoint, that is not what was written; nothing in it is decoded.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: the seal does not fit, or the file is cut.
    """
    _read_zip(path, "zipfile", lambda _: None, remedy)


def zip_seal(path: Path) -> str:
    """Return the SHA-256 that a zip file carries, unchecked, from its last bytes; empty if it carries none.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - ZIP_COMMENT_LENGTH - 2))
        seal = ZIP_SEAL.search(handle.read())
    return seal[1].decode() if seal else ""


# --- other files


def write_with_sum(path: Path, text: str) -> None:
    """Write a text file atomically, with a file beside it that ``sha256sum --check`` reads.

    The sum is written first. A kill between the two leaves a file that does not fit, never one that is not checked.
    """
    content = encoded(text)
    write_bytes(_sum_file(path), f"{digest(content)}  {path.name}\n".encode())
    write_bytes(path, content)


def read_with_sum(path: Path, remedy: str = "") -> str:
    """Return the text of a file; a byte-order mark, as Excel writes one, is dropped.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: the sum beside the file does not fit, or the text is not UTF-8.
    """
    content = content_of(path, remedy)
    try:
        expected = _sum_file(path).read_text(encoding="ascii", errors="replace").split(maxsplit=1)
    except FileNotFoundError:
        warn_of_no_seal(path)
    else:
        if expected != [digest(content), f"{path.name}\n"]:
            raise DamagedFile(path, f"its content differs from its SHA-256 in {_sum_file(path).name}", remedy)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedFile(path, "it is not UTF-8", remedy) from error


def _sum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


@lru_cache(maxsize=1024)  # once a file, however often it is read
def warn_of_no_seal(path: Path) -> None:
    """Say once that a file carries no seal."""
    log.warning("%s carries no SHA-256 (made by an earlier version, or by hand): it was not checked", path)
