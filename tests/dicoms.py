"""DICOM files made with pydicom, of any kind of samples and any coding that can be encoded here."""

import io
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image
from pydicom import Dataset, FileDataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

# What a header says of a patient and of the study; no word of it may come out.
SECRETS = {
    "PatientID": "HOSP-4711-0815",
    "PatientName": "Mustermann^Erika",
    "PatientBirthDate": "19640812",
    "StudyDate": "20190327",
    "AccessionNumber": "ACC99887766",
    "ReferringPhysicianName": "Frankenstein^Victor",
    "InstitutionName": "St. Elsewhere",
}


def dicom(pixels: np.ndarray, bits: int | None = None, **elements: object) -> FileDataset:
    """A file of (H, W), (H, W, 3) or, with ``NumberOfFrames``, (n, H, W) samples; uncompressed, little endian."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = elements.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    coding = meta.TransferSyntaxUID
    ds = FileDataset(None, {}, bytes(128), meta, coding.is_implicit_VR, coding.is_little_endian)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    colour = pixels.ndim == 3 and "NumberOfFrames" not in elements
    ds.Rows, ds.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 * pixels.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    order = "<" if coding.is_little_endian else ">"
    content = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds.PixelData = content + bytes(len(content) % 2)
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"
    return ds


def write(ds: Dataset, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(file, enforce_file_format=True)
    return file


def content(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def table(entries: np.ndarray, first: int, bits: int) -> Sequence:
    """A look-up table as a sequence of one item."""
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries.astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US" if first >= 0 else "SS", "OW"
    return Sequence([item])


def as_jpeg(pixels: np.ndarray, file: Path, quality: int = 90) -> Path:
    """A file of JPEG baseline, coded by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    ds = dicom(pixels)
    ds.PhotometricInterpretation = "YBR_FULL_422" if pixels.ndim == 3 else "MONOCHROME2"
    ds.PixelData = encapsulate([buffer.getvalue()])
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return write(ds, file)


def recoded(file: Path, uid: str) -> Path:
    """The file in another coding without loss: by pydicom where it has an encoder, else by imagecodecs."""
    ds = dcmread(file)
    if uid in (RLELossless, JPEG2000Lossless):
        ds.compress(uid)
        return write(ds, file)
    pixels = ds.pixel_array
    kinds = {JPEGLosslessSV1: lambda: imagecodecs.ljpeg_encode(pixels, bitspersample=ds.BitsStored)}
    kinds[JPEGLSLossless] = lambda: imagecodecs.jpegls_encode(pixels)
    ds.PixelData = encapsulate([kinds[uid]()])
    ds["PixelData"].is_undefined_length, ds["PixelData"].VR = True, "OB"
    ds.file_meta.TransferSyntaxUID = uid
    return write(ds, file)
