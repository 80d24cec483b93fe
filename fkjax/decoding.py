"""One JPEG or PNG file as pixels: decoded, cropped and resized."""

import os
from typing import IO, Any

import numpy as np

from fkjax.base import UserError

_KEPT = 224 / 256
_INTACT = "replace it by an intact copy"


def decode(
    file: str | os.PathLike[str] | IO[bytes],
    name: str,
    *,
    image_size: int,
    channels: int = 3,
) -> np.ndarray:
    """Decodes an image and resizes its central square.

    The square's side is 224/256 of the image's shorter side: the usual crop of
    ImageNet, which resizes the shorter side to image_size * 256/224, bilinearly, and
    keeps the centre. Nothing is drawn at random. Transparency, and a rotation noted
    beside the pixels, are ignored.

    Args:
        file: a path or an open file, JPEG or PNG.
        name: what to call it in an error.
        image_size: S.
        channels: 3 for RGB, 1 for grey.

    Returns:
        uint8. Shape [S, S, channels].

    Raises:
        UserError: if it cannot be decoded, or has too many pixels to be decoded safely.
    """
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS
    try:
        with Image.open(file, formats=("JPEG", "PNG")) as image:
            if most is not None and image.width * image.height > most:
                raise _too_large(name, f"{image.width} x {image.height}", most)
            return _central_square(image, name, image_size, channels)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, "too many", most) from None
    except Exception as error:  # Pillow raises errors of many kinds; each is told
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name} could not be read as a JPEG or PNG image ({first_line}); {_INTACT}"
        ) from error


def _central_square(image: Any, name: str, size: int, channels: int) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # which Pillow would clip at 255
        raise UserError(
            f"{name} has more than 8 bits a pixel (mode {image.mode}); save it with 8"
        )
    side = min(image.size) * _KEPT
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.convert("RGB" if channels == 3 else "L").resize(
        (size, size),
        Image.Resampling.BILINEAR,
        # Not a resize of the whole: of a long narrow image that may fill the memory.
        box=(left, top, left + side, top + side),
    )
    return np.asarray(square, np.uint8).reshape(size, size, channels)


def _too_large(name: str, pixels: str, most: int | None) -> UserError:
    return UserError(
        f"{name} has {pixels} pixels, more than the {most} that are decoded safely; "
        "replace it by a smaller one"
    )
