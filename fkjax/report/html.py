"""Templates of HTML pages, and small images embedded in them."""

import base64
import importlib.resources
import io

import jinja2
import markupsafe
import numpy as np

from fkjax.base import printable

_LARGEST = 96  # pixels of the longer side


def thumbnail(image: np.ndarray) -> str:
    """Encodes an image as a PNG data URI, shrunk if it is large.

    Args:
        image: gray image, or red, green, blue and further channels, which are ignored.
            Shape [H, W, channels] uint8.
    """
    from PIL import Image

    pixels = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    picture = Image.fromarray(pixels)
    picture.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def environment() -> jinja2.Environment:
    """Returns a Jinja environment of the package's templates.

    Values are escaped, and control characters in strings are replaced.
    """
    files = importlib.resources.files("fkjax.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: files.joinpath(name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> markupsafe.Markup:
    """Allows line breaks after the underscores of a name."""
    return markupsafe.Markup("_<wbr>").join(map(markupsafe.escape, name.split("_")))
