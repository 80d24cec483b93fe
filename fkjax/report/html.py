"""Small pictures that a page holds in itself."""

import base64
import io

import numpy as np

_LARGEST = 96  # pixels: the longer side


def thumbnail(image: np.ndarray) -> str:
    """A PNG file, as a data URI, of an image that is made smaller if it is large.

    Args:
        image: grey, or red, green, blue and perhaps more. Shape [H, W, channels] uint8.
    """
    from PIL import Image

    pixels = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    picture = Image.fromarray(pixels)
    picture.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
