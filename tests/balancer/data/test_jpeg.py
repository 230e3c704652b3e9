"""JPEG files that were cut and closed again are refused, however they are coded; complete ones never are."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from balancer.data import images
from balancer.data.chest import find_root, read_folder
from balancer.data.images import decode_image, read_picture

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 150, 210
SMOOTH = np.asarray(Image.fromarray(RNG.integers(0, 256, (9, 9), dtype=np.uint8)).resize((WIDTH, HEIGHT)))
PICTURE = np.clip(SMOOTH + RNG.normal(0, 6, SMOOTH.shape), 0, 255).astype(np.uint8)
COLOUR = np.dstack([PICTURE, 255 - PICTURE, PICTURE // 2])
GREY_BELOW = np.vstack([PICTURE[:80], np.full((HEIGHT - 80, WIDTH), 128, np.uint8)])
CODINGS = {
    "baseline": (PICTURE, {}),
    "optimised": (PICTURE, {"optimize": True, "quality": 95}),
    "progressive": (PICTURE, {"progressive": True}),
    "restarts": (PICTURE, {"restart_marker_rows": 1}),
    "colour": (COLOUR, {}),
    "colour, progressive": (COLOUR, {"progressive": True}),
    "padded with grey": (GREY_BELOW, {}),
    "padded with grey, progressive": (GREY_BELOW, {"progressive": True}),
}
READERS = {"reduced": lambda path: decode_image(path, 32, "squash"), "whole": read_picture}


def coded(name: str) -> bytes:
    pixels, options = CODINGS[name]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("coding", CODINGS)
def test_a_file_that_was_cut_and_closed_again(tmp_path: Path, coding: str, reader: str) -> None:
    content = coded(coding)
    start = content.index(b"\xff\xda") + 14
    (tmp_path / "x.jpeg").write_bytes(content)
    READERS[reader](tmp_path / "x.jpeg")
    shares = (0.1, 0.3) if "padded" in coding else (0.1, 0.5, 0.9, 0.97)
    for share in shares:
        cut = content[: start + int(share * (len(content) - start))].rstrip(b"\xff")
        (tmp_path / "x.jpeg").write_bytes(cut + b"\xff\xd9")
        with pytest.raises(OSError, match=r"cut|truncated|broken"):
            READERS[reader](tmp_path / "x.jpeg")


def test_what_stands_behind_the_picture_does_no_harm(tmp_path: Path) -> None:
    content = coded("padded with grey")
    for more in (b"garbage" * 50, content, b"\xff\xd9"):
        (tmp_path / "x.jpeg").write_bytes(content + more)
        read_picture(tmp_path / "x.jpeg")


def test_only_files_that_may_be_cut_are_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = []
    monkeypatch.setattr(images, "refuse_cut", lambda *a: twice.append(a))
    for name in ("baseline", "padded with grey", "progressive"):
        (tmp_path / "x.jpeg").write_bytes(coded(name))
        decode_image(tmp_path / "x.jpeg", 32, "squash")
    assert len(twice) == 2


@pytest.mark.realdata
@pytest.mark.nightly
def test_no_real_image_is_refused(real_data: Path) -> None:
    root = find_root(real_data)
    for record in read_folder(root):
        decode_image(root / record.name, 64, "squash")
