"""The embedded default data set: procedurally drawn chest radiographs. These are drawings, not X-rays.

No pixel comes from a patient, and no figure from the drawings says anything about medicine. With the drawings, the
toolkit runs (demo, tests) where the real paediatric set is not at hand. They have that set's folder layout, file names
and class ratio, and telling the classes apart is neither trivial nor hopeless. :mod:`balancer.data.drawing` draws an
image; this module says which ones, and writes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from balancer.core import progress
from balancer.core.files import JsonObject, temporary_path
from balancer.core.sealed import DamagedFile, read_json, write_json
from balancer.data.chest import CLASSES
from balancer.data.drawing import draw_image, draw_patient
from balancer.data.records import SPLITS

FORMAT = 1  # raise it whenever the pixels or the file names of a given spec change
STAMP = "phantom.json"
_VIEWS = (1, 1, 1, 1, 2, 2, 3, 4)  # images of one patient, drawn uniformly from this list


@dataclass(frozen=True)
class PhantomSpec:
    """The set to draw; equal specs give equal pixels. The default is a fifth of the real set, in its ratio."""

    size: int = 96  # pixels, square
    seed: int = 0
    train: tuple[int, int] = (268, 775)  # images of NORMAL, PNEUMONIA
    val: tuple[int, int] = (8, 8)
    test: tuple[int, int] = (94, 156)

    @property
    def total(self) -> int:
        """Return the number of images."""
        return sum((*self.train, *self.val, *self.test))

    def __post_init__(self) -> None:
        if self.size < 16 or self.seed < 0 or min(*self.train, *self.val, *self.test) < 0:
            raise ValueError(f"size must be at least 16, seed and counts at least 0: {self}")


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of a key, so that no drawing depends on the number of drawings before."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _file_name(label: int, number: int, view: int, viral: bool) -> str:
    """Return a file name as in the real set, from which the folder reader takes the patient."""
    if label:
        return f"person{number}_{'virus' if viral else 'bacteria'}_{view + 1}.png"
    return f"{'NORMAL2-IM' if number % 2 else 'IM'}-{number:04d}-{view + 1:04d}.png"


def drawn_images(spec: PhantomSpec) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield paths below the root and pixels, patient by patient; larger counts only add images."""
    for (split, split_name), (label, class_name) in product(enumerate(SPLITS), enumerate(CLASSES)):
        missing, patient = (spec.train, spec.val, spec.test)[split][label], 0
        while missing > 0:
            rng = _generator(spec.seed, split, label, patient)
            anatomy, views = draw_patient(rng), int(rng.choice(_VIEWS))
            number = 1 + len(SPLITS) * patient + split  # interleaved: no number is ever in two splits
            for view in range(min(views, missing)):
                name = _file_name(label, number, view, anatomy.viral)
                view_rng = _generator(spec.seed, split, label, patient, view)
                yield f"{split_name}/{class_name}/{name}", draw_image(anatomy, label, view_rng, spec.size)
            missing -= views
            patient += 1


def drawings(root: Path) -> list[str]:
    """Return the names of the drawings below a root, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def content_hash(names: Sequence[str], digests: Sequence[str]) -> str:
    """Return the SHA-256 that stands for the names and contents of all drawings."""
    lines = "\n".join(f"{name}\t{digest}" for name, digest in zip(names, digests, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def stated_content(root: Path) -> str | None:
    """Return the :func:`content_hash` of the set as it was drawn; None if the set is not complete, or older."""
    content = _stamp(root).get("content")
    return content if isinstance(content, str) else None


def is_written(root: Path, spec: PhantomSpec) -> bool:
    """Return whether the stamp below a root is that of a set."""
    stamp, about = _stamp(root), _about(spec)
    return {key: stamp.get(key) for key in about} == about


def _about(spec: PhantomSpec) -> JsonObject:
    values = {"about": "procedural drawings, not X-rays", "format": FORMAT, "spec": asdict(spec)}
    return dict(json.loads(json.dumps(values)))


def _stamp(root: Path) -> JsonObject:
    try:
        return read_json(root / STAMP)
    except (OSError, DamagedFile):
        return {}


def write_phantom(root: Path, spec: PhantomSpec = PhantomSpec()) -> Path:
    """Write the drawings as ``root/{train,val,test}/{NORMAL,PNEUMONIA}/*.png`` and return ``root``.

    ``root`` appears complete or not at all. A root that holds this set already is left as it is.

    Raises:
        FileExistsError: ``root`` exists and holds something else.
    """
    stamp_file = root / STAMP  # written last: a stamped set is complete
    if is_written(root, spec):
        return root
    if root.exists():
        raise FileExistsError(f"{root} exists and is not this phantom set; remove it or name another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = temporary_path(root)
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(shutil.rmtree, draft, ignore_errors=True)
        bar = at_the_end.enter_context(progress.bar(spec.total, "drawing the phantom set", "image"))
        for split, label in product(SPLITS, CLASSES):
            (draft / split / label).mkdir(parents=True)
        for name, pixels in drawn_images(spec):
            Image.fromarray(pixels).save(draft / name)
            bar.update()
        names = drawings(draft)
        digests = [hashlib.sha256((draft / name).read_bytes()).hexdigest() for name in names]
        write_json(draft / stamp_file.name, {**_about(spec), "content": content_hash(names, digests)})
        try:
            draft.replace(root)
        except OSError:
            if not is_written(root, spec):  # else another process finished the same set first
                raise
    return root
