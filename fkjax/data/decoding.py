"""Decoding of image files to cropped and resized images."""

import contextlib
import io
import os
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from fkjax.base import UserError
from fkjax.files.opening import open_file

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""The suffixes of the names of image files, in lower case."""

MAX_FILE_BYTES = 256 << 20
"""The size in bytes of the largest image file that is read."""

MAX_SCANS = 100
"""The maximum number of scans of a JPEG file.

A progressive file has about 10. A scan can be as short as a few bytes, but decoding it
takes a pass over all pixels.
"""

IMAGENET_CROP = 224 / 256
"""The share of the shorter side that the customary crop of ImageNet keeps."""

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
_FORMATS_TEXT = "JPEG, PNG, WebP, TIFF or BMP"
_INTACT = "replace it by an undamaged copy"
_CONVERTED = f"convert it to {_FORMATS_TEXT}, or replace it"

_SHOWN = 20  # images in one message

_STARTS = {
    b"GIF8": "a GIF image",
    b"8BPS": "a Photoshop image",
    b"\xff\x0a": "a JPEG XL image",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL image",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000 image",
    b"\x00\x00\x01\x00": "an ICO image",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<svg": "an SVG image",
    b"<?xml": "an XML file",
    b"version https://git-lfs": "a pointer of Git LFS",
    b"\x1f\x8b": "a gzip file",
    b"pk\x03\x04": "a ZIP file",
}
"""What files of other formats start with, in lower case where they are text."""

_BRANDS = {
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"mif1": "a HEIC image",
    b"avif": "an AVIF image",
}
"""The brands of ISO media files; others are videos."""

_ORIENTATION = 0x0112  # tags of EXIF and TIFF
_BITS, _PHOTOMETRIC, _SUBFILE, _OLD_SUBFILE = 258, 262, 254, 255


class ImageError(UserError):
    """Raised for an image file that cannot be used.

    Attributes:
        flaw: the message without what to do.
    """

    def __init__(self, name: str, what: str, advice: str, *, is_unread: bool = False):
        """Creates the error.

        Args:
            name: name of the image.
            what: a verb and an object that follow the name; if `is_unread`, the cause.
            advice: advice on what to do.
            is_unread: whether the contents could not be read as an image.
        """
        self.flaw = f"{name} ({what})" if is_unread else f"{name} {what}"
        if is_unread:
            what = f"could not be read as a {_FORMATS_TEXT} image ({what})"
        super().__init__(f"{name} {what}; {advice}")


def combined(errors: Sequence[UserError]) -> UserError:
    """Returns one error for several images that cannot be used.

    Args:
        errors: the errors, at least one; the message lists the first 20.
    """
    if len(errors) == 1:
        return errors[0]
    flaws = [getattr(error, "flaw", str(error)) for error in errors[:_SHOWN]]
    more = len(errors) - _SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    return UserError(
        f"{len(errors)} images cannot be used: {'; '.join(flaws)}{rest}: convert them "
        f"to {_FORMATS_TEXT}, replace them by undamaged copies, or remove them"
    )


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

    Images are decoded as a web browser displays them on a white page: transparent
    pixels are blended with white, and the image is rotated and mirrored as the EXIF
    orientation says. Color profiles are ignored. Grayscale, palette, CMYK and
    black-and-white images are converted. Of values with 16 bits, the upper 8 bits are
    kept. Of an animation and of a JPEG file with several images, the first image is
    decoded; TIFF files with several pages are rejected.

    Args:
        file: path of a JPEG, PNG, WebP, TIFF or BMP file, or an open file, which is
            read from its start.
        name: name of the image in messages.
        image_size: height and width of the result, S.
        channels: number of channels, 3 for RGB or 1 for grayscale.
        crop: side of the square, as a share of the shorter side of the image.

    Returns:
        The image. Shape [S, S, channels] uint8.

    Raises:
        ImageError: if the contents have another format, cannot be decoded, or are too
            large to be decoded safely: more than `MAX_FILE_BYTES`, `MAX_SCANS` or
            Pillow's `MAX_IMAGE_PIXELS`.
    """
    from PIL import Image

    most, data = Image.MAX_IMAGE_PIXELS, b""
    try:
        data = _contents(file, name)
        # No other decoder of Pillow is used, whatever the contents of the file are.
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            is_jpeg = image.format in ("JPEG", "MPO")
            if is_jpeg and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
                raise ImageError(
                    name,
                    f"has {scans} scans, more than the maximum of {MAX_SCANS}",
                    "save it with fewer",
                )
            if most is not None and image.width * image.height > most:
                raise _too_large(name, f"{image.width} x {image.height}", most)
            if image.format == "TIFF" and _has_pages(image):
                raise ImageError(
                    name, "has several pages", "save each page as an image"
                )
            return _central_square(image, name, image_size, channels, crop)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, "too many", most) from None
    except Image.UnidentifiedImageError:
        what, advice = _other_format(data)
        raise ImageError(name, what, advice, is_unread=True) from None
    except Exception as error:  # Pillow raises many kinds of errors
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImageError(name, first_line, _INTACT, is_unread=True) from error


def _contents(file: str | os.PathLike[str] | IO[bytes], name: str) -> bytes:
    if isinstance(file, (str, os.PathLike)):
        with open_file(file) as opened:
            return _contents(opened, name)
    file.seek(0)
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(
            name,
            f"has more than {MAX_FILE_BYTES} bytes, the maximum size of an image file",
            "replace it by a smaller one",
        )
    return data


def _other_format(data: bytes) -> tuple[str, str]:
    """Returns what a file is that is not of the formats, and what to do."""
    if not data:
        return "it is empty", _INTACT
    if data[4:8] == b"ftyp":
        return f"it is {_BRANDS.get(data[8:12], 'a video')}", _CONVERTED
    text = data[:100].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, what in _STARTS.items():
        if data.startswith(start) or text.startswith(start):
            return f"it is {what}", _CONVERTED
    return "it does not start like one", _INTACT


def _has_pages(image: Any) -> bool:
    """Returns whether the second image of a TIFF file is more than a copy or a mask."""
    if not image.is_animated:
        return False
    try:
        image.seek(1)
        kind, old_kind = (image.tag_v2.get(tag) for tag in (_SUBFILE, _OLD_SUBFILE))
    except Exception:  # as above; the first image is intact or reported later
        return False
    finally:
        image.seek(0)
    return not (kind or 0) & 0b101 and old_kind != 2


def _central_square(
    image: Any, name: str, size: int, channels: int, crop: float
) -> np.ndarray:
    from PIL import Image

    image = _upright_with_8_bits(image, name)
    side = min(image.size) * crop
    left, top = (image.width - side) / 2, (image.height - side) / 2
    mode = "RGB" if channels == 3 else "L"
    blended = _with_transparency(image)
    square = (blended or image.convert(mode)).resize(
        (size, size),
        Image.Resampling.BILINEAR,
        # The whole is not resized: for a long, narrow image, it could fill the memory.
        box=(left, top, left + side, top + side),
    )
    if blended is not None:
        white = Image.new("RGBA", square.size, "white")
        square = Image.alpha_composite(white, square).convert(mode)
    return np.asarray(square, np.uint8).reshape(size, size, channels)


def _with_transparency(image: Any) -> Any:
    """Returns an image as RGBA, or None if no pixel is transparent."""
    if not image.has_transparency_data:
        return None
    converted = image.convert("RGBA")
    low, high = converted.getchannel("A").getextrema()
    # In BMP files, the fourth byte is often unused, and 0.
    is_opaque = low == 255 or (high == 0 and image.format == "BMP")
    if is_opaque:
        image.info.pop("transparency", None)  # of which Pillow would warn
        return None
    return converted


def _upright_with_8_bits(image: Any, name: str) -> Any:
    """Loads an image, applies its orientation, and reduces 16 bits of gray to 8."""
    from PIL import Image

    mode = image.mode
    # Some versions of Pillow have this mode for grayscale PNG files with 16 bits.
    is_deep = mode.startswith("I;16") or (mode == "I" and image.format == "PNG")
    if mode.startswith(("I", "F")) and not is_deep:  # its range of values is unknown
        raise ImageError(
            name,
            f"has values of more than 16 bits or with a sign or fraction (mode {mode})",
            "save it with 8 or 16 bits",
        )
    clear = image.info.get("transparency")
    if clear is not None and image.format == "PNG" and image.tile:
        image.info["transparency"] = clear = _clear_color(clear, image.tile[0][3])
    image.load()
    tags = getattr(image, "tag_v2", {})
    image = _upright(image)
    if not is_deep:
        return image
    deep = np.asarray(image).astype(np.uint16)
    bits = (*tags.get(_BITS, ()), 16)[0]
    if tags.get(_PHOTOMETRIC) == 0:  # white is 0, which Pillow does not invert
        deep = deep ^ np.uint16(2**bits - 1)
    gray = Image.fromarray((deep >> (bits - 8)).astype(np.uint8))
    if clear is not None:
        gray.putalpha(Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8)))
    return gray


def _clear_color(color: Any, raw_mode: Any) -> Any:
    """Scales the transparent color of a PNG file as Pillow scales its pixels."""
    scale = {"L;2": 85, "L;4": 17}.get(str(raw_mode))
    if scale and isinstance(color, int):
        return color * scale
    if raw_mode == "RGB;16B" and isinstance(color, tuple):
        return tuple(value >> 8 for value in color)
    return color


def _upright(image: Any) -> Any:
    """Returns an image as its EXIF orientation says; Pillow does it for TIFF files."""
    from PIL.Image import Transpose

    orientation: Any = None
    with contextlib.suppress(Exception):  # a damaged EXIF part, which browsers ignore
        orientation = image.getexif().get(_ORIENTATION)
    method = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if method is None else image.transpose(method)


def _too_large(name: str, pixels: str, most: int | None) -> ImageError:
    return ImageError(
        name,
        f"has {pixels} pixels, more than the maximum of {most}",
        "replace it by a smaller one",
    )
