"""The shape of what was read from a file: keys, types, tensors and arrays, checked before anything uses them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from balancer.core.errors import BalancerError
from balancer.core.sealed import DamagedFile

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T")


def parse(kind: type[T], value: object, path: Path, remedy: str = "", where: str = "") -> T:
    """Return plain values as a dataclass (or another type), each value checked against its declared type.

    A key that the dataclass does not have is ignored: a later version may have written it.

    Args:
        kind: the type.
        value: what was read.
        path: of the file, for the message.
        remedy: as for :func:`read_json`.
        where: of the value in the file, such as ``line 3``, for the message.

    Raises:
        DamagedFile: a key is missing, or a value is of another type; the message names the first key.
    """
    import pydantic

    hashable: Any = kind
    try:
        return _adapter(hashable).validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "content"
        raise DamagedFile(path, f"{where}{': ' * bool(where)}{key}: {first['msg']}", remedy) from error


@lru_cache(maxsize=64)  # building one costs milliseconds
def _adapter(kind: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(kind)


def check_format(path: Path, stated: object, known: int, name: str, remedy: str) -> None:
    """Refuse a file of another format than the one that this version reads.

    Args:
        path: of the file, for the message.
        stated: the number that the file states, if it is one.
        known: the number that this version reads.
        name: what the file should be, in words.
        remedy: what to do about a file of another kind or of an earlier format.

    Raises:
        BalancerError: the message says whether the file is newer.
    """
    if isinstance(stated, int) and stated > known:
        raise BalancerError(
            f"{path} was written by a newer version: its format is {stated}, this version reads {known}; update this "
            f"program (pip install --upgrade xray-balancer), or {remedy}"
        )
    if not isinstance(stated, int) or stated != known:  # a tensor cannot be compared
        raise BalancerError(f"{path} is not a {name} of format {known}; {remedy}")


def check_tensors(
    path: Path, name: str, tensors: object, expected: Mapping[str, torch.Tensor], remedy: str = ""
) -> dict[str, torch.Tensor]:
    """Return tensors that were read, once they are those expected: each there, of its shape and type, and finite.

    Args:
        path: of the file, for the message.
        name: of the tensors in the file, as ``G``, for the message.
        tensors: what was read.
        expected: tensors of the same names, shapes and types; their values do not matter.
        remedy: as for :func:`read_json`.

    Raises:
        DamagedFile: they differ; the message names the first tensor that does.
    """
    import torch

    def kind(tensor: torch.Tensor) -> str:
        layout = "" if tensor.layout is torch.strided else f" {tensor.layout}"
        return f"{tensor.dtype} {tuple(tensor.shape)}{layout}" + " without values" * tensor.is_meta

    if not isinstance(tensors, Mapping):
        raise DamagedFile(path, f"{name}: expected tensors by name, got {type(tensors).__name__}", remedy)
    for key in sorted(map(str, tensors.keys() - expected.keys())):
        raise DamagedFile(path, f"{name}.{key}: unknown tensor", remedy)
    for key, like in expected.items():
        value = tensors.get(key)
        if not isinstance(value, torch.Tensor):
            problem = f"expected a tensor, got {type(value).__name__}" if key in tensors else "missing"
        elif kind(value) != kind(like):
            problem = f"{kind(value)}; expected {kind(like)}"
        elif not torch.isfinite(value).all():
            problem = "not finite"
        else:
            continue
        raise DamagedFile(path, f"{name}.{key}: {problem}", remedy)
    return dict(tensors)


def check_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], layout: Mapping[str, tuple[str, tuple[int, ...]]], remedy: str = ""
) -> None:
    """Refuse arrays that were read if one is missing, of another type or shape, or not finite.

    Args:
        path: of the file, for the message.
        arrays: what was read.
        layout: dtype and shape of each array that must be there.
        remedy: as for :func:`read_json`.

    Raises:
        DamagedFile: the message names the first array that does not fit.
    """
    import numpy as np

    for key, (dtype, shape) in layout.items():
        if key not in arrays:
            raise DamagedFile(path, f"{key}: missing", remedy)
        array = arrays[key]
        if (array.dtype, array.shape) != (np.dtype(dtype), shape):
            raise DamagedFile(path, f"{key}: {array.dtype} {array.shape}; expected {dtype} {shape}", remedy)
        if not np.isfinite(array).all():
            raise DamagedFile(path, f"{key}: not finite", remedy)
