"""Pictures in DICOM files, against pydicom's own windows and tables, and sums done here by hand."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import as_jpeg, content, dicom, recoded, table, write
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing, convert_color_space
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

import balancer.data.dicom_codecs  # noqa: F401  (registers decoders, so that pydicom itself has them too)
from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data import dicom_files, images
from balancer.data.dataset import load_dataset
from balancer.data.depth import RESCALED, shared_ranges
from balancer.data.dicom_files import DicomRules
from balancer.data.images import decode_image, open_image, read_image, to_grey

SIDE = 16
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
GREY.flat[:2] = 0, 255
COLOUR = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
FULL, FIRST = DicomRules(window="full"), DicomRules(frame="first")
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
LOSSLESS = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
    *(RLELossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless),
)


def grey(source: Path | bytes, rules: DicomRules = images.AS_SHOWN) -> np.ndarray:
    """The levels of a file from 0 to 255, before anything is resized."""
    with open_image(source if isinstance(source, Path) else io.BytesIO(source), rules) as image:
        return np.asarray(to_grey(image)[0], dtype=float)


def rgb(source: Path | bytes, rules: DicomRules = images.AS_SHOWN) -> np.ndarray:
    with open_image(source if isinstance(source, Path) else io.BytesIO(source), rules) as image:
        assert image.mode == "RGB"
        return np.asarray(image, dtype=int)


def refused(source: Path | bytes, rules: DicomRules = images.AS_SHOWN) -> str:
    with pytest.raises(OSError, match=r".") as caught:
        grey(source, rules)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def deep(bits: int, signed: bool = False) -> np.ndarray:
    """The picture in the range of ``bits``, in cells of 16."""
    values = np.rint(GREY / 255 * (2**bits - 1)).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    return values.astype(np.int16 if signed else np.uint16)


@pytest.mark.parametrize("uid", LOSSLESS, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_every_coding_gives_the_samples(tmp_path: Path, uid: str, bits: int) -> None:
    native = uid in LOSSLESS[:4]
    pixels = np.tile(GREY if bits == 8 else deep(bits), (4, 4))  # the encoder of JPEG 2000 takes no smaller picture
    file = write(dicom(pixels, bits, TransferSyntaxUID=uid if native else ExplicitVRLittleEndian), tmp_path / "x")
    file = file if native else recoded(file, uid)
    assert np.abs(grey(file) - 255.0 / (2**bits - 1) * pixels).max() < 1e-4
    with open_image(file) as image:
        assert (image.format, image.size, image.mode) == ("DICOM", (4 * SIDE, 4 * SIDE), "L" if bits == 8 else "F")


@pytest.mark.parametrize("bits", [1, 6, 8, 9, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_bits_and_black_or_white(bits: int, photometric: str) -> None:
    pixels = deep(bits)
    levels = grey(content(dicom(pixels, bits, PhotometricInterpretation=photometric)))
    share = pixels / (2**bits - 1)
    expected = 255 * (1 - share if photometric == "MONOCHROME1" else share)
    assert np.abs(levels - expected).max() <= (0.5 if bits <= 8 else 1e-4)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_dicom_and_png_of_the_same_samples_are_one_image(tmp_path: Path, bits: int) -> None:
    pixels = GREY if bits == 8 else deep(bits)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    file = write(dicom(pixels, bits), tmp_path / "x.dcm")
    for size in (SIDE, 24):
        assert np.array_equal(read_image(file, size, "pad"), read_image(tmp_path / "x.png", size, "pad"))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize(("signed", "slope", "intercept"), [(False, 1, 0), (False, 2, -1024), (True, 0.5, 7)])
def test_windows_against_pydicom(function: str | None, signed: bool, slope: float, intercept: float) -> None:
    more = {"VOILUTFunction": function} if function else {}
    ds = dicom(deep(12, signed), 12, RescaleSlope=slope, RescaleIntercept=intercept, **more)
    ds.WindowCenter, ds.WindowWidth = [700.0, 40.0], [900.0, 400.0]  # the first of several counts
    reference = apply_windowing(apply_modality_lut(ds.pixel_array, ds), ds)
    low = -2048 if signed else 0
    black, white = (low + n for n in (0, 4095))
    share = (reference - (black * slope + intercept)) / ((white - black) * slope)
    assert np.abs(grey(content(ds)) - 255 * share).max() < 1e-3
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.abs(grey(content(ds)) - 255 * (1 - share)).max() < 1e-3


@pytest.mark.parametrize("first", [0, 100, -200])
def test_tables_against_pydicom(first: int) -> None:
    ds = dicom(deep(10, signed=first < 0), 10)
    ds.VOILUTSequence = table(np.sort(RNG.integers(0, 4096, 300)), first, 12)
    ds.WindowCenter, ds.WindowWidth = 1, 2  # a table comes before a window
    assert np.abs(grey(content(ds)) - 255 / 4095 * apply_voi_lut(ds.pixel_array, ds)).max() < 1e-3


def test_modality_table_against_pydicom() -> None:
    ds = dicom(deep(10), 10)
    ds.ModalityLUTSequence = table(np.arange(1024) ** 2 // 16, 0, 16)
    ds.ModalityLUTSequence[0].ModalityLUTType = "US"
    assert np.abs(grey(content(ds)) - 255 / 65535 * apply_modality_lut(ds.pixel_array, ds)).max() < 1e-3


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_bigendian.dcm", "693_J2KI.dcm", "examples_overlay.dcm", "MR_small_RLE.dcm"]
)
def test_shipped_windows_against_pydicom(name: str) -> None:
    ds = dcmread(SHIPPED / name)
    values = apply_modality_lut(ds.pixel_array if ds.get("NumberOfFrames", 1) == 1 else ds.pixel_array[0], ds)
    ds.BitsStored, ds.PixelRepresentation = 16, 0  # the range that pydicom puts its levels in
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        ds.pop(keyword, None)
    assert np.abs(grey(SHIPPED / name, FIRST) - 255 / 65535 * apply_voi_lut(values, ds)).max() < 1e-2


NO_PICTURES = (  # of the files that pydicom ships: reports, plans, signals, and pictures of 3 px a side
    *("ExplVR_BigEndNoMeta", "ExplVR_LitEndNoMeta", "UN_sequence", "empty_charset_LEI", "meta_missing_tsyntax"),
    *("nested_priv_SQ", "no_meta", "no_meta_group_length", "priv_SQ", "reportsi", "reportsi_with_empty_number_tags"),
    *("rtplan", "rtplan_truncated", "rtstruct", "test-SR", "waveform_ecg"),
    *("SC_rgb_small_odd", "SC_rgb_small_odd_big_endian", "SC_rgb_small_odd_jpeg"),
)


UNREADABLE = {  # pydicom cannot decode these either, at least not with what the extra installs
    "MR_truncated.dcm": "cut off",
    "badVR.dcm": "",
    "JPEG2000-embedded-sequence-delimiter.dcm": "its compressed data",
}


EVERY_KIND = (  # a file each of the codings, signs and colours; the others at night
    *("CT_small.dcm", "MR_small_padded.dcm", "MR_small_expb.dcm", "MR_small_jp2klossless.dcm", "JPGExtended.dcm"),
    *("SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_ybr_full_422_uncompressed.dcm", "image_dfl.dcm"),
    *("SC_rgb_jpeg_gdcm.dcm", "liver_1frame.dcm", "rtdose_rle_1frame.dcm", "JPEGLSNearLossless_16.dcm"),
)


def shipped_pictures() -> list[object]:
    """The files of pydicom that it decodes itself."""
    files = [f for f in sorted(SHIPPED.glob("*.dcm")) if f.stem not in NO_PICTURES and f.name not in UNREADABLE]
    marks = ([] if file.name in EVERY_KIND else [pytest.mark.nightly] for file in files)
    return [pytest.param(file, marks=of, id=file.name) for file, of in zip(files, marks, strict=True)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("file", shipped_pictures())
def test_shipped_samples_against_pydicom(file: Path) -> None:
    """In full, levels are the modality values up to scale and offset; colours are those of pydicom."""
    ds = dcmread(file, force=True)
    stored = ds.pixel_array
    stored = stored[0] if ds.get("NumberOfFrames", 1) > 1 else stored
    if ds.SamplesPerPixel == 1 and ds.PhotometricInterpretation != "PALETTE COLOR":
        values, levels = apply_modality_lut(stored, ds).astype(float), grey(file, DicomRules("full", "first"))
        if ds.get("PixelPaddingValue") is not None:
            chosen = stored != ds.PixelPaddingValue
            values, levels = values[chosen], levels[chosen]
        slope, offset = np.polyfit(values.ravel(), levels.ravel(), 1)
        assert slope > 0
        assert np.abs(slope * values + offset - levels).max() < 0.6  # 8 bits and less are rounded
    elif ds.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(stored, ds)
        assert np.abs(rgb(file) - colours / (2 ** (8 * colours.itemsize) - 1) * 255).max() <= 0.51
    else:
        assert np.abs(rgb(file, FIRST) - stored / (2**ds.BitsStored - 1) * 255).max() <= 2  # decoders of JPEG round


def test_shipped_files_without_a_picture_are_refused() -> None:
    assert all(refused(SHIPPED / f"{name}.dcm") for name in NO_PICTURES)


@pytest.mark.parametrize("name", UNREADABLE)
def test_shipped_files_that_cannot_be_read(name: str) -> None:
    assert UNREADABLE[name] in refused(SHIPPED / name)


@pytest.mark.parametrize("shift", [0, 1, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_high_bit_and_what_lies_beside_the_samples(shift: int, signed: bool) -> None:
    """Overlays were once kept in the unused bits."""
    samples = deep(11, signed)
    cells = (samples.astype(np.uint16) & 0x7FF) << shift | RNG.integers(0, 2, GREY.shape, dtype=np.uint16) << 15
    ds = dicom(cells, 11, HighBit=10 + shift, PixelRepresentation=int(signed))
    expected = (samples + 1024) / 2047 * 255 if signed else samples / 2047 * 255
    assert np.abs(grey(content(ds), FULL) - expected).max() < (0.2 if signed else 1e-4)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("bits", [8, 12])
def test_padding_is_black(photometric: str, window: bool, bits: int) -> None:
    pixels = (deep(bits) // 2).astype(np.uint8 if bits == 8 else np.uint16)
    pixels[:3] = 2**bits - 1
    pixels[3] = 2**bits - 2
    ds = dicom(pixels, bits, PhotometricInterpretation=photometric)
    plain = grey(content(ds))
    ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = 2**bits - 2, 2**bits - 1
    if window:
        ds.WindowCenter, ds.WindowWidth = 2 ** (bits - 1), 2**bits
    levels = grey(content(ds))
    assert not levels[:4].any()
    if not window:
        with open_image(io.BytesIO(content(ds))) as image:
            assert to_grey(image)[1].peak < 2 ** (bits - 1), "padding does not count for the range of the set"
        assert bits == 12 or np.array_equal(levels[4:], plain[4:])


def test_rescaled_files_of_a_set_share_one_range() -> None:
    """The same tissue in files of two intercepts: black and white are those of the set, not of each file."""
    stored = deep(12)
    one = dicom(stored, 12, RescaleSlope=1, RescaleIntercept=-1024)
    other = dicom(stored // 2 + 1024, 13, RescaleSlope=2, RescaleIntercept=-3072)
    decoded = [decode_image(io.BytesIO(content(ds)), SIDE, "squash") for ds in (one, other)]
    ranges = shared_ranges([d.source for d in decoded])
    assert ranges == {RESCALED: 4095.0, f"{RESCALED} black": -1024.0}
    again = [decode_image(io.BytesIO(content(ds)), SIDE, "squash", ranges).pixels.astype(int) for ds in (one, other)]
    assert np.abs(again[0] - again[1]).max() <= 1
    assert np.abs(again[0] - stored / 5119 * 255).max() <= 1


def test_one_window_for_all_files() -> None:
    ds = dicom(deep(12), 12, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=1, WindowWidth=2)
    values = deep(12).astype(float) - 1024
    expected = np.clip((values + 600) / 1500 + 0.5, 0, 1) * 255
    assert np.abs(grey(content(ds), DicomRules(window="-600/1500")) - expected).max() < 1e-3


@pytest.mark.parametrize(
    "more", [{"WindowWidth": 0}, {"WindowWidth": None}, {"WindowCenter": ""}, {"WindowWidth": 0.5}]
)
def test_a_window_that_is_none_is_passed_over(more: dict[str, object]) -> None:
    ds = dicom(deep(12), 12, **{"WindowCenter": 5, "WindowWidth": 5, **more})
    assert np.array_equal(grey(content(ds)), grey(content(dicom(deep(12), 12))))


def test_a_window_that_shows_nothing_is_refused() -> None:
    assert "data.window" in refused(content(dicom(deep(12), 12, WindowCenter=-9000, WindowWidth=10)))


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_in_either_plan(planar: int) -> None:
    stored = COLOUR if planar == 0 else np.ascontiguousarray(COLOUR.transpose(2, 0, 1)).reshape(COLOUR.shape)
    ds = dicom(stored, PlanarConfiguration=planar)
    assert np.array_equal(rgb(content(ds)), COLOUR)
    assert np.abs(grey(content(ds)) - COLOUR @ [0.299, 0.587, 0.114]).max() <= 1


def test_colours_of_sixteen_bits() -> None:
    ds = dicom(COLOUR.astype(np.uint16) * 257)
    assert np.array_equal(rgb(content(ds)), COLOUR)


def test_colours_stored_as_brightness_and_two_differences(tmp_path: Path) -> None:
    ybr = convert_color_space(COLOUR, "RGB", "YBR_FULL")
    assert np.abs(rgb(content(dicom(ybr, PhotometricInterpretation="YBR_FULL"))) - COLOUR).max() <= 2
    smooth = np.repeat(np.linspace(0, 255, SIDE).astype(np.uint8)[None], SIDE, 0)
    smooth = np.stack([smooth, smooth.T, smooth[::-1]], axis=2)
    assert np.abs(rgb(as_jpeg(smooth, tmp_path / "x")) - smooth).max() <= 20
    decoded = convert_color_space(dcmread(SHIPPED / "SC_ybr_full_422_uncompressed.dcm").pixel_array, "RGB", "YBR_FULL")
    assert decoded.shape == rgb(SHIPPED / "SC_ybr_full_422_uncompressed.dcm").shape


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes(bits: int) -> None:
    ds = dicom(GREY, PhotometricInterpretation="PALETTE COLOR")
    colours = RNG.integers(0, 2**bits, (256, 3)).astype(f"<u{bits // 8}")
    for k, name in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(ds, f"{name}PaletteColorLookupTableData", colours[:, k].tobytes())
    assert np.abs(rgb(content(ds)) - (colours / (2**bits - 1) * 255)[GREY]).max() <= 0.51


def test_several_frames_only_if_the_first_is_asked_for() -> None:
    frames = np.stack([deep(12), deep(12)[::-1]])
    ds = dicom(frames, 12, NumberOfFrames=2)
    assert "data.frame" in refused(content(ds))
    assert np.array_equal(grey(content(ds), FIRST), grey(content(dicom(frames[0], 12))))


def test_frames_of_enhanced_files_have_windows_of_their_own() -> None:
    ds = dicom(np.stack([deep(12)] * 2), 12, NumberOfFrames=2)
    window, rescale, group = Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 500, 800
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -300
    group.FrameVOILUTSequence, group.PixelValueTransformationSequence = Sequence([window]), Sequence([rescale])
    ds.PerFrameFunctionalGroupsSequence = Sequence([group, Dataset()])
    plain = dicom(deep(12), 12, RescaleSlope=1, RescaleIntercept=-300, WindowCenter=500, WindowWidth=800)
    assert np.array_equal(grey(content(ds), FIRST), grey(content(plain)))


def without(ds: Dataset, *keywords: str) -> Dataset:
    for keyword in keywords:
        del ds[keyword]
    return ds


def claiming(rows: int, columns: int, frames: int = 1) -> bytes:
    return content(dicom(deep(12), 12, Rows=rows, Columns=columns, NumberOfFrames=frames))


def inflating(n: int) -> bytes:
    """A deflated file with an element of n zeros."""
    whole = content(dicom(deep(12), 12, TransferSyntaxUID=DeflatedExplicitVRLittleEndian))
    end = 144 + struct.unpack("<I", whole[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, n)
    return whole[:end] + packer.compress(head) + packer.compress(bytes(n)) + packer.flush()


def frame_of(pixels: np.ndarray, uid: str, **more: object) -> bytes:
    """A file of 16 x 16 px by its header whose JPEG frame is another."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000" if uid == JPEG2000Lossless else "JPEG", **more)
    return content(frames_of([buffer.getvalue()], uid))


def frames_of(frames: list[bytes], uid: str = JPEGBaseline8Bit) -> Dataset:
    """A file of 16 x 16 px by its header with these compressed frames."""
    ds = dicom(GREY)
    ds.PixelData = encapsulate(frames) if frames else b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    ds["PixelData"].is_undefined_length, ds["PixelData"].VR = True, "OB"
    ds.file_meta.TransferSyntaxUID = uid
    return ds


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "no pixel data": (lambda: content(without(dicom(deep(12), 12), "PixelData")), "pixel data"),
    "no picture": (lambda: content(without(dicom(GREY), "PixelData", "Rows", "Columns")), "no picture"),
    "cut in its pixels": (lambda: content(dicom(deep(12), 12))[:-100], "cut off"),
    "cut in its header": (lambda: content(dicom(deep(12), 12))[:500], ""),
    "cut in a compressed frame": (lambda: frame_of(np.tile(GREY, (1, 1)), JPEGBaseline8Bit)[:-60], "cut off"),
    "10 GB claimed": (lambda: claiming(12_000, 14_000, 30), "claims"),
    "a huge picture": (lambda: claiming(65_535, 65_535), "megapixels"),
    "a larger JPEG within": (lambda: frame_of(np.zeros((500, 500), np.uint8), JPEGBaseline8Bit), "500 x 500"),
    "a larger JPEG 2000 within": (lambda: frame_of(np.zeros((500, 500), np.uint8), JPEG2000Lossless), "500 x 500"),
    "a progressive JPEG within": (lambda: frame_of(GREY, JPEGBaseline8Bit, progressive=True), "another kind"),
    "an unknown coding": (
        lambda: frame_of(GREY, JPEGBaseline8Bit).replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.10"),
        "coding",
    ),
    "colours of an unknown kind": (
        lambda: content(dicom(COLOUR, PhotometricInterpretation="Mustermann^Erika")),
        "nothing known",
    ),
    "more bits than cells": (lambda: content(dicom(GREY, BitsStored=12)), "contradicts"),
    "no compressed frame": (lambda: content(without(frames_of([]), "PixelData")), "pixel data"),
    "no fragment": (lambda: content(frames_of([])), "pixel data"),
    "several frames": (lambda: claiming(SIDE, SIDE // 2, 2), "data.frame"),
}
NEED_DECODING = {  # what lengths alone do not tell
    *("a larger JPEG within", "a larger JPEG 2000 within", "a progressive JPEG within", "an unknown coding"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    make, words = BAD[case]
    for source in (make(), tmp_path / "x.dcm"):
        if isinstance(source, Path):
            source.write_bytes(make())
        message = refused(source)
        assert words in message
        assert "Mustermann" not in message


@pytest.mark.parametrize("case", [case for case in BAD if case not in NEED_DECODING])
def test_the_header_and_lengths_tell_without_decoding(case: str) -> None:
    with pytest.raises(OSError, match=BAD[case][1] or None), open_image(io.BytesIO(BAD[case][0]())):
        pass


@pytest.mark.parametrize("uid", [JPEGBaseline8Bit, JPEG2000Lossless], ids=lambda uid: uid.keyword)
def test_a_compressed_file_is_complete_with_its_last_byte(uid: str) -> None:
    """Of each way to cut the file, what is left is refused by its lengths."""
    file = frame_of(GREY, uid)
    frame = file.index(b"\xff\xd8" if uid == JPEGBaseline8Bit else b"\x00\x00\x00\x0cjP  ")
    for end in (*range(frame - 20, frame), *range(frame, len(file), 50), *range(len(file) - 9, len(file) - 4)):
        with pytest.raises(OSError, match="cut off"), open_image(io.BytesIO(file[:end])):
            pass
    assert np.abs(grey(file) - GREY).max() <= (0 if uid == JPEG2000Lossless else 255)


@pytest.mark.parametrize("case", ["10 GB claimed", "a huge picture", "an element of 4 GB", "a fragment of 4 GB"])
def test_claims_take_no_memory(case: str) -> None:
    """A file of 1 kB may claim what it likes: less than 1 MB is asked for while it is refused."""
    element = struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, 0xFFFFFFF0)
    whole = content(dicom(GREY))
    files = {
        "an element of 4 GB": lambda: whole[: whole.index(b"\x28\x00\x02\x00")] + element,
        "a fragment of 4 GB": lambda: frame_of(GREY, JPEGBaseline8Bit).replace(
            b"\xfe\xff\x00\xe0", b"\xfe\xff\x00\xe0\xf0\xff\xff\xff", 1
        ),
    }
    file = files[case]() if case in files else BAD[case][0]()
    refused(file)  # once, since modules are imported
    tracemalloc.start()
    refused(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_small_file_that_inflates_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.data.dicom_header.MOST_INFLATED", 1 << 20)
    assert "deflated" in refused(inflating(2 << 20))
    assert "picture" in refused(inflating(1 << 18))


def test_encrypted_files_are_no_dicom(tmp_path: Path) -> None:
    file = tmp_path / "x.dcm"
    file.write_bytes(b"\x30\x82" + RNG.bytes(5000))
    assert "encrypted" in refused(file)


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    whole = content(dicom(GREY))
    for name in ("IM00001", "x.png", "x.dcm"):
        (tmp_path / name).write_bytes(whole)
        assert np.array_equal(grey(tmp_path / name), GREY)
    (tmp_path / "bare.dcm").write_bytes(whole[132:])  # without preamble: by the suffix too
    (tmp_path / "bare").write_bytes(whole[132:])
    assert np.array_equal(grey(tmp_path / "bare.dcm"), GREY)
    assert refused(tmp_path / "bare")
    Image.fromarray(GREY).save(tmp_path / "y.png")
    (tmp_path / "y.png").rename(tmp_path / "y.dcm")  # a PNG that was renamed stays a PNG
    assert np.array_equal(grey(tmp_path / "y.dcm"), GREY)


def test_without_the_extra_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_files, "can_read", lambda: False)
    assert "[dicom]" in refused(content(dicom(GREY)))


@pytest.mark.parametrize("window", ["wide", "5", "5/0", "5/-1", "nan/5", "5/inf", "1/2/3"])
def test_settings_that_are_no_window_are_refused(window: str) -> None:
    with pytest.raises((BalancerError, ValueError), match="window"):
        DataConfig(window=window)


def test_a_set_says_how_its_files_were_read_and_each_rule_has_its_own_pixels(tmp_path: Path) -> None:
    for i in range(12):
        more = {"WindowCenter": 1000, "WindowWidth": 1000} if i % 3 else {}
        write(dicom(np.roll(deep(12), i), 12, **more), tmp_path / "ab"[i % 2] / f"{i}.dcm")
    read = {
        window: load_dataset(DataConfig(path=str(tmp_path), image_size=SIDE, window=window))
        for window in ("auto", "full", "1000/1000")
    }
    assert any("8 DICOM files" in note and "4 state none" in note for note in read["auto"].notes)
    assert any("1000/1000" in note for note in read["1000/1000"].notes)
    assert len({data.images.tobytes() for data in read.values()}) == 3
    assert len({data.split_hash for data in read.values()}) == 1


def test_a_set_in_colour_has_three_channels(tmp_path: Path) -> None:
    """Also with grey files among it, and compressed ones; --set data.channels=1 reads all in grey."""
    pictures = {f"{'ab'[i % 2]}/{i}.dcm": np.roll(COLOUR, i, 0) for i in range(10)}
    for i, (name, pixels) in enumerate(pictures.items()):
        ds = dicom(pixels)
        if i % 3 == 0:
            ds.compress(RLELossless)
        write(ds, tmp_path / name)
    write(dicom(GREY), tmp_path / "a" / "grey.dcm")
    data = load_dataset(DataConfig(path=str(tmp_path), image_size=SIDE))
    assert data.images.shape == (11, SIDE, SIDE, 3)
    for record, pixels in zip(data.records, data.images, strict=True):
        expected = pictures.get(record.name, np.repeat(GREY[..., None], 3, axis=2))
        assert np.array_equal(pixels, expected)
    grey_set = load_dataset(DataConfig(path=str(tmp_path), image_size=SIDE, channels=1))
    assert grey_set.images.shape == (11, SIDE, SIDE)
