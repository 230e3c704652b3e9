"""Models for other programs: the formats of an export, the facts that a file says of itself, and its seal.

ONNX and safetensors files hold text by key. The facts are such text, and so is the seal: the SHA-256 of the file with
zeros in the place of its digits. Every other program still reads the file. A ``.pt2`` file is a zip file, sealed as
those of :mod:`balancer.core.sealed` are. No fact names a folder of this machine.

This module does without torch and without onnx, but for :func:`safetensors_bytes` and :func:`parse_tensors`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balancer.core.errors import BalancerError, UsageError
from balancer.core.extras import install
from balancer.core.files import JsonObject
from balancer.core.sealed import DIGITS, KEY, DamagedFile, content_of, digest
from balancer.core.speed import slowness
from balancer.core.system_errors import is_out_of_memory

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
FORMATS = tuple(SUFFIXES)
FACTS = "facts.json"  # key in a safetensors file; name in a .pt2 file, which torch.export.load gives as extra_files
PARITY = 1e-4  # what an exported file may differ by, in probabilities
ONNX_MARK = b"\n\x06sha256\x12@"  # before the digits: key and value of an entry of metadata_props, in protobuf
SAFETENSORS_MARK = rb"\"sha256\": \""  # before the digits: in JSON, as a string of the JSON header
_ZEROS = b"0" * DIGITS
UNCHECKED = "the exported file, which the run compares with the network before the file gets its name"
# Measured on one core of the reference machine, imports among them: (fixed, for each layer of the network).
SECONDS = {"onnx": (8.0, 0.08), "torch-export": (5.0, 0.05), "safetensors": (0.3, 0.002)}

if TYPE_CHECKING:
    import torch


def target(model: Path, to: str, out: Path | None) -> Path:
    """Return the path of the exported file: ``out``, or the model's own with the suffix of the format.

    Raises:
        UsageError: the format is unknown, or ``out`` has another suffix or lies in no folder.
    """
    if to not in SUFFIXES:
        raise UsageError(f"--to is {to!r}; expected {', '.join(FORMATS)}")
    if out is None:
        return model.with_suffix(SUFFIXES[to])
    if out.suffix != SUFFIXES[to]:
        raise UsageError(f"--out {out} ends in {out.suffix or 'no suffix'!r}; files of {to} end in {SUFFIXES[to]}")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first")
    return out


def refuse_existing(files: Iterable[Path], force: bool) -> None:
    """Refuse to replace files, unless ``force``.

    Raises:
        BalancerError: a file is there; the message names the first one.
    """
    for file in files:
        if file.is_dir():
            raise BalancerError(f"{file} is a folder; give --out FILE")
        if file.exists() and not force:
            raise BalancerError(f"{file} exists; give --force to replace it, or --out FILE")


def estimate_seconds(network: torch.nn.Module, to: str) -> float:
    """Return a rough estimate of an export, mostly of tracing: by the layers of the network and the format."""
    layers = sum(1 for module in network.modules() if not any(module.children()))
    fixed, a_layer = SECONDS[to]
    return (fixed + a_layer * layers) * slowness()


def require(*packages: str) -> None:
    """Refuse to go on without the packages of the extra ``export``.

    Raises:
        BalancerError: a package is not installed; the message says how to install all of them.
    """
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise BalancerError(f"ONNX needs the package {package} ({error}); {install('export')}") from error


def to_text(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as text by key, each value in JSON, with the place of the seal last: the metadata of ONNX files."""
    return {**{key: json.dumps(value, allow_nan=False) for key, value in facts.items()}, KEY: _ZEROS.decode()}


def from_text(text: Mapping[str, str], path: Path, remedy: str) -> JsonObject:
    """Return the facts that :func:`to_text` made text of.

    Raises:
        DamagedFile: a value is not JSON.
    """
    facts = {}
    for key, value in ((key, value) for key, value in text.items() if key != KEY):
        try:
            facts[key] = json.loads(value)
        except ValueError as error:
            raise DamagedFile(path, f"{key} in its metadata is not JSON", remedy) from error
    return facts


def seal(content: bytes, mark: bytes) -> bytes:
    """Return a file's content with its SHA-256 in place of the zeros after ``mark``."""
    at = content.rfind(mark + _ZEROS)
    if at < 0:
        raise ValueError("the content has no place for its seal")
    at += len(mark)
    return content[:at] + digest(content).encode() + content[at + DIGITS :]


def read_sealed(path: Path, mark: bytes, made_by: str, remedy: str) -> bytes:
    """Return the content of a file once its seal fits.

    Args:
        path: of the file.
        mark: what stands before the digits of the seal.
        made_by: the command that writes such files, for the message.
        remedy: what the user can do about a damaged file, for the message.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: the seal does not fit.
        BalancerError: the file has no seal, so another program made it.
    """
    content = content_of(path, remedy)
    at = content.rfind(mark)
    if at < 0:
        raise BalancerError(f"{path} carries no SHA-256, so `{made_by}` did not write it, or it is damaged; {remedy}")
    at += len(mark)
    if digest(content[:at] + _ZEROS + content[at + DIGITS :]).encode() != content[at : at + DIGITS]:
        raise DamagedFile(path, "its content differs from its SHA-256", remedy)
    return content


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> bytes:
    """Return the content of a sealed safetensors file.

    All facts are one JSON text: safetensors writes several keys in an order that changes from run to run.
    """
    from safetensors.torch import save

    text = json.dumps({**facts, KEY: _ZEROS.decode()}, allow_nan=False)
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {FACTS: text})
    return seal(content, SAFETENSORS_MARK)


def read_tensors(path: Path, made_by: str, remedy: str) -> tuple[JsonObject, dict[str, torch.Tensor]]:
    """Return the facts and the tensors that :func:`safetensors_bytes` made a file of, on the CPU.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: the seal does not fit, or the content is not what was written.
        BalancerError: another program made the file.
    """
    return parse_tensors(path, read_sealed(path, SAFETENSORS_MARK, made_by, remedy), remedy)


def parse_tensors(path: Path, content: bytes, remedy: str) -> tuple[JsonObject, dict[str, torch.Tensor]]:
    """Return the facts and the tensors of a safetensors file with this content.

    Raises:
        DamagedFile: the content is not that of :func:`safetensors_bytes`.
    """
    from safetensors.torch import load

    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header["__metadata__"][FACTS])
        del facts[KEY]
    except Exception as error:  # safetensors raises kinds of its own
        if is_out_of_memory(error):
            raise
        raise DamagedFile(path, f"safetensors cannot read it ({type(error).__name__})", remedy) from error
    return facts, tensors
