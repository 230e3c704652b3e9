"""The files of a table by an element of their DICOM headers, where no name leads to them.

A radiology system exports numbers, and an archive exports files that are called otherwise. The values of headers stay
in memory, and only those that the table repeats are ever compared.
"""

from __future__ import annotations

import os
from pathlib import Path

from balancer.data import cache, dicom_files
from balancer.data.listing import SUFFIXES, is_clutter, printable

# From the one that tells most to the one that tells least: an image, a study, an order, a patient.
ELEMENTS = ("SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID")


def files_by_element(root: Path) -> dict[str, dict[str, list[str]]]:
    """Return the names of the DICOM files below a folder by each element and its value."""
    names = sorted(_dicom_names(root))
    headers = cache.in_threads(lambda i: _elements(root / names[i]), len(names), "reading DICOM headers")
    places: dict[str, dict[str, list[str]]] = {element: {} for element in ELEMENTS}
    for name, values in zip(names, headers, strict=True):
        for element, value in values.items():
            places[element].setdefault(value, []).append(name)
    return places


def _dicom_names(root: Path) -> list[str]:
    names = []
    for at, folders, files in os.walk(root):
        folders[:] = sorted(folder for folder in folders if not is_clutter(folder))
        for file in (Path(at) / name for name in files if not is_clutter(name) and name.upper() != dicom_files.INDEX):
            name = file.relative_to(root).as_posix()
            other = file.suffix.lower() in SUFFIXES or printable(name) != name
            if not other and dicom_files.is_dicom_file(file):
                names.append(name)
    return names


def _elements(file: Path) -> dict[str, str]:
    """Return the elements of a file that are not empty; none where the header cannot be read."""
    from balancer.data.dicom_header import read_elements

    try:
        with file.open("rb") as handle:
            header = read_elements(handle, ELEMENTS)
        values = {element: str(header.get(element) or "").strip() for element in ELEMENTS}
    except Exception:  # of many kinds; their texts quote the header
        return {}
    return {element: value for element, value in values.items() if value}
