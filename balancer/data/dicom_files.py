"""What DICOM files are known by, and how they are read: all of this does without the packages that read them."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from balancer.core.extras import install
from balancer.core.settings_base import DataConfig

LOOKED_AT = 20  # files of a folder by which it is known
FORMAT = "DICOM"  # as Pillow names formats
SUFFIXES = {".dcm", ".dicom", ".dic"}
INDEX = "DICOMDIR"  # the file that lists a medium's other files
BITS = "bits"  # key of Image.info: how deep a sample is
START = 132  # bytes by which a file is known: a preamble of 128, and four letters
_LETTERS = b"DICM"
# A data set without preamble begins with an element of group 2 or 8, of either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")


@dataclass(frozen=True)
class DicomRules:
    """How the samples of DICOM files become grey levels; see the settings of the data with these names."""

    window: str = "auto"
    frame: str = "single"

    @classmethod
    def of(cls, config: DataConfig) -> DicomRules:
        """Return the rules that settings of the data name."""
        return cls(config.window, config.frame)

    def to_key(self) -> dict[str, str | int]:
        """Return what a key of decoded images must hold beside the usual settings; empty for the usual rules."""
        return {} if self == DicomRules() else {"window": self.window, "frame": self.frame}


def is_dicom(start: bytes, suffix: str = "") -> bool:
    r"""Return whether a file is DICOM, by its first :data:`START` bytes and, without a preamble, by its suffix too.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"\x08\x00\x05\x00", ".dcm"), is_dicom(b"\x08\x00\x05\x00")
    (True, True, False)
    """
    return start[128:] == _LETTERS or (suffix.lower() in SUFFIXES and start[:2] in _FIRST_GROUPS)


def is_dicom_file(path: Path) -> bool:
    """Return whether a file's content is DICOM; of a data set without preamble the suffix has to say so too."""
    try:
        with path.open("rb") as handle:
            return is_dicom(handle.read(START), path.suffix)
    except OSError:
        return False


def any_below(folder: Path) -> bool:
    """Return whether DICOM files lie in a folder, at any depth; some of its first files tell."""
    files = (Path(at) / name for at, folders, names in os.walk(folder) for name in sorted(names) if not folders.sort())
    return any(is_dicom_file(file) for file in itertools.islice(files, LOOKED_AT))


def can_read() -> bool:
    """Return whether the packages that read DICOM files are installed."""
    return find_spec("pydicom") is not None


def no_dicom(path: Path | None) -> str:
    """Return why a file that only has the name of a DICOM file is not read; empty for other names."""
    named = path is not None and path.suffix.lower() in SUFFIXES
    return "no DICOM file, whatever its name says: damaged, or encrypted" if named else ""


def needs_extra() -> str:
    """Return what to do about a DICOM file where the packages are not installed."""
    return f"a DICOM file; {install('dicom')} to read it"
