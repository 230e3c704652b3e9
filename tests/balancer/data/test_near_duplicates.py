"""Copies are found however they were made, and images of two patients are not taken for copies."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from balancer.data import near_duplicates as duplicates
from balancer.data.images import resize_image
from balancer.data.near_duplicates import COPY, near_duplicates
from balancer.data.phantom import draw_image, draw_patient

SIZE = 128


def thumbnail(picture: Image.Image) -> np.ndarray:
    return resize_image(picture, 64, "squash")


@pytest.fixture(scope="module")
def drawings() -> list[Image.Image]:
    """One drawing each of 40 patients."""
    rngs = [np.random.default_rng(seed) for seed in range(40)]
    return [Image.fromarray(draw_image(draw_patient(rng), seed % 2, rng, SIZE)) for seed, rng in enumerate(rngs)]


def as_jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


COPIES = {
    "re-encoded": as_jpeg,
    "brighter": lambda p: p.point(lambda grey: min(255, 0.8 * grey + 30)),
    "steeper": lambda p: p.point(lambda grey: 255 * (grey / 255) ** 1.4),
    "equalised": ImageOps.equalize,
    "flatter": lambda p: p.point(lambda grey: 255 * (grey / 255) ** 0.4),
    "trimmed by 2 px": lambda p: p.crop((2, 2, SIZE - 2, SIZE - 2)),
    "trimmed by 1 px at the left and 2 at the foot": lambda p: p.crop((1, 0, SIZE, SIZE - 2)),
    "smaller": lambda p: p.resize((70, 70), Image.Resampling.LANCZOS),
    "blurred": lambda p: p.filter(ImageFilter.GaussianBlur(1)),
    "all at once": lambda p: as_jpeg(p.crop((1, 1, SIZE - 1, SIZE - 1)).point(lambda grey: 0.9 * grey + 10)),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_found_and_nothing_else(drawings: list[Image.Image], how: str) -> None:
    copies = [COPIES[how](drawings[i]) for i in (3, 8)]
    thumbnails = np.stack([thumbnail(p) for p in (*drawings, *copies)])
    found = near_duplicates(thumbnails, [str(i) for i in range(len(thumbnails))])
    assert {(p.first, p.second) for p in found.pairs if p.correlation >= COPY} == {(3, 40), (8, 41)}
    assert (found.compared, found.blank) == (42, 0)


def test_the_likest_pair_comes_first(drawings: list[Image.Image]) -> None:
    copies = [drawings[5].filter(ImageFilter.GaussianBlur(radius)) for radius in (1, 2)]
    thumbnails = np.stack([thumbnail(p) for p in (*drawings[:10], *copies)])
    found = near_duplicates(thumbnails, [str(i) for i in range(12)])
    assert [p.correlation for p in found.pairs] == sorted((p.correlation for p in found.pairs), reverse=True)
    assert [(p.first, p.second) for p in found.pairs[:3]] == [(5, 10), (10, 11), (5, 11)]


def test_other_images_are_no_copies(drawings: list[Image.Image]) -> None:
    mirrored = [p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in drawings[:5]]
    turned = [p.transpose(Image.Transpose.ROTATE_180) for p in drawings[:5]]
    thumbnails = np.stack([thumbnail(p) for p in (*drawings, *mirrored, *turned)])
    found = near_duplicates(thumbnails, [str(i) for i in range(len(thumbnails))])
    assert not [p for p in found.pairs if p.correlation >= COPY]


def test_of_identical_files_only_the_first_is_compared(drawings: list[Image.Image]) -> None:
    thumbnails = np.stack([thumbnail(p) for p in (drawings[0], drawings[0], as_jpeg(drawings[0]), drawings[1])])
    found = near_duplicates(thumbnails, ["a", "a", "b", "c"])
    assert found.compared == 3
    assert [(p.first, p.second) for p in found.pairs if p.correlation >= COPY] == [(0, 2)]


def test_blank_images_are_counted_and_not_compared(drawings: list[Image.Image]) -> None:
    blank = [np.full((64, 64), grey, dtype=np.uint8) for grey in (0, 0, 128)]
    thumbnails = np.stack([*blank, thumbnail(drawings[0])])
    found = near_duplicates(thumbnails, list("abcd"))
    assert (found.pairs, found.compared, found.blank, found.candidates) == ([], 1, 3, 0)


def test_when_hashes_propose_too_many_the_likest_are_compared(
    drawings: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    series = [drawings[0].filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 0.5, 2, 4)]
    thumbnails = np.stack([thumbnail(p) for p in series])
    everything = near_duplicates(thumbnails, list("abcd"))
    assert everything.candidates == len(everything.pairs) == 6
    monkeypatch.setattr(duplicates, "MOST_CANDIDATES", 2)
    some = near_duplicates(thumbnails, list("abcd"))
    assert some.candidates == 6
    assert sorted(p.bits for p in some.pairs) == sorted(p.bits for p in everything.pairs)[:2]


def test_alignment_finds_the_best_of_all_warps() -> None:
    """Against warping every image and asking numpy for the correlation."""
    rng = np.random.default_rng(1)
    images, others = (duplicates._bands(rng.integers(0, 256, (3, 64, 64))) for _ in range(2))
    warps, edge = duplicates._warps(64), duplicates.EDGE
    target = images[:, edge:-edge, edge:-edge]
    target = target - target.mean(axis=(1, 2), keepdims=True)
    target /= np.linalg.norm(target, axis=(1, 2), keepdims=True)
    moved = others[:, :, edge:-edge]
    choice, fit = duplicates._best_warp(warps, target, moved)
    for k in range(3):
        each = [np.corrcoef((warp @ moved[k]).ravel(), target[k].ravel())[0, 1] for warp in warps]
        assert choice[k] == np.argmax(each)
        assert fit[k] == pytest.approx(max(each), abs=1e-4)


@pytest.mark.parametrize("axis", [1, 2])
def test_what_was_shifted_lies_on_its_original_again(axis: int) -> None:
    rng = np.random.default_rng(2)
    wide = duplicates._bands(np.asarray(rng.integers(0, 256, (2, 70, 70))))
    images, shifted = wide[:, 3:67, 3:67], np.roll(wide, 2, axis)[:, 3:67, 3:67]
    assert duplicates._aligned(images, shifted) == pytest.approx(1, abs=1e-3)
    too_far = np.roll(wide, 3, axis)[:, 3:67, 3:67]
    assert (duplicates._aligned(images, too_far) < 0.9).all()


def test_parts_of_a_large_set_give_the_same_pairs(drawings: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [make(drawings[i]) for i, make in enumerate(COPIES.values())]
    thumbnails = np.stack([thumbnail(picture) for picture in (*drawings, *copies)])
    digests = [str(i) for i in range(len(thumbnails))]
    whole = near_duplicates(thumbnails, digests)
    monkeypatch.setattr(duplicates, "PART", 7)
    monkeypatch.setattr(duplicates, "CHUNK", 5)
    in_parts = near_duplicates(thumbnails, digests)
    assert len(whole.pairs) >= len(COPIES)
    assert [(p.first, p.second, p.bits) for p in in_parts.pairs] == [(p.first, p.second, p.bits) for p in whole.pairs]
    assert np.allclose([p.correlation for p in in_parts.pairs], [p.correlation for p in whole.pairs], atol=1e-6)
