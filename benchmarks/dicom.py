"""How long DICOM files take to be decoded to the working size, beside pydicom alone.

The files are made: 2,048 x 2,500 px of 12 bits, smooth shapes with noise, as a radiograph has. The reference is the
least that any reader does with pydicom: `dcmread(file).pixel_array`, as float32, resized by the same function. It knows
no window and no padding, and checks nothing. Both are timed in turns, on one thread, by the time of the processor.

python benchmarks/dicom.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import FileDataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from balancer.core.device import limit_threads
from balancer.data.images import decode_image, resize_image

ROWS, COLUMNS, BITS, SIZE = 2500, 2048, 12, 64
CODINGS = {"uncompressed": ExplicitVRLittleEndian, "RLE": RLELossless, "JPEG 2000": JPEG2000Lossless}
KINDS: dict[str, dict[str, float]] = {
    "plain": {},
    "in a window": {"WindowCenter": 2000, "WindowWidth": 3000},
    "rescaled": {"RescaleSlope": 1, "RescaleIntercept": -1024},
}


def write(file: Path, coding: str, elements: dict[str, float]) -> Path:
    """Write a made radiograph."""
    rng = np.random.default_rng(0)
    shapes = Image.fromarray((rng.random((64, 64)) * 3000).astype(np.float32))
    samples = np.asarray(shapes.resize((COLUMNS, ROWS), Image.Resampling.BICUBIC)) + 300
    samples = np.clip(samples + rng.normal(0, 8, samples.shape), 0, 2**BITS - 1).astype(np.uint16)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, generate_uid()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    ds = FileDataset(file, {}, bytes(128), meta)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = ROWS, COLUMNS, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, BITS, BITS - 1, 0
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.PixelData = samples.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    if coding != ExplicitVRLittleEndian:
        ds.compress(coding)
    ds.save_as(file, enforce_file_format=True)
    return file


def reference(file: Path) -> np.ndarray:
    """Return the samples that pydicom reads, resized."""
    values = dcmread(file).pixel_array.astype(np.float32) * np.float32(255 / (2**BITS - 1))
    return resize_image(Image.fromarray(values), SIZE, "squash")


def ours(file: Path) -> np.ndarray:
    """Return the picture as a data set has it."""
    return decode_image(file, SIZE, "squash").pixels


def seconds(read: Callable[[Path], object], file: Path) -> float:
    """Return the time of the processor that reading a file takes."""
    begin = time.process_time()
    read(file)
    return time.process_time() - begin


def main() -> None:
    """Print a row for each coding and kind of file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    limit_threads()
    print(f"{'file':<26}{'MB':>6}{'pydicom':>11}{'ours':>9}{'ratio':>8}   median (lowest to highest of the rounds)")
    with tempfile.TemporaryDirectory() as folder:
        for coding, uid in CODINGS.items():
            for kind, elements in KINDS.items():
                file = write(Path(folder) / "x.dcm", uid, elements)
                pairs = [(seconds(reference, file), seconds(ours, file)) for _ in range(args.rounds + 1)][1:]
                other, own = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
                ratios = sorted(mine / theirs for theirs, mine in pairs)
                print(
                    f"{f'{coding}, {kind}':<26}{file.stat().st_size / 1e6:>6.1f}{other:>8.0f} ms{own:>6.0f} ms"
                    f"{statistics.median(ratios):>8.2f}   ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
