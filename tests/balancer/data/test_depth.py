"""Samples of more than 8 bits: one range for a set, said aloud, and TIFF as its tags say."""

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from balancer.core.settings import DataConfig
from balancer.data.dataset import load_dataset
from balancer.data.depth import shared_ranges, white_level
from balancer.data.images import decode_image, read_image

SIZE = 16
PICTURE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
PICTURE.flat[:2] = 0, 255


def tiff(pixels: np.ndarray, photometric: int = 1, orientation: int = 1, tile: int = 0) -> bytes:
    """An uncompressed grey TIFF, in one strip or in tiles, by the specification (TIFF 6.0)."""
    height, width = pixels.shape
    side_y, side_x = (tile, tile) if tile else (height, width)
    padded = np.pad(pixels, ((0, -height % side_y), (0, -width % side_x)))
    parts = [
        padded[y : y + side_y, x : x + side_x].tobytes()
        for y in range(0, height, side_y)
        for x in range(0, width, side_x)
    ]
    starts = [8 + i * len(parts[0]) for i in range(len(parts))]
    body = b"".join(parts)
    tables = 8 + len(body)
    body += struct.pack(f"<{2 * len(parts)}I", *starts, *[len(parts[0])] * len(parts))
    n, kind = len(parts), 3 if pixels.dtype.kind == "f" else 1
    where = (starts[0], len(parts[0])) if n == 1 else (tables, tables + 4 * n)
    tags = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: photometric, 274: orientation, 277: 1}
    tags |= {322: tile, 323: tile, 324: where[0], 325: where[1]} if tile else {273: where[0], 278: height}
    tags |= {339: kind} if tile else {279: where[1], 339: kind}
    counts = dict.fromkeys((273, 279, 324, 325), n)
    entries = [struct.pack("<HHII", tag, 4, counts.get(tag, 1), value) for tag, value in sorted(tags.items())]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory


def with_sbit(png: bytes, bits: int) -> bytes:
    """The PNG with a chunk that states its significant bits."""
    chunk = b"sBIT" + bytes([bits])
    return png[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def deep(bits: int) -> np.ndarray:
    """The picture in the range of ``bits``, in 16."""
    return np.rint(PICTURE / 255 * (2**bits - 1)).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_few_bits_in_a_file_of_sixteen(tmp_path: Path, bits: int, suffix: str) -> None:
    Image.fromarray(deep(bits)).save(tmp_path / f"x{suffix}")
    assert np.abs(read_image(tmp_path / f"x{suffix}", SIZE, "squash").astype(int) - PICTURE).max() <= 1


@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint16 of 12 bits", "float32", "uint32"])
def test_a_tiff_may_store_white_as_zero(tmp_path: Path, kind: str, white_is_zero: bool, tile: int) -> None:
    if kind == "uint32" and white_is_zero:
        return  # Pillow knows no such file: it is unreadable, by name
    dtype = np.dtype(kind.split()[0])
    shares = PICTURE / 255 if not white_is_zero else 1 - PICTURE / 255
    white = {"uint8": 255, "float32": 1, "uint16 of 12 bits": 4095}.get(kind, 65535)
    values = shares * white if kind == "float32" else np.rint(shares * white)
    (tmp_path / "x.tif").write_bytes(tiff(values.astype(dtype), 0 if white_is_zero else 1, tile=tile))
    assert np.abs(read_image(tmp_path / "x.tif", SIZE, "squash").astype(int) - PICTURE).max() <= 1


UPRIGHT = {  # EXIF orientation -> how the stored array must be turned to be seen upright
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("coding", ["strip", "tiles", "packbits", "tiff_lzw", "tiff_adobe_deflate"])
def test_a_turned_tiff_however_it_is_stored(tmp_path: Path, coding: str, orientation: int) -> None:
    for dtype, factor in (("uint8", 1), ("uint16", 257)):
        stored = np.add.outer(np.arange(20) * 4, np.arange(40) * 3).astype(dtype) * np.dtype(dtype).type(factor)
        if coding in ("strip", "tiles"):
            content = tiff(stored, orientation=orientation, tile=16 if coding == "tiles" else 0)
            (tmp_path / "x.tif").write_bytes(content)
        else:
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[274] = orientation
            Image.fromarray(stored).save(tmp_path / "x.tif", compression=coding, tiffinfo=tags)
        upright = UPRIGHT[orientation](stored // factor)
        pixels = read_image(tmp_path / "x.tif", 40, "pad")
        top, left = (40 - upright.shape[0]) // 2, (40 - upright.shape[1]) // 2
        assert np.array_equal(pixels[top : top + upright.shape[0], left : left + upright.shape[1]], upright)


@pytest.mark.parametrize("justified", ["right", "left"])
def test_a_png_that_states_its_bits(tmp_path: Path, justified: str) -> None:
    """Right: samples up to 4,095, which 10 bits would hold here. Left: scaled up to 16 bits, as the standard says."""
    dark = deep(12) // 5  # its own maximum would be that of 10 bits
    stored = dark if justified == "right" else np.rint(dark / 4095 * 65535).astype(np.uint16)
    stored.flat[1] = stored.flat[1] if justified == "right" else 65535
    Image.fromarray(stored).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes(with_sbit((tmp_path / "x.png").read_bytes(), 12))
    pixels = read_image(tmp_path / "x.png", SIZE, "squash").astype(float)
    assert np.abs(pixels - dark / 4095 * 255).ravel()[2:].max() <= 0.51


def test_the_level_of_white() -> None:
    assert [white_level("integer", peak) for peak in (0, 255, 256, 1023, 1024, 4096, 16384, 65535)] == [
        *(255, 255, 1023, 1023, 4095, 16383, 65535, 65535)
    ]
    assert [white_level("integer:12", peak) for peak in (3, 4095, 4096)] == [4095, 4095, 65535]
    assert [white_level("float", peak) for peak in (0.2, 1, 1.5, 300)] == [1, 1, 255, 1023]


def make_deep(folder: Path, highest: int, faint: str = "") -> None:
    """Make every PNG one of 16 bits up to ``highest``; the faint one has a quarter of it at most."""
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        values = np.random.default_rng(i).integers(0, highest + 1, (32, 40)).astype(np.uint16)
        values[0, 0] = highest
        Image.fromarray(values // 8 if file.name == faint else values).save(file)


def test_a_set_has_one_range_which_is_said(chest_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_deep(chest_folder, 4095, faint="IM-0001-0001.png")
    data = load_dataset(DataConfig(path=str(chest_folder), image_size=16))
    assert data.ranges == {"integer": 4095} == data.describe()["ranges"]
    assert sum("0 to 4095" in note and note in caplog.text for note in data.notes) == 1
    for i in range(0, len(data.records), 9):
        file = chest_folder / data.records[i].name
        assert np.array_equal(data.images[i], read_image(file, 16, "squash", data.ranges))
    (faint,) = [i for i, r in enumerate(data.records) if r.name == "train/NORMAL/IM-0001-0001.png"]
    assert data.images[faint].max() <= 32, "a faint image got an exposure of its own"
    alone = read_image(chest_folder / data.records[faint].name, 16, "squash")
    assert alone.max() > 3 * data.images[faint].max(), "alone it has its own range"


def test_one_deeper_file_changes_the_range_and_is_decoded_again(chest_folder: Path) -> None:
    make_deep(chest_folder, 4095)
    config = DataConfig(path=str(chest_folder), image_size=16)
    first = load_dataset(config)
    full = np.full((32, 40), 60000, dtype=np.uint16)
    Image.fromarray(full).save(chest_folder / "test" / "NORMAL" / "IM-9999-0001.png")
    second = load_dataset(config)
    assert second.ranges == {"integer": 65535}
    same = {r.name: image for r, image in zip(second.records, second.images, strict=True)}
    for record, image in zip(first.records, first.images, strict=True):
        assert np.abs(same[record.name].astype(int) - image / 16).max() <= 2
    assert any("114 of the images" in note and "nearly black" in note for note in second.notes)
    (chest_folder / "test" / "NORMAL" / "IM-9999-0001.png").unlink()
    assert np.array_equal(load_dataset(config).images, first.images)


def test_full_depth_and_plain_images_need_no_word(chest_folder: Path) -> None:
    config = DataConfig(path=str(chest_folder), image_size=16)
    assert (load_dataset(config).ranges, load_dataset(config).notes) == ({}, [])
    make_deep(chest_folder, 60000)
    assert (load_dataset(config).ranges, load_dataset(config).notes) == ({"integer": 65535}, [])


def test_kinds_do_not_share_a_range(tmp_path: Path) -> None:
    Image.fromarray(deep(12)).save(tmp_path / "integer.png")
    Image.fromarray((PICTURE / 255).astype(np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "stated.png").write_bytes(with_sbit((tmp_path / "integer.png").read_bytes(), 10))
    sources = [decode_image(file, SIZE, "squash").source for file in sorted(tmp_path.iterdir())]
    assert shared_ranges(sources) == {"float": 1, "integer": 4095, "integer:10": 65535}


def test_colour_whose_lower_half_pillow_drops_is_left_out(tmp_path: Path) -> None:
    """Pillow keeps the upper 8 of 16 bits of colour: 12 bits would be 16 levels of near black."""

    def png(values: np.ndarray) -> bytes:
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        parts = {
            b"IHDR": struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0),
            b"IDAT": zlib.compress(rows),
            b"IEND": b"",
        }
        chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts.items())
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    colour = np.repeat(deep(16)[..., None], 3, axis=2)
    (tmp_path / "x.png").write_bytes(png(colour))
    assert np.abs(read_image(tmp_path / "x.png", SIZE, "squash").astype(int) - PICTURE).max() <= 1
    (tmp_path / "x.png").write_bytes(png(colour >> 4))
    with pytest.raises(OSError, match="16 bits"):
        read_image(tmp_path / "x.png", SIZE, "squash")


def png(bits: int, colour: int, rows: list[bytes], *chunks: tuple[bytes, bytes], interlace: int = 0) -> bytes:
    """A PNG by its specification, with further chunks before the pixels."""
    header = struct.pack(">IIBBBBB", SIZE, SIZE, bits, colour, 0, 0, interlace)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + body


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """Rows of samples of fewer than 8 bits."""
    return [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for row in values]


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits(tmp_path: Path, bits: int, transparent: bool) -> None:
    """A transparent level is one of the samples as stored, and lies on black."""
    values, white = PICTURE >> (8 - bits), 2**bits - 1
    level = [(b"tRNS", struct.pack(">H", white))] if transparent else []
    (tmp_path / "x.png").write_bytes(png(bits, 0, packed(values, bits), *level))
    expected = np.where((values == white) & transparent, 0, values * (255 // white))
    assert np.array_equal(read_image(tmp_path / "x.png", SIZE, "squash"), expected)


def test_a_transparent_level_of_sixteen_bits_lies_on_black(tmp_path: Path) -> None:
    values, level = deep(16), int(deep(16)[3, 3])
    (tmp_path / "x.png").write_bytes(
        png(16, 0, [row.astype(">u2").tobytes() for row in values], (b"tRNS", struct.pack(">H", level)))
    )
    expected = np.where(values == level, 0, PICTURE)
    assert np.abs(read_image(tmp_path / "x.png", SIZE, "squash").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("chunk", [b"", b"gAMA", b"sBIT"])
def test_chunks_that_do_not_change_samples(tmp_path: Path, chunk: bytes) -> None:
    content = {b"gAMA": struct.pack(">I", 45455), b"sBIT": b"\5"}
    chunks = [(chunk, content[chunk])] if chunk else []
    (tmp_path / "x.png").write_bytes(png(8, 0, [row.tobytes() for row in PICTURE], *chunks))
    assert np.array_equal(read_image(tmp_path / "x.png", SIZE, "squash"), PICTURE)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@pytest.mark.parametrize("bits", [8, 16])
def test_an_interlaced_png(tmp_path: Path, bits: int) -> None:
    values = PICTURE if bits == 8 else deep(16).astype(">u2")
    rows = [row.tobytes() for x, y, dx, dy in ADAM7 for row in values[y::dy, x::dx]]
    (tmp_path / "x.png").write_bytes(png(bits, 0, rows, interlace=1))
    assert np.abs(read_image(tmp_path / "x.png", SIZE, "squash").astype(int) - PICTURE).max() <= 1


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("coding", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_with_a_predictor(tmp_path: Path, coding: str, kind: str) -> None:
    values = {"uint8": PICTURE, "uint16": deep(16), "float32": (PICTURE / 255).astype(np.float32)}[kind]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[317] = 3 if kind == "float32" else 2
    Image.fromarray(values).save(tmp_path / "x.tif", compression=coding, tiffinfo=tags)
    assert np.abs(read_image(tmp_path / "x.tif", SIZE, "squash").astype(int) - PICTURE).max() <= 1


def retagged(content: bytes, tag: int, value: int) -> bytes:
    """The TIFF with another value of a tag."""
    at = content.index(struct.pack("<HHI", tag, 4, 1))
    return content[: at + 8] + struct.pack("<I", value) + content[at + 12 :]


def test_signed_samples_below_zero_are_refused(tmp_path: Path) -> None:
    """Pillow reads -1 of 8 bits as 255."""
    signed = retagged(tiff(PICTURE), 339, 2)
    (tmp_path / "x.tif").write_bytes(signed)
    with pytest.raises(OSError, match="signed"):
        read_image(tmp_path / "x.tif", SIZE, "squash")
    (tmp_path / "x.tif").write_bytes(retagged(tiff(PICTURE // 2), 339, 2))
    assert np.array_equal(read_image(tmp_path / "x.tif", SIZE, "squash"), PICTURE // 2)


@pytest.mark.parametrize("step", [1, 257])
def test_a_colour_map_has_sixteen_bits(tmp_path: Path, step: int) -> None:
    """Some programs write 8, and all colours come out black."""
    image = Image.fromarray(PICTURE)
    image.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    image.save(tmp_path / "x.tif")
    content = (tmp_path / "x.tif").read_bytes()
    written = struct.pack("<768H", *[v * 257 for v in range(256)] * 3)
    if written not in content:
        written = struct.pack("<768H", *[v * 256 for v in range(256)] * 3)
    (tmp_path / "x.tif").write_bytes(
        content.replace(written, struct.pack("<768H", *[v * step for v in range(256)] * 3))
    )
    if step == 257:
        assert np.array_equal(read_image(tmp_path / "x.tif", SIZE, "squash"), PICTURE)
        return
    with pytest.raises(OSError, match="colour map"):
        read_image(tmp_path / "x.tif", SIZE, "squash")


@pytest.mark.realdata
def test_the_real_images_never_change(real_data: Path) -> None:
    """Pinned: with other pixels, every published figure would be another."""
    files, digest = sorted(real_data.rglob("*.jpeg"))[::60], hashlib.sha256()
    for file in files:
        for size, how in ((64, "squash"), (64, "pad"), (299, "squash")):
            digest.update(read_image(file, size, how).tobytes())
    assert (len(files), digest.hexdigest()[:16]) == (98, "46e1e148cef9e67e")
