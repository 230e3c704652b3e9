"""JPEG lossless, 12-bit JPEG and JPEG-LS in DICOM files, as a plugin of pydicom: by libjpeg-turbo and CharLS.

Both are libraries that hostile files are tried on all the time. GDCM, which pydicom would take, aborts or never ends on
some damaged frames, and pylibjpeg-libjpeg is under the GPL.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import UID, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless

NAME = "imagecodecs"
_JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
DECODED = (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, *_JPEG_LS)
DECODER_DEPENDENCIES = dict.fromkeys(DECODED, (NAME,))  # pydicom asks for this name, and for the two functions below


def is_available(uid: UID) -> bool:
    """Return whether frames of a coding can be decoded."""
    return uid in DECODED


def decode_frame(frame: bytes, runner: DecodeRunner) -> bytes:
    """Return the samples of a frame; pydicom learns the size of their cells from ``runner``."""
    is_ls = runner.transfer_syntax in _JPEG_LS
    pixels = np.asarray(imagecodecs.jpegls_decode(frame) if is_ls else imagecodecs.jpeg8_decode(frame))
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    if pixels.ndim > 2:
        runner.set_option("planar_configuration", 0)
    return pixels.tobytes()


for _uid in DECODED:
    get_decoder(_uid).add_plugin(NAME, (__name__, decode_frame.__name__))
