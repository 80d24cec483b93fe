"""One JPEG or PNG file as pixels: decoded, cropped and resized."""

import io
import os
from typing import IO, Any

import numpy as np

from fkjax.base import UserError
from fkjax.files.opening import open_file

MAX_FILE_BYTES = 256 << 20
"""The largest image file that is read."""

MAX_SCANS = 100
"""The most scans of a JPEG file. A progressive one has about 10; each may be as short
as a few bytes, and is a pass over all pixels."""

IMAGENET_CROP = 224 / 256
"""The share of the shorter side that the usual crop of ImageNet keeps."""

_INTACT = "replace it by an intact copy"


def decode(
    file: str | os.PathLike[str] | IO[bytes],
    name: str,
    *,
    image_size: int,
    channels: int = 3,
    crop: float = IMAGENET_CROP,
) -> np.ndarray:
    """Decodes an image and resizes its central square.

    The square's side is by default 224/256 of the image's shorter side: the usual crop
    of ImageNet, which resizes the shorter side to image_size * 256/224, bilinearly, and
    keeps the centre. Nothing is drawn at random. Transparency, and a rotation noted
    beside the pixels, are ignored. Grey, palette, CMYK and black-and-white images are
    converted; of 16 bits a colour the upper 8 are kept, but 16 bits of grey are
    refused. Of several pictures in a file the first counts.

    Args:
        file: a path, or an open file that is read from its beginning, JPEG or PNG.
        name: what to call it in an error.
        image_size: S.
        channels: 3 for RGB, 1 for grey.
        crop: the square's side, as a share of the image's shorter side.

    Returns:
        uint8. Shape [S, S, channels].

    Raises:
        UserError: if it is neither a JPEG nor a PNG file, whatever its name says, or
            cannot be decoded, or is too large to be decoded safely: a file of more than
            `MAX_FILE_BYTES` or `MAX_SCANS`, or of more pixels than Pillow's
            `MAX_IMAGE_PIXELS`.
    """
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS
    try:
        data = _contents(file, name)
        # No other decoder is reached, whatever the file is.
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.format != "PNG" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
                raise UserError(
                    f"{name} has {scans} scans, more than the {MAX_SCANS} that are "
                    "decoded safely; save it with fewer"
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
            f"{name} could not be read as a JPEG or PNG image (it begins as neither "
            f"does); {_INTACT}"
        ) from None
    except Exception as error:  # Pillow raises errors of many kinds; each is told
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
            f"{name} has more than the {MAX_FILE_BYTES} bytes that are read of an "
            "image; replace it by a smaller one"
        )
    return data


def _central_square(
    image: Any, name: str, size: int, channels: int, crop: float
) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # which Pillow would clip at 255
        raise UserError(
            f"{name} has more than 8 bits a pixel (mode {image.mode}); save it with 8"
        )
    side = min(image.size) * crop
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
