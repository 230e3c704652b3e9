"""One chest radiograph of the phantom set, drawn layer by layer.

Coordinates are ``x, y`` in [-1, 1], x towards the image's right (the patient's left), y downwards. Every layer is a
(size, size) float64 array. Masks lie in [0, 1]; brightness runs from 0 (black, air) to 1 (white, bone). Shapes use only
polynomials and square roots in float64: differences between maths libraries stay far below one grey level, so the same
numpy draws the same pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[float, float]
_RIGHT, _LEFT = -1, 1  # the patient's sides, as the sign of x: the patient's right is on the image's left


@dataclass(frozen=True)
class Anatomy:
    """The properties that all images of a patient share. Lengths are in drawing units (the image is 2 wide)."""

    width: float  # scale of the thorax, about 1
    height: float  # scale of the thorax, about 1
    tilt: float  # rotation in the image plane, radians
    fat: float  # soft-tissue thickness in [0, 1]: 1 washes the contrast out
    air: float  # how dark the lungs are: aeration, low in a poor inspiration
    lung_top: float  # y of the apices
    dome: float  # y of the right hemidiaphragm, the higher one
    dome_drop: float  # how much lower the left hemidiaphragm lies
    heart: float  # scale of the heart shadow, about 1
    heart_lean: float  # how steeply the heart's long axis points down, as dy/dx
    thymus: float  # brightness of the thymic shadow, 0 for most
    rib_spacing: float
    rib_slope: float  # downward curve of the posterior ribs
    rib_phase: float  # where the first rib lies, in spacings
    rib_contrast: float
    clavicle: float  # y of the clavicles' medial ends
    gas: tuple[float, float, float]  # gastric bubble: x, y, radius
    vessels: float  # prominence of the vascular markings, about 1
    tree_seed: int  # of the vascular tree
    viral: bool  # how pneumonia shows in this patient: interstitial (virus) or lobar (bacteria)


def draw_patient(rng: np.random.Generator) -> Anatomy:
    """Draw a patient's anatomy. The label has no part in it, so anatomy alone cannot reveal the class."""
    return Anatomy(
        width=rng.uniform(0.85, 1.10),
        height=rng.uniform(0.90, 1.08),
        tilt=rng.normal(0, 0.03),
        fat=rng.beta(2, 3),
        air=rng.uniform(0.36, 0.54),
        lung_top=rng.uniform(-0.76, -0.66),
        dome=rng.uniform(0.24, 0.48),
        dome_drop=rng.uniform(0.03, 0.10),
        heart=rng.uniform(0.85, 1.15),
        heart_lean=rng.uniform(0.3, 0.9),
        thymus=rng.uniform(0.08, 0.22) if rng.random() < 0.25 else 0.0,
        rib_spacing=rng.uniform(0.145, 0.19),
        rib_slope=rng.uniform(0.3, 0.6),
        rib_phase=rng.uniform(0, 1),
        rib_contrast=rng.uniform(0.6, 1.2),
        clavicle=rng.uniform(-0.62, -0.52),
        gas=(rng.uniform(0.30, 0.48), rng.uniform(0.62, 0.74), rng.uniform(0.06, 0.15)),
        vessels=rng.uniform(0.6, 1.2) * (1.5 if rng.random() < 0.2 else 1.0),
        tree_seed=int(rng.integers(2**32)),
        viral=bool(rng.random() < 0.35),
    )


def draw_image(anatomy: Anatomy, label: int, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw one film of a patient: (size, size) uint8. ``label`` is 0 for NORMAL, 1 for PNEUMONIA.

    The film (pose, exposure, markers, noise) has a random generator of its own, independent of the label. Generators of
    equal seeds give the same film for either class, and only the lungs differ.
    """
    film_rng, disease_rng = rng.spawn(2)
    x, y = _posed_grid(anatomy, film_rng, size)
    lungs = (_lung(x, y, anatomy, _RIGHT) + _lung(x, y, anatomy, _LEFT)) * (1 - 0.8 * _heart(x, y, anatomy))
    body = _body(x, y)
    image = 0.03 + body * _soft_tissue(x, y, anatomy)
    image -= anatomy.air * (1 - 0.2 * anatomy.fat) * lungs
    image += _mediastinum(x, y, anatomy) + body * _bones(x, y, anatomy) + _vessels(x, y, anatomy, lungs)
    if label:
        image += _pneumonia(x, y, anatomy, lungs, disease_rng)
    return _expose(_accessories(image, film_rng), film_rng)


def _ramp(distance: Array, softness: float) -> Array:
    """Return 0 to 1 as a signed distance goes from -softness to +softness: a smooth edge."""
    t = np.clip(distance / (2 * softness) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _ellipse(x: Array, y: Array, centre: Pair, radii: Pair, lean: float = 0.0) -> Array:
    """Return the squared distance from an ellipse's centre, 1 on its rim; the first axis has the slope ``lean``."""
    norm = math.sqrt(1 + lean * lean)
    dx, dy = x - centre[0], y - centre[1]
    along, across = (dx + lean * dy) / (norm * radii[0]), (dy - lean * dx) / (norm * radii[1])
    return along * along + across * across


def _blob(x: Array, y: Array, centre: Pair, radii: Pair, lean: float = 0.0) -> Array:
    """Return a soft spot: 1 at the ellipse's centre, 0 on its rim and outside."""
    return np.clip(1 - _ellipse(x, y, centre, radii, lean), 0, None) ** 2


@lru_cache(maxsize=4)
def _axis(size: int) -> Array:
    """Return the pixel centres (size,) on [-1, 1]."""
    return (2 * np.arange(size, dtype=np.float64) + 1) / size - 1


def _clouds(rng: np.random.Generator, size: int, knots: int) -> Array:
    """Return smooth noise (size, size) of about unit variance, its features 1/knots of the image wide."""
    return 1.3 * scipy.ndimage.zoom(rng.standard_normal((knots, knots)), size / knots, order=1)


def _posed_grid(anatomy: Anatomy, rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Return the patient's coordinates at every pixel, two (size, size) arrays; poses differ from film to film."""
    angle, scale = anatomy.tilt + rng.normal(0, 0.02), rng.uniform(0.90, 1.10)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    px, py = _axis(size)[None, :] - rng.normal(0, 0.035), _axis(size)[:, None] - rng.normal(0, 0.035)
    return (cos * px + sin * py) / anatomy.width, (cos * py - sin * px) / anatomy.height


def _body(x: Array, y: Array) -> Array:
    """Return the mask of neck, shoulders, arms held away from the trunk, and trunk."""
    u = np.abs(x)
    neck = np.clip(0.40 - u, 0, None)
    shoulder = -0.86 + 0.16 * u + 0.25 * np.clip(u - 0.6, 0, None) - 6.0 * neck * neck
    flank = 0.87 + 0.9 * np.clip(-0.25 - y, 0, None) ** 2 + 0.03 * y
    arm = _ramp(u - flank - 0.10 - 0.25 * np.clip(y + 0.3, 0, None), 0.03) * _ramp(0.6 - y, 0.3)
    return _ramp(y - shoulder, 0.05) * np.maximum(_ramp(flank - u, 0.03), arm)


def _soft_tissue(x: Array, y: Array, anatomy: Anatomy) -> Array:
    """Return the body's brightness without lungs: thickest in the middle and below the diaphragm (liver)."""
    thickness = np.sqrt(np.clip(1 - 0.7 * x * x, 0.1, None))
    abdomen = _ramp(y - anatomy.dome - 0.25 * x * x, 0.25)
    gas = 0.22 * _blob(x, y, anatomy.gas[:2], (1.5 * anatomy.gas[2], anatomy.gas[2]))
    return 0.26 + 0.08 * anatomy.fat + 0.30 * thickness + abdomen * (0.10 + 0.04 * _ramp(-x, 0.4)) - gas


def _lung(x: Array, y: Array, anatomy: Anatomy, side: int) -> Array:
    """Return the mask of one lung field: narrow apex, wide base, bounded below by the diaphragm's dome."""
    u = side * x
    half, dome = (0.73, anatomy.dome) if side == _RIGHT else (0.69, anatomy.dome + anatomy.dome_drop)
    t = np.clip((y - anatomy.lung_top) / (dome + 0.15 - anatomy.lung_top), 0, 1)
    lateral = 0.17 + (half - 0.17) * np.sqrt(1 - (1 - t) ** 2.2)
    medial = 0.10 + 0.08 * (1 - t) ** 2
    # the dome is highest at 40 % of the half width and falls steeply into the costophrenic angle
    from_top = u - 0.4 * half
    diaphragm = dome + np.where(from_top > 0, 1.3, 0.5) * from_top * from_top
    inside = _ramp(u - medial, 0.04) * _ramp(lateral - u, 0.03)
    return inside * _ramp(diaphragm - y, 0.035) * _ramp(y - anatomy.lung_top, 0.05)


def _heart(x: Array, y: Array, anatomy: Anatomy) -> Array:
    """Return the mask of the heart: the left ventricle bulges to the image's right, the atrium to the left."""
    scale = anatomy.heart
    ventricle_at, atrium_at = (0.13 * scale, anatomy.dome - 0.20), (-0.08, anatomy.dome - 0.16)
    ventricle = _ellipse(x, y, ventricle_at, (0.44 * scale, 0.34 * scale), anatomy.heart_lean)
    atrium = _ellipse(x, y, atrium_at, (0.16 * scale, 0.29 * scale))
    return np.maximum(_ramp(1 - np.sqrt(ventricle), 0.12), _ramp(1 - np.sqrt(atrium), 0.25))


def _mediastinum(x: Array, y: Array, anatomy: Anatomy) -> Array:
    """Return the brightness of great vessels, aortic knuckle and thymus, less the dark trachea."""
    great_vessels = 0.07 * _ramp(0.16 - np.abs(x - 0.01), 0.08) * _ramp(y + 0.70, 0.4)
    knuckle = 0.16 * _blob(x, y, (0.14, -0.28), (0.13, 0.15))
    thymus = _ramp(0.29 - np.abs(x + 0.04), 0.08) * _ramp(-0.12 - y, 0.06) * _ramp(y + 0.62, 0.2)
    trachea = 0.12 * _ramp(0.045 - np.abs(x), 0.04) * _ramp(-0.25 - y, 0.15)
    return great_vessels + knuckle + anatomy.thymus * thymus - trachea


def _rib_pattern(phase: Array, last: int) -> Array:
    """Return ribs 0 to ``last`` of a phase that grows by 1 from rib to rib; the lower margin is brighter."""
    v = phase - np.floor(phase)
    return _ramp(0.21 - np.abs(v - 0.5), 0.12) * (0.45 + v) * ((phase > 0) & (phase < last + 1))


def _bones(x: Array, y: Array, anatomy: Anatomy) -> Array:
    """Return the brightness of ribs, clavicles, vertebrae and shoulder girdle."""
    u = np.abs(x)
    t = np.clip((y + 0.85) / 1.1, 0, 1)
    cage = _ramp(0.22 + 0.55 * np.sqrt(1 - (1 - t) ** 2) - u, 0.04)
    top = -0.80 - anatomy.rib_phase * anatomy.rib_spacing
    posterior = (y - top + 0.12 * u - anatomy.rib_slope * u * u) / anatomy.rib_spacing
    anterior = (y - top - 0.75 + 0.75 * u - 0.15 * u * u) / (1.1 * anatomy.rib_spacing)
    ribs = 0.13 * _rib_pattern(posterior, 10) * _ramp(u - 0.08, 0.04) * _ramp(1.0 - u, 0.5)
    ribs *= 1 - 0.6 * _ramp(y - anatomy.dome - 0.1, 0.15)  # the abdomen hides the lowest ribs
    ribs += 0.09 * _rib_pattern(anterior, 6) * _ramp(u - 0.34, 0.12)
    rise = anatomy.clavicle - 0.25 * (u - 0.06) + 0.18 * u * u
    clavicles = 0.15 * _ramp(0.032 - np.abs(y - rise), 0.02) * _ramp(u - 0.07, 0.03) * _ramp(0.75 - u, 0.05)
    disc = 4.2 * y - np.floor(4.2 * y / 0.62) * 0.62  # one vertebra and its disc per 0.62 / 4.2
    spine = _ramp(0.085 - u, 0.03) * (0.06 + 0.05 * _ramp(0.22 - np.abs(disc - 0.31), 0.08))
    girdle = 0.07 * _blob(u, y, (0.76, -0.42), (0.22, 0.42), 0.2)
    girdle += 0.14 * _blob(u, y, (0.93, -0.52), (0.2, 0.2))
    return anatomy.rib_contrast * (ribs * cage + clavicles) + spine + girdle


def _streaks(x: Array, y: Array, rng: np.random.Generator, count: int, length: float, width: float) -> Array:
    """Return curved branches (size, size) that leave both hila and fade outwards, about 1 near the hila.

    Points along the branches are added to the image and blurred together, which is far cheaper than distances to
    curves. ``length`` and ``width`` are in drawing units.
    """
    size, steps = x.shape[0], 48
    side = np.where(np.arange(count) % 2 == 0, _RIGHT, _LEFT)[:, None]
    t = np.linspace(0, 1, steps)
    angle = rng.uniform(-1.25, 1.35, (count, 1)) + rng.uniform(-0.5, 0.5, (count, 1)) * t
    along = t * length * rng.uniform(0.5, 1.0, (count, 1))
    branch_x = side * (rng.uniform(0.14, 0.22, (count, 1)) + along * np.cos(angle))
    branch_y = -0.04 + rng.uniform(-0.09, 0.09, (count, 1)) + along * np.sin(angle)
    # The pose is affine: three corners give the map from patient coordinates to pixels.
    origin = np.array([x[0, 0], y[0, 0]])
    axes = np.array([[x[0, -1], x[-1, 0]], [y[0, -1], y[-1, 0]]]) - origin[:, None]
    points = np.stack([branch_x.ravel(), branch_y.ravel()]) - origin[:, None]
    column, row = np.rint(np.linalg.inv(axes) @ points * (size - 1)).astype(np.int64)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    weight = np.tile(1 - 0.75 * t, count)
    flat = np.bincount(row[inside] * size + column[inside], weight[inside], size * size).reshape(size, size)
    # a point's weight in pixels grows with size / steps, so that the streaks look alike at every size
    blurred = scipy.ndimage.gaussian_filter(flat, width * size / 2, truncate=3.0) * (size * width * length * 2.2)
    return blurred / (1 + 0.35 * blurred)


def _vessels(x: Array, y: Array, anatomy: Anatomy, lungs: Array) -> Array:
    """Return hila and vascular markings: the same tree on all of a patient's films."""
    tree = _streaks(x, y, np.random.default_rng(anatomy.tree_seed), 28, 0.60, 0.014)
    hila = _blob(np.abs(x), y, (0.20, -0.05), (0.14, 0.22))
    return anatomy.vessels * lungs * (0.07 * tree + 0.12 * hila)


def _pneumonia(x: Array, y: Array, anatomy: Anatomy, lungs: Array, rng: np.random.Generator) -> Array:
    """Return opacities inside the lungs, from hardly visible to obvious, interstitial or lobar by patient."""
    severity = rng.beta(1.4, 1.5)
    opacity = _interstitial if anatomy.viral else _consolidation
    return (0.08 + 0.46 * severity) * lungs * np.clip(opacity(x, y, anatomy, rng), 0, 1.2)


def _consolidation(x: Array, y: Array, anatomy: Anatomy, rng: np.random.Generator) -> Array:
    """Return one to three lobar opacities (size, size) with ragged edges and a mottled texture."""
    size, total = x.shape[0], np.zeros_like(x)
    ragged = 1 + 0.25 * _clouds(rng, size, 11)
    for _ in range(int(rng.choice([1, 1, 1, 2, 2, 3]))):
        side = _RIGHT if rng.random() < 0.6 else _LEFT
        centre = (side * rng.uniform(0.26, 0.56), rng.uniform(-0.45, anatomy.dome - 0.05))
        radii = (rng.uniform(0.26, 0.46), rng.uniform(0.24, 0.44))
        focus = _blob(x, y, centre, radii, rng.uniform(-0.5, 0.5)) * 2.4
        total = np.maximum(total, np.minimum(focus * ragged, 1))
    return total * (1 + 0.18 * _clouds(rng, size, 27))


def _interstitial(x: Array, y: Array, anatomy: Anatomy, rng: np.random.Generator) -> Array:
    """Return bilateral patchy haze round the hila and thickened peribronchial streaks, (size, size)."""
    u = np.abs(x)
    haze = 1.15 * _blob(u, y, (0.34, 0.0), (0.52, rng.uniform(0.6, 0.9)))
    return haze * (0.5 + 0.25 * _clouds(rng, x.shape[0], 9)) + 0.3 * _streaks(x, y, rng, 26, 0.55, 0.02)


def _accessories(image: Array, rng: np.random.Generator) -> Array:
    """Add, to some images, a bright side marker in a corner and an ECG wire across the chest."""
    size = image.shape[0]
    px, py = _axis(size)[None, :], _axis(size)[:, None]
    marker, wire = rng.random() < 0.4, rng.random() < 0.15
    mx, my = rng.uniform(0.84, 0.92), rng.uniform(-0.92, -0.80)
    bend, offset, slope = rng.uniform(-0.3, 0.3), rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)
    if marker:  # an "L" beside the patient's left shoulder
        u, v = (px - mx) / 0.04, (py - my) / 0.07
        stem = _ramp(0.35 - np.abs(u + 0.7), 0.2) * _ramp(1 - np.abs(v), 0.1)
        foot = _ramp(0.20 - np.abs(v - 0.8), 0.1) * _ramp(1 - np.abs(u), 0.2)
        image = image + 0.8 * np.maximum(stem, foot)
    if wire:
        image = image + 0.22 * _ramp(0.012 - np.abs(px - offset - slope * py - bend * py * py), 0.012)
    return image


def _expose(image: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply vignette, exposure, gamma, focus and grain: (size, size) brightness to uint8."""
    size = image.shape[0]
    px, py = _axis(size)[None, :], _axis(size)[:, None]
    vignette = 1 - rng.uniform(0, 0.22) * (px * px + py * py) / 2
    exposed = rng.uniform(0.78, 1.12) * image * vignette + rng.uniform(-0.05, 0.10)
    toned = np.clip(exposed, 0, 1) ** rng.uniform(0.75, 1.35)
    sharp = scipy.ndimage.gaussian_filter(toned, size / 96 * rng.uniform(0.3, 0.6), truncate=3.0)
    grain = rng.uniform(0.008, 0.028) * rng.standard_normal((size, size))
    return np.clip(np.rint(255 * (sharp + grain)), 0, 255).astype(np.uint8)
