"""Grids: every pixel where it belongs."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from balancer.reporting.grids import GAP, png_bytes, save_grid, side_by_side, tile, to_uint8


def test_to_uint8_rounds_to_the_nearest_level() -> None:
    levels = torch.arange(256.0)
    for offset in (-0.45, 0.0, 0.45):
        images = ((levels + offset) / 127.5 - 1).reshape(1, 1, 16, 16)
        assert np.array_equal(to_uint8(images).ravel(), np.arange(256))
    assert to_uint8(torch.tensor([-3.0, -1.0, 1.0, 3.0]).reshape(1, 1, 2, 2)).ravel().tolist() == [0, 0, 255, 255]


def test_to_uint8_shape() -> None:
    result = to_uint8(torch.zeros(3, 1, 4, 6))
    assert result.shape == (3, 4, 6)
    assert result.dtype == np.uint8
    assert to_uint8(torch.zeros(1, 1, 4, 6, dtype=torch.bfloat16)).shape == (1, 4, 6)


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 3, 1), (3, 3, 1), (4, 3, 2), (7, 3, 3)])
def test_tile(n: int, columns: int, rows: int) -> None:
    images = np.random.default_rng(0).integers(30, 256, (n, 5, 4), dtype=np.uint8)
    sheet = tile(images, columns)
    assert sheet.shape == (rows * (5 + GAP) + GAP, columns * (4 + GAP) + GAP)
    for i in range(n):
        top, left = GAP + (i // columns) * (5 + GAP), GAP + (i % columns) * (4 + GAP)
        assert np.array_equal(sheet[top : top + 5, left : left + 4], images[i])
    assert (sheet == 24).sum() == sheet.size - n * 20, "ground everywhere else"


def test_png_bytes_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
    with Image.open(io.BytesIO(png_bytes(pixels))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (7, 9))
        assert np.array_equal(np.asarray(image), pixels)
    assert png_bytes(pixels) == png_bytes(pixels.copy())


def test_save_grid_enlarges_without_smoothing(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    save_grid(tmp_path / "g.png", images, columns=2)
    with Image.open(tmp_path / "g.png") as image:
        sheet = np.asarray(image)
    assert np.array_equal(sheet[::4, ::4], tile(images, 2))
    assert np.array_equal(sheet[3::4, 3::4], tile(images, 2))
    save_grid(tmp_path / "large.png", np.zeros((1, 200, 200), np.uint8), columns=1)
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (204, 204)


def test_side_by_side() -> None:
    left, right = np.full((5, 32, 32), 60, np.uint8), np.full((2, 32, 32), 190, np.uint8)
    with Image.open(io.BytesIO(side_by_side({"Synthetic": left, "Real": right}, columns=3))) as image:
        assert image.mode == "L"
        sheet = np.asarray(image)
    half, title, sheet = sheet.shape[1] // 2, sheet[:34], sheet[34:]
    assert (sheet[:, :half] == 60).sum() == 5 * 128 * 128
    assert (sheet[:, half:] == 190).sum() == 2 * 128 * 128
    assert not (sheet[:, :half] == 190).any()
    assert (title[:, :half] < 100).sum() > 50, "a title on each side"
    assert (title[:, half:] < 100).sum() > 50
