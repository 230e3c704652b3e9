"""What a reader of figures must know of images with more than 8 bits a sample, and of windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from balancer.data.depth import BLACK, DEPTHS, DIM, RESCALED, SIXTEEN_BIT, Ranges, Source
from balancer.data.images import named


def beyond_notes(sources: Mapping[str, Source], ranges: Ranges) -> list[str]:
    """Return a sentence that names the images with samples above a range that was set, which come out white."""
    beyond = [name for name, s in sources.items() if s.kind in ranges and s.peak > ranges[s.kind]]
    if not beyond:
        return []
    return [
        f"{len(beyond)} of the images have samples above the range of the training, which are white: {named(beyond)}."
    ]


def depth_notes(ranges: Ranges, dim: Sequence[str]) -> list[str]:
    """Return a sentence for each range that was inferred, and one that names images nearly black in their range."""
    notes = [
        f"Images with more than 8 bits a sample ({kind}) were read with 0 to {white:.0f} as black to white: the"
        f" smallest of {', '.join(map(str, DEPTHS))} bits that holds the largest sample of the set."
        for kind, white in ranges.items()
        if kind in ("integer", "float") and white not in (1, SIXTEEN_BIT)
    ]
    if RESCALED in ranges:
        notes.append(
            f"DICOM files whose samples are signed or rescaled were read with {ranges.get(RESCALED + BLACK, 0):g} to"
            f" {ranges[RESCALED]:g} as black to white, the same for all of them."
        )
    if dim:
        notes.append(
            f"{len(dim)} of the images with more than 8 bits a sample use less than 1/{DIM} of the set's range and are"
            f" nearly black ({named(dim)}); if they hold fewer bits, store them at the depth of the others."
        )
    return notes


def shown_note(windows: int, full: int, window: str) -> list[str]:
    """Return a sentence on how the grey DICOM files of a set were read; empty without any.

    Args:
        windows: files read in a window.
        full: files read in full.
        window: the setting.
    """
    if not windows:
        return []
    if window != "auto":
        return [f"{windows:,} DICOM files were read in the window {window} (centre/width)."]
    if not full:
        return [f"{windows:,} DICOM files were read in the window of grey levels that each of them states."]
    return [
        f"{windows:,} DICOM files were read in the window of grey levels that each of them states, and {full:,} state"
        " none and were read in full: their exposures differ. --set data.window=full reads all of them in full."
    ]
