"""Any image as grey uint8 at the working size, against sums done here by hand."""

import contextlib
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from balancer.core.errors import Interrupted
from balancer.data import images
from balancer.data.images import read_image, resize_image, to_grey

SIZE = 16
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R 601, the definition of mode L."""
    return rgb.astype(float) @ [0.299, 0.587, 0.114]


def through_file(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    with Image.open(path) as again:
        assert again.mode == image.mode, "the file format does not keep the mode under test"
    return read_image(path, SIZE, "squash").astype(float)


def palette_image(transparent: bool) -> tuple[Image.Image, np.ndarray]:
    """Mode P with four colours and what it should become."""
    colours = np.array([[255, 255, 255], [200, 10, 30], [0, 90, 255], [77, 77, 77]], dtype=np.uint8)
    index = RNG.integers(0, 4, (SIZE, SIZE), dtype=np.uint8)
    image = Image.fromarray(index)
    image.putpalette(colours.ravel().tolist())
    expected = luma(colours)[index]
    return image, np.where(index == 0, 0, expected) if transparent else expected


INK = np.concatenate([np.zeros((SIZE, SIZE, 3), dtype=np.uint8), GREY[..., None]], axis=2)


@pytest.mark.parametrize(
    ("image", "expected", "tolerance", "suffix"),
    [
        (Image.fromarray(GREY > 127), 255 * (GREY > 127), 0, ".png"),
        (Image.fromarray(GREY), GREY, 0, ".png"),
        (Image.fromarray(np.dstack([GREY, ALPHA])), GREY / 255 * ALPHA, 1, ".png"),
        (*palette_image(transparent=False), 1, ".png"),
        (Image.fromarray(COLOUR), luma(COLOUR), 1, ".png"),
        (Image.fromarray(np.dstack([COLOUR, ALPHA])), luma(COLOUR * (ALPHA[..., None] / 255)), 1.5, ".png"),
        (Image.fromarray(INK, "CMYK"), 255.0 - GREY, 1, ".tif"),
    ],
    ids=["one bit", "grey", "grey with alpha", "palette", "colour", "colour with alpha", "CMYK"],
)
def test_modes(image: Image.Image, expected: np.ndarray, tolerance: float, suffix: str, tmp_path: Path) -> None:
    """Transparent pixels lie on black."""
    assert np.abs(through_file(image, tmp_path / f"x{suffix}") - expected).max() <= tolerance


@pytest.mark.parametrize("transparency", [0, b"\x00\xff\xff\xff"])
def test_transparent_palette_colour_lies_on_black(tmp_path: Path, transparency: int | bytes) -> None:
    image, expected = palette_image(transparent=True)
    assert np.abs(through_file(image, tmp_path / "x.png", transparency=transparency) - expected).max() <= 1


def test_transparent_grey_level_lies_on_black(tmp_path: Path) -> None:
    level = int(GREY[3, 3])
    pixels = through_file(Image.fromarray(GREY), tmp_path / "x.png", transparency=level)
    assert np.array_equal(pixels, np.where(level == GREY, 0, GREY))


@pytest.mark.parametrize(("highest", "white"), [(3000, 4095), (4095, 4095), (30000, 65535), (65535, 65535)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_by_depth_not_by_their_maximum(
    tmp_path: Path, highest: int, white: int, suffix: str
) -> None:
    deep = np.linspace(0, highest, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
    image = Image.fromarray(deep)
    assert image.mode == "I;16"
    pixels = through_file(image, tmp_path / f"x{suffix}")
    assert np.abs(pixels - deep / white * 255).max() <= 0.51


@pytest.mark.parametrize(
    ("highest", "unit", "kind"),
    [(h, u, np.float32) for h, u in ((1, 1), (0.4, 1), (255, 255), (90, 255), (50000, 65535))]
    + [(40000, 65535, np.int32)],
)
def test_floats_in_their_three_conventions_and_deep_integers(
    tmp_path: Path, highest: float, unit: float, kind: type
) -> None:
    values = np.linspace(0, highest, SIZE * SIZE).astype(kind).reshape(SIZE, SIZE)
    pixels = through_file(Image.fromarray(values), tmp_path / "x.tif")
    assert np.abs(pixels - values / unit * 255).max() <= 0.51


@pytest.mark.parametrize("wrong", [-5.0, 70000.0, np.nan, np.inf])
def test_deep_values_out_of_range_are_refused(tmp_path: Path, wrong: float) -> None:
    values = np.full((SIZE, SIZE), 3.0, dtype=np.float32)
    values[2, 2] = wrong
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(OSError, match="0 to 65535"):
        read_image(tmp_path / "x.tif", SIZE, "squash")


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
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "x.png", SIZE, "squash"), UPRIGHT[orientation](GREY))


def test_exif_orientation_comes_before_padding(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((8, 16), 200, dtype=np.uint8)).save(tmp_path / "x.png", exif=exif)  # lying: 16 wide
    pixels = read_image(tmp_path / "x.png", 16, "pad")  # upright: 8 wide, 16 high
    assert (pixels[:, 4:12] == 200).all()
    assert not pixels[:, :4].any()
    assert not pixels[:, 12:].any()


@pytest.mark.parametrize("tall", [False, True])
def test_pad_keeps_the_pixels_and_adds_black(tall: bool) -> None:
    content = RNG.integers(1, 256, (10, 20), dtype=np.uint8)
    expected = np.zeros((20, 20), dtype=np.uint8)
    expected[5:15] = content
    content, expected = (content.T, expected.T) if tall else (content, expected)
    assert np.array_equal(resize_image(Image.fromarray(content), 20, "pad"), expected)


@pytest.mark.parametrize("tall", [False, True])
def test_crop_keeps_the_middle(tall: bool) -> None:
    content = RNG.integers(0, 256, (20, 50), dtype=np.uint8)
    expected = content[:, 15:35]
    content, expected = (content.T, expected.T) if tall else (content, expected)
    assert np.array_equal(resize_image(Image.fromarray(content), 20, "crop"), expected)


@pytest.mark.parametrize(
    ("how", "rows", "columns"),
    [("squash", (0, 120), (0, 240)), ("crop", (0, 120), (60, 180)), ("pad", (-60, 180), (0, 240))],
)
def test_what_part_of_the_picture_lands_where(how: str, rows: tuple, columns: tuple) -> None:
    """A brightness ramp stays one: each output pixel holds the ramp at the centre of its footprint."""
    y, x = np.mgrid[0:120, 0:240]
    ramp = 30 + 0.5 * x + 0.6 * y
    pixels = resize_image(Image.fromarray(ramp.astype(np.float32)), 24, how).astype(float)
    centre = (np.arange(24) + 0.5) / 24
    at_y = rows[0] + centre * (rows[1] - rows[0]) - 0.5
    at_x = columns[0] + centre * (columns[1] - columns[0]) - 0.5
    expected = 30 + 0.5 * at_x[None] + 0.6 * at_y[:, None]
    outside = (at_y < 0) | (at_y > 119)
    assert not pixels[outside].any()
    inner = np.ix_(np.flatnonzero((at_y > 12) & (at_y < 107)), np.flatnonzero((at_x > 12) & (at_x < 227)))
    assert np.abs(pixels - expected)[inner].max() <= 0.6


@pytest.mark.parametrize("how", ["squash", "pad", "crop"])
def test_shrinking_is_antialiased(how: str) -> None:
    y, x = np.mgrid[0:128, 0:128]
    checkerboard = Image.fromarray(((x + y) % 2 * 255).astype(np.uint8))
    pixels = resize_image(checkerboard, 16, how).astype(float)
    assert np.abs(pixels - 127.5).max() <= 2


@pytest.mark.parametrize("how", ["squash", "pad", "crop"])
@pytest.mark.parametrize("shape", [(16, 16), (7, 30), (30, 7), (1, 1), (200, 20)])
def test_the_result_has_the_size_asked_for(how: str, shape: tuple) -> None:
    pixels = resize_image(Image.fromarray(np.full(shape, 50, dtype=np.uint8)), 16, how)
    assert (pixels.shape, pixels.dtype) == ((16, 16), np.uint8)
    assert pixels.max() == 50


def test_overshoot_of_the_filter_does_not_wrap_round() -> None:
    edge = np.zeros((40, 40), dtype=np.float32)
    edge[:, 20:] = 255
    pixels = resize_image(Image.fromarray(edge), 64, "squash")
    assert (pixels[:, :20] < 40).all()
    assert (pixels[:, 44:] > 215).all()


def picture(path: Path) -> Path:
    Image.fromarray(RNG.integers(0, 256, (60, 60), dtype=np.uint8)).save(path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".tif", ".bmp", ".gif", ".webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_truncated_files_are_unreadable(tmp_path: Path, suffix: str, share: float) -> None:
    path = picture(tmp_path / f"x{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(OSError, match=r"."):
        read_image(path, SIZE, "squash")


@pytest.mark.parametrize(
    "content", [None, b"<html>404</html>", b"\x00" * 500, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" * 9]
)
def test_not_an_image(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.jpeg").write_bytes(content)
    with pytest.raises(OSError, match=r"."):
        read_image(tmp_path / "x.jpeg", SIZE, "squash")


@pytest.mark.parametrize("value", [(-1, 0), (1, 0), (-72, 1)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_one_odd_exif_tag_does_no_harm(tmp_path: Path, orientation: int, value: tuple[int, int]) -> None:
    """A rational XResolution that Pillow reads and cannot write again; the file is that of a common camera fault."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation) + struct.pack("<HHII", 0x011A, 10, 1, 38)
    directory = struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + bytes(4) + struct.pack("<ii", *value)
    stored = np.add.outer(np.arange(16) * 9, np.arange(32) * 3).astype(np.uint8)
    Image.fromarray(stored).save(tmp_path / "x.jpeg", exif=b"Exif\0\0" + directory, quality=100)
    upright = UPRIGHT[orientation](stored)
    pixels = read_image(tmp_path / "x.jpeg", 32, "pad").astype(int)
    rows = slice(8, 24) if orientation == 1 else slice(None)
    columns = slice(8, 24) if orientation == 6 else slice(None)
    assert np.abs(pixels[rows, columns] - upright).max() <= 4


@pytest.mark.parametrize("error", [struct.error, ZeroDivisionError, KeyError, RecursionError, TypeError, IndexError])
@pytest.mark.parametrize("place", ["open", "load", "getexif"])
def test_whatever_a_decoder_raises_makes_the_file_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: type[Exception]
) -> None:
    path = picture(tmp_path / "x.png")

    def broken(*_: object, **__: object) -> None:
        raise error("odd\nand a second line")

    monkeypatch.setattr(Image if place == "open" else PngImagePlugin.PngImageFile, place, broken)
    with pytest.raises(OSError, match=error.__name__) as caught:
        read_image(path, SIZE, "squash")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), Interrupted(2, "stopped")])
def test_what_is_no_fault_of_the_file_passes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = picture(tmp_path / "x.png")
    monkeypatch.setattr(images, "resize_image", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
        read_image(path, SIZE, "squash")


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (7, 40)])
def test_images_too_small_for_a_chest(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.fromarray(np.full(shape, 9, dtype=np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(OSError, match=f"{shape[1]} x {shape[0]} px"):
        read_image(tmp_path / "x.png", SIZE, "squash")


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png", ".jpeg"])
def test_several_pictures_in_one_file(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(RNG.integers(0, 256, (20, 20), dtype=np.uint8)) for _ in range(3)]
    kind = {"format": "MPO"} if suffix == ".jpeg" else {}
    pages[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=pages[1:], **kind)
    with pytest.raises(OSError, match="3 pictures"):
        read_image(tmp_path / f"x{suffix}", SIZE, "squash")


def test_a_program_is_no_picture(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "x.png", format="EPS")
    with pytest.raises(OSError, match="EPS"):
        read_image(tmp_path / "x.png", SIZE, "squash")


def test_a_vast_image_is_logged_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = picture(tmp_path / "vast.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # below the 3,600 of the picture, above half of them
    with warnings.catch_warnings(record=True) as raw:
        read_image(path, SIZE, "squash")
    assert not raw
    assert "vast.png" in caplog.text


def adobe(image: Image.Image, path: Path) -> None:
    """A CMYK JPEG as Photoshop writes one: inverted, which an Adobe marker states."""
    image.save(path, quality=100, subsampling=0)
    assert b"Adobe" in path.read_bytes()


@pytest.mark.parametrize("progressive", [False, True])
def test_colour_jpegs(tmp_path: Path, progressive: bool) -> None:
    smooth = np.add.outer(np.arange(SIZE) * 9, np.arange(SIZE) * 7).astype(np.uint8)
    ink = np.concatenate([np.zeros((SIZE, SIZE, 3), dtype=np.uint8), smooth[..., None]], axis=2)
    adobe(Image.fromarray(ink, "CMYK"), tmp_path / "cmyk.jpeg")
    assert np.abs(read_image(tmp_path / "cmyk.jpeg", SIZE, "squash") - (255.0 - smooth)).max() <= 4
    rgb = Image.fromarray(np.dstack([smooth] * 3))
    rgb.save(tmp_path / "rgb.jpeg", quality=100, progressive=progressive, icc_profile=b"any profile")
    assert np.abs(read_image(tmp_path / "rgb.jpeg", SIZE, "squash") - smooth.astype(float)).max() <= 4


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(OSError, match="exceeds limit"):
        read_image(path, SIZE, "squash")


@pytest.mark.filterwarnings("ignore")  # PIL comments on the damage
@pytest.mark.parametrize("suffix", [".png", ".jpeg", ".tif", ".gif", ".webp"])
def test_a_damaged_file_is_read_or_unreadable_never_a_crash(tmp_path: Path, suffix: str) -> None:
    path, rng = picture(tmp_path / f"x{suffix}"), np.random.default_rng(1)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.integers(min(len(damaged), 200))] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(OSError):
            assert read_image(path, SIZE, "squash").shape == (SIZE, SIZE)


def radiograph(height: int, width: int) -> np.ndarray:
    """A smooth picture with detail at several scales, as an X-ray has."""
    layers = [
        np.asarray(Image.fromarray(RNG.normal(0, 25, (n, n)).astype(np.float32)).resize((width, height), Image.BICUBIC))
        for n in (4, 16, 64, 200)
    ]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["squash", "pad", "crop"])
@pytest.mark.parametrize("colour", [False, True])
def test_a_large_jpeg_decoded_at_reduced_scale_is_the_same_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, colour: bool
) -> None:
    size, large = 32, Image.fromarray(radiograph(700, 1000))
    (large.convert("RGB") if colour else large).save(tmp_path / "x.jpeg", quality=90)
    seen = []
    resize = images.resize_image
    monkeypatch.setattr(images, "resize_image", lambda image, *a: (seen.append(image.size), resize(image, *a))[1])
    pixels = read_image(tmp_path / "x.jpeg", size, how).astype(float)
    with Image.open(tmp_path / "x.jpeg") as whole:
        expected = resize(to_grey(whole)[0], size, how).astype(float)
    assert 2 * size <= min(seen[0]) < 350, f"decoded at {seen[0]}"
    assert np.abs(pixels - expected).max() <= 6
    assert np.abs(pixels - expected).mean() <= 1


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(OSError, match="no regular file"):
        read_image(tmp_path / "x.png", 16, "squash")
