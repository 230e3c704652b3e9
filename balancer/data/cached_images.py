"""Images in the cache that belong to something computed: a memory map beside the file of the other arrays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from balancer.core.files import remove, temporary_path
from balancer.core.sealed import DamagedFile
from balancer.data import cache

Array = np.ndarray
SUM = "images_sha256"  # of the memory map, kept with the other arrays
log = logging.getLogger("balancer")


def cached_images(
    path: Path,
    shape: tuple[int, ...],
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    make: Callable[[Array], dict[str, Array]],
) -> tuple[Array, dict[str, Array]]:
    """Return images as a memory map of the cache, and the arrays of a file beside it; make both if need be.

    The images of a large set would fill the memory. What is read is checked against its SHA-256 first.

    Args:
        path: of the ``npz`` file; the images lie beside it, as ``npy``.
        shape: of the images (n, ...) uint8.
        layout: dtype and shape of each array of the file.
        make: fills images of that shape, and returns the arrays.
    """
    file, complete = path.with_suffix(".npy"), {**layout, SUM: ("uint8", (32,))}

    def made() -> dict[str, Array]:
        temporary = temporary_path(file)
        try:
            images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            cache.reserve(temporary)
            arrays = make(images)
            images.flush()
            digest = bytes.fromhex(cache.sha256_of(temporary))
            temporary.replace(file)
        except BaseException:
            remove(temporary)
            raise
        return {**arrays, SUM: np.frombuffer(digest, np.uint8)}

    arrays = cache.cached_arrays(path, complete, made)
    try:
        images = _opened(file, shape, arrays[SUM])
    except (FileNotFoundError, DamagedFile) as damage:
        log.warning("%s; it is made again", damage if isinstance(damage, DamagedFile) else f"{file} is missing")
        remove(path)
        arrays = cache.cached_arrays(path, complete, made)
        images = _opened(file, shape, arrays[SUM])
    return images, {key: arrays[key] for key in layout}


def _opened(file: Path, shape: tuple[int, ...], digest: Array) -> Array:
    if cache.sha256_of(file) != bytes(digest).hex():
        raise DamagedFile(file, "its content differs from the SHA-256 beside it")
    images: Array = np.load(file, mmap_mode="r")
    if (images.shape, images.dtype) != (shape, np.uint8):
        raise DamagedFile(file, f"{images.dtype} {images.shape}; expected uint8 {shape}")
    return images
