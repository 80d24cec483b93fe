"""Small pictures that a page holds in itself."""

import base64
import importlib.resources
import io

import jinja2
import markupsafe
import numpy as np

from fkjax.base import printable

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


def environment() -> jinja2.Environment:
    """Finds the package's templates, and makes what is put into them harmless."""
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
    """A name that may be broken after an underscore."""
    return markupsafe.Markup("_<wbr>").join(map(markupsafe.escape, name.split("_")))
