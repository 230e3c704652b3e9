"""Images to try: drawings, or those of a folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.core.pixels import COLOUR, GREY
from balancer.data.images import decode_image, looks_coloured
from balancer.data.listing import image_files
from balancer.data.phantom import PhantomSpec, drawn_images
from balancer.reporting.grids import png_bytes
from classifier.serving.answers import Example
from classifier.serving.pictures import data_url

MOST = 12
DRAWN = PhantomSpec(size=192, seed=7, train=(0, 0), val=(0, 0), test=(3, 3))  # of no set that anybody trains on
THUMBNAIL = 96  # px


@dataclass(frozen=True)
class ExampleImage:
    """An example and its file's content, read anew at each request."""

    example: Example
    read: Callable[[], bytes]


def drawings(classes: Sequence[str]) -> list[ExampleImage]:
    """Return three drawings of each class that is drawn; none for models that know no such class."""
    examples: list[ExampleImage] = []
    drawn = list(drawn_images(DRAWN))
    if {*classes}.isdisjoint(part for name, _ in drawn for part in name.split("/")):
        return examples
    for number, (name, pixels) in enumerate(drawn, start=1):
        content = png_bytes(pixels)
        label = f"drawing, {name.split('/')[1]}"
        examples.append(_example(number, label, partial(bytes, content)))
    return examples


def from_folder(folder: Path, classes: Sequence[str]) -> list[ExampleImage]:
    """Return the first images of a folder, or of the folders in it in turn.

    A folder around an image with the name of a class labels the image; the file's name is not shown.

    Raises:
        BalancerError: if there is no such folder, or no readable image in it.
    """
    if not folder.is_dir():
        raise BalancerError(f"--examples {folder} is not a folder; give a folder of images")
    examples: list[ExampleImage] = []
    for file in islice(_in_turn(folder), 4 * MOST):
        label = file.parent.name if file.parent.name in classes else "example"
        try:
            examples.append(_example(len(examples) + 1, label, file.read_bytes))
        except OSError:
            continue
        if len(examples) == MOST:
            break
    if not examples:
        raise BalancerError(f"--examples {folder} holds no readable image; give a folder of images")
    return examples


def _in_turn(folder: Path) -> Iterator[Path]:
    """Yield the images of a folder; where it holds none, those of its folders: the first of each, the second, ..."""
    if images := image_files(folder):
        return iter(images)
    groups = [image_files(inner) for inner in sorted(folder.iterdir()) if inner.is_dir()]
    return (file for files in zip_longest(*groups) for file in files if file is not None)


def _example(number: int, label: str, read: Callable[[], bytes]) -> ExampleImage:
    content = read()
    channels = COLOUR if looks_coloured(io.BytesIO(content)) else GREY
    pixels = decode_image(io.BytesIO(content), THUMBNAIL, "crop", channels=channels).pixels
    return ExampleImage(Example(number, label, data_url(pixels)), read)
