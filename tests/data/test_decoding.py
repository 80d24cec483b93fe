import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fkjax.base import UserError
from fkjax.data.decoding import MAX_SCANS, combined, decode

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def encoded(pixels, form="png", mode=None):
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form)
    file.seek(0)
    return file


def decoded(file, size=16, **options):
    return decode(file, "x.png", image_size=size, **options)


def test_an_image_of_the_right_scale_is_cropped_exactly():
    np.testing.assert_array_equal(decoded(encoded(NOISE), 56), NOISE[4:60, 4:60])


def test_it_is_the_usual_resize_and_crop():
    # A smooth image, so that the edges of the crop, where a resize of the whole image
    # also uses the pixels beyond, differ little.
    y, x = np.mgrid[:256, :320]
    waves = 127 + 120 * np.sin(np.stack([x / 9, y / 11, (x + y) / 13], axis=-1))
    pixels = waves.astype(np.uint8)
    whole = Image.fromarray(pixels).resize((80, 64), Image.Resampling.BILINEAR)
    usual = np.asarray(whole.crop((12, 4, 68, 60)))
    got = decoded(encoded(pixels), 56)
    np.testing.assert_array_equal(got[1:-1, 1:-1], usual[1:-1, 1:-1])
    np.testing.assert_allclose(got.astype(int), usual.astype(int), atol=12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (7, 300), (300, 7)])
def test_any_shape_gives_a_square(shape):
    got = decoded(encoded(np.full((*shape, 3), [7, 80, 200], np.uint8)))
    np.testing.assert_array_equal(got, np.tile([7, 80, 200], (16, 16, 1)))
    assert got.dtype == np.uint8


@pytest.mark.parametrize(
    ("form", "mode"),
    [(f, m) for m in ("L", "RGB", "1") for f in ("png", "jpeg")]
    + [("png", "P"), ("png", "RGBA"), ("png", "LA"), ("jpeg", "CMYK")],
)
def test_any_mode_gives_rgb_or_grey(form, mode):
    grey = np.full((32, 32, 3), 255, np.uint8)
    for channels in (1, 3):
        got = decoded(encoded(grey, form, mode), channels=channels)
        assert got.shape == (16, 16, channels) and got.min() >= 254


def test_jpeg_is_decoded():
    y, x = np.mgrid[:64, :64]
    pixels = np.stack([4 * x, 4 * y, 0 * x], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95)
    got = decoded(file, 56)
    np.testing.assert_allclose(got.astype(int), pixels[4:60, 4:60].astype(int), atol=12)


def cut(data, where=0.5):
    return data[: int(len(data) * where)]


def flipped(data):
    """Changes the first bit of the compressed pixels."""
    i = data.index(b"IDAT") + 4
    return data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]


PNG, JPEG, BMP, TIFF, WEBP = (
    encoded(NOISE, form).getvalue() for form in ("png", "jpeg", "bmp", "tiff", "webp")
)


@pytest.mark.parametrize(
    "data",
    [b"", b"no image", cut(PNG), cut(JPEG), cut(PNG, 0.01), cut(JPEG, 0.1)]
    + [flipped(PNG), cut(BMP), cut(BMP, 0.99), cut(WEBP), cut(WEBP, 0.99), cut(TIFF)],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_file_is_named(data):
    with pytest.raises(UserError, match="x.png could not be read as a JPEG") as caught:
        decoded(io.BytesIO(data))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="x.png could not be read .*No such file"):
        decoded(tmp_path / "gone.png")


@pytest.mark.parametrize("most", [4095, 2000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_not_decoded(monkeypatch, most):
    assert decoded(encoded(NOISE)).shape == (16, 16, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    message = f"x.png has .* pixels, more than the maximum of {most};"
    with pytest.raises(UserError, match=message):
        decoded(encoded(NOISE))


@pytest.mark.parametrize(
    ("form", "what"),
    [
        ("gif", "is a GIF image"),
        ("ico", "is an ICO image"),
        ("ppm", "does not start like one"),
        ("eps", "is a PostScript document"),
    ],
)
def test_no_other_decoder_is_reached_by_another_name(form, what):
    with pytest.raises(UserError, match=f"x.png could not be read .* .it {what}"):
        decoded(encoded(NOISE, form))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b" \n<HTML>404</HTML>", "is an HTML page"),
        (b"\xef\xbb\xbf<!DOCTYPE html><p>", "is an HTML page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is a HEIC image"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "is an AVIF image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "is a video"),
        (b"PK\x03\x04....", "is a ZIP file"),
        (b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS"),
    ],
)
def test_a_file_of_another_format_is_described(data, what):
    with pytest.raises(UserError, match=f"x.png could not be read .*.it {what}.; "):
        decoded(io.BytesIO(data))


@pytest.mark.parametrize("form", ["bmp", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_other_lossless_formats_give_the_same_pixels(form, mode):
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, form, lossless=True)
    np.testing.assert_array_equal(decoded(file), decoded(encoded(NOISE, mode=mode)))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_files_are_read(compression):
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "tiff", compression=compression)
    np.testing.assert_array_equal(decoded(file), decoded(encoded(NOISE)))


def test_a_tiff_file_of_several_pages_is_refused_and_its_thumbnail_is_not():
    page, file = Image.fromarray(NOISE), io.BytesIO()
    page.save(file, "tiff", save_all=True, append_images=[page])
    with pytest.raises(UserError, match="x.png has several pages; save each page"):
        decoded(file)
    small, file = page.resize((8, 8)), io.BytesIO()
    small.encoderinfo = {"tiffinfo": {254: 1}}
    page.save(file, "tiff", save_all=True, append_images=[small])
    np.testing.assert_array_equal(decoded(file), decoded(encoded(NOISE)))


def test_the_bytes_of_a_scan_in_other_formats_are_pixels():
    pixels = np.tile(np.array([0xFF, 0xDA, 0xFF], np.uint8), (64, 64, 1))
    pixels[:, 1::2] = [0xDA, 0xFF, 0xDA]
    for form in ("bmp", "tiff"):
        got = decoded(encoded(pixels, form))
        np.testing.assert_array_equal(got, decoded(encoded(pixels)))


def test_a_jpeg_file_of_many_scans_is_not_decoded():
    """Each scan is a few bytes, but takes a pass over all pixels."""
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "jpeg", progressive=True)
    data = file.getvalue()
    scans = data.count(b"\xff\xda")
    last = data[data.rindex(b"\xff\xda") : -2]
    allowed = data[:-2] + last * (MAX_SCANS - scans) + data[-2:]
    assert decoded(io.BytesIO(allowed)).shape == (16, 16, 3)
    with pytest.raises(UserError, match="x.png has 101 scans, more than .* of 100;"):
        decoded(io.BytesIO(allowed[:-2] + last + data[-2:]))
    png = io.BytesIO(PNG + b"\xff\xda" * 101)  # has no meaning in PNG files
    assert decoded(png).shape == (16, 16, 3)


def test_a_large_file_is_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr("fkjax.data.decoding.MAX_FILE_BYTES", len(PNG))
    (tmp_path / "whole").write_bytes(PNG)
    (tmp_path / "large").write_bytes(PNG + b"1")
    assert decoded(tmp_path / "whole").shape == (16, 16, 3)
    with pytest.raises(UserError, match=f"x.png has more than {len(PNG)} bytes"):
        decoded(tmp_path / "large")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="x.png could not be read .*not a regular file"):
        decoded(tmp_path / "pipe")


def turned(pixels, orientation):
    """The pixels as a viewer shows them, by the definition of the tag in EXIF."""
    if orientation > 4:  # rows are columns
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["png", "webp", "tiff", "jpeg"])
def test_the_orientation_is_applied(form, orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    pixels = NOISE[:, :48]
    Image.fromarray(pixels).save(file, form, exif=exif, lossless=True)
    got = decoded(file)
    if form == "jpeg":
        plain = np.asarray(Image.open(encoded(pixels, "jpeg")))
        np.testing.assert_array_equal(got, decoded(encoded(turned(plain, orientation))))
    else:
        np.testing.assert_array_equal(
            got, decoded(encoded(turned(pixels, orientation)))
        )


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_exif_part_is_ignored(exif):
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "jpeg", exif=exif)
    np.testing.assert_array_equal(decoded(file), decoded(encoded(NOISE, "jpeg")))


def over_white(rgba):
    """RGBA pixels over a white page, by the definition of alpha."""
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


@pytest.mark.parametrize("form", ["png", "webp", "tiff"])
def test_transparent_pixels_are_blended_with_white(form):
    alpha = np.random.default_rng(1).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    pixels = np.concatenate([NOISE, alpha], axis=2)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, lossless=True, exact=True)
    got = decoded(file, 64, crop=1.0).astype(int)
    np.testing.assert_allclose(got, over_white(pixels), atol=1)
    small = decoded(encoded(over_white(pixels)), 16).astype(int)
    np.testing.assert_allclose(decoded(file).astype(int), small, atol=2)
    gray = decoded(file, channels=1).astype(int)
    expected = decoded(encoded(over_white(pixels)), channels=1).astype(int)
    np.testing.assert_allclose(gray, expected, atol=2)


@pytest.mark.parametrize(("alpha", "gray"), [(0, 9), (51, 206)])
def test_an_alpha_channel_of_zeros_in_a_bmp_file_is_unused(alpha, gray):
    header = struct.pack("<I2i2H6I", 108, 1, 1, 1, 32, 3, 4, 1, 1, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    start = struct.pack("<2s3I", b"BM", 122 + 4, 0, 122)
    file = io.BytesIO(start + header + bytes([9, 9, 9, alpha]))
    assert Image.open(file).mode == "RGBA"
    got = decoded(file, 1, crop=1.0).astype(int)
    np.testing.assert_allclose(got, np.full((1, 1, 3), gray), atol=1)


def test_shapes_on_a_transparent_ground_differ():
    shapes = []
    for draw in (ImageDraw.ImageDraw.ellipse, ImageDraw.ImageDraw.rectangle):
        image, file = Image.new("RGBA", (32, 32)), io.BytesIO()
        draw(ImageDraw.Draw(image), (4, 4, 28, 28), fill="black")
        image.save(file, "png")
        shapes.append(decoded(file, 32, crop=1.0))
        assert shapes[-1][0, 0].tolist() == [255] * 3
        assert shapes[-1][16, 16].tolist() == [0] * 3
    assert (shapes[0] != shapes[1]).any()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_opaque_images_with_an_alpha_channel_are_as_without(mode):
    opaque, file = Image.fromarray(NOISE).convert(mode), io.BytesIO()
    opaque.save(file, "png", **({"transparency": b"\xff" * 256} if mode == "P" else {}))
    plain = encoded(np.asarray(opaque.convert("L" if mode == "LA" else "RGB")))
    for channels in (1, 3):
        np.testing.assert_array_equal(
            decoded(file, channels=channels), decoded(plain, channels=channels)
        )


@pytest.mark.parametrize("transparency", [1, bytes([255, 0]), bytes([255, 128])])
def test_palettes_may_have_transparent_colors(transparency):
    image, file = Image.new("P", (32, 32), 0), io.BytesIO()
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.paste(1, (0, 0, 16, 32))
    image.save(file, "png", transparency=transparency)
    got = decoded(file, 32, crop=1.0)
    half = isinstance(transparency, bytes) and transparency[1] == 128
    left = over_white(np.array([[[200, 0, 0, 128 if half else 0]]], np.uint8))[0, 0]
    np.testing.assert_allclose(got[5, 5].astype(int), left, atol=1)
    assert got[5, 25].tolist() == [10, 20, 30]


def raw_png(depth, kind, rows, clear):
    """A PNG file of 1-row images, of a depth and color type, with a clear color."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    width, row = rows
    header = struct.pack(">2I5B", width, 1, depth, kind, 0, 0, 0)
    return io.BytesIO(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("depth", "kind", "row", "clear"),
    [
        (1, 0, b"\x00", [0]),
        (2, 0, b"\x55", [1]),
        (4, 0, b"\x77", [7]),
        (8, 0, b"\x07\x07", [7]),
        (16, 0, b"\x07\x08\x07\x08", [0x708]),
        (8, 2, b"\x01\x02\x03" * 2, [1, 2, 3]),
        (16, 2, b"\x01\x00\x02\x00\x03\x00" * 2, [0x100, 0x200, 0x300]),
    ],
)
def test_one_color_may_be_transparent(depth, kind, row, clear):
    file = raw_png(depth, kind, (2, row), clear)
    assert decoded(file, 1, crop=1.0).tolist() == [[[255] * 3]]
    other = [value + 1 if depth == 16 and kind == 0 else value ^ 1 for value in clear]
    other = [value ^ 256 for value in clear] if (depth, kind) == (16, 2) else other
    file = raw_png(depth, kind, (2, row), other)
    assert decoded(file, 1, crop=1.0).max() < 255


def test_grayscale_with_16_bits_keeps_the_upper_8():
    deep = np.arange(0, 2**16, 16, dtype=np.uint16).reshape(64, 64)
    plain = decoded(encoded((deep >> 8).astype(np.uint8)))
    for form in ("png", "tiff"):
        np.testing.assert_array_equal(decoded(encoded(deep, form)), plain)
    file = io.BytesIO()
    Image.fromarray(deep.astype(">u2")).save(file, "tiff")
    np.testing.assert_array_equal(decoded(file), plain)
    file = io.BytesIO()
    Image.fromarray(65535 - deep).save(file, "tiff", tiffinfo={262: 0})
    if Image.open(file).tag_v2[262] == 0:  # white is 0
        np.testing.assert_array_equal(decoded(file), plain)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_known_range_are_refused(dtype):
    with pytest.raises(UserError, match="x.png has values of more than 16 bits or"):
        decoded(encoded(np.full((32, 32), 1000, dtype), "tiff"))


def test_cmyk_is_ink_on_white():
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255  # cyan
    file = io.BytesIO()
    Image.fromarray(ink, "CMYK").save(file, "tiff")
    assert decoded(file)[8, 8].tolist() == [0, 255, 255]
    file = io.BytesIO()
    Image.fromarray(ink, "CMYK").save(file, "jpeg", quality=95)
    np.testing.assert_allclose(decoded(file)[8, 8].astype(int), [0, 255, 255], atol=4)


def test_several_errors_are_one_message():
    errors = []
    for i in range(22):
        with pytest.raises(UserError) as caught:
            decode(io.BytesIO(b"GIF89a" if i else b""), f"{i}.png", image_size=4)
        errors.append(caught.value)
    assert combined(errors[:1]) is errors[0]
    two = str(combined(errors[:2]))
    assert two.startswith(
        "2 images cannot be used: 0.png (it is empty); 1.png (it is a"
    )
    text = str(combined([*errors, UserError("x")]))
    assert text.startswith("23 images cannot be used: ") and "; and 3 more: " in text
    assert "19.png" in text and "20.png" not in text
