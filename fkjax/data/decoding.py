"""Decoding of JPEG and PNG files to cropped and resized images."""

import io
import os
from typing import IO, Any

import numpy as np

from fkjax.base import UserError
from fkjax.files.opening import open_file

MAX_FILE_BYTES = 256 << 20
"""The size in bytes of the largest image file that is read."""

MAX_SCANS = 100
"""The maximum number of scans of a JPEG file.

A progressive file has about 10. A scan can be as short as a few bytes, but decoding it
takes a pass over all pixels.
"""

IMAGENET_CROP = 224 / 256
"""The share of the shorter side that the customary crop of ImageNet keeps."""

_INTACT = "replace it by an undamaged copy"


def decode(
    file: str | os.PathLike[str] | IO[bytes],
    name: str,
    *,
    image_size: int,
    channels: int = 3,
    crop: float = IMAGENET_CROP,
) -> np.ndarray:
    """Decodes an image and resizes its central square.

    By default, the side of the square is 224/256 of the shorter side of the image. This
    is the customary crop of ImageNet, which resizes the shorter side bilinearly to
    image_size * 256/224 and keeps the center. The result is deterministic.

    Transparency and a rotation in the metadata are ignored. Grayscale, palette, CMYK
    and black-and-white images are converted. Of colors with 16 bits, the upper 8 bits
    are kept; grayscale images with 16 bits are rejected. Of a file with several images,
    the first is decoded.

    Args:
        file: path of a JPEG or PNG file, or an open file, which is read from its start.
        name: name of the image in messages.
        image_size: height and width of the result, S.
        channels: number of channels, 3 for RGB or 1 for grayscale.
        crop: side of the square, as a share of the shorter side of the image.

    Returns:
        The image. Shape [S, S, channels] uint8.

    Raises:
        UserError: if the contents are neither JPEG nor PNG, cannot be decoded, or are
            too large to be decoded safely: more than `MAX_FILE_BYTES`, `MAX_SCANS` or
            Pillow's `MAX_IMAGE_PIXELS`.
    """
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS
    try:
        data = _contents(file, name)
        # No other decoder of Pillow is used, whatever the contents of the file are.
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.format != "PNG" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
                raise UserError(
                    f"{name} has {scans} scans, more than the maximum of {MAX_SCANS}; "
                    "save it with fewer"
                )
            if most is not None and image.width * image.height > most:
                raise _too_large(name, f"{image.width} x {image.height}", most)
            return _central_square(image, name, image_size, channels, crop)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, "too many", most) from None
    except Image.UnidentifiedImageError:
        raise UserError(
            f"{name} could not be read as a JPEG or PNG image (it does not start like "
            f"one); {_INTACT}"
        ) from None
    except Exception as error:  # Pillow raises many kinds of errors
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name} could not be read as a JPEG or PNG image ({first_line}); {_INTACT}"
        ) from error


def _contents(file: str | os.PathLike[str] | IO[bytes], name: str) -> bytes:
    if isinstance(file, (str, os.PathLike)):
        with open_file(file) as opened:
            return _contents(opened, name)
    file.seek(0)
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UserError(
            f"{name} has more than {MAX_FILE_BYTES} bytes, the maximum size of an "
            "image file; replace it by a smaller one"
        )
    return data


def _central_square(
    image: Any, name: str, size: int, channels: int, crop: float
) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # Pillow would clip its values at 255
        raise UserError(
            f"{name} has more than 8 bits per pixel (mode {image.mode}); save it with 8"
        )
    side = min(image.size) * crop
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.convert("RGB" if channels == 3 else "L").resize(
        (size, size),
        Image.Resampling.BILINEAR,
        # The whole is not resized: for a long, narrow image, it could fill the memory.
        box=(left, top, left + side, top + side),
    )
    return np.asarray(square, np.uint8).reshape(size, size, channels)


def _too_large(name: str, pixels: str, most: int | None) -> UserError:
    return UserError(
        f"{name} has {pixels} pixels, more than the maximum of {most}; replace it by a "
        "smaller one"
    )
