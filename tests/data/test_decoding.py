import io
import os

import numpy as np
import pytest
from PIL import Image

from fkjax.base import UserError
from fkjax.data.decoding import MAX_SCANS, decode

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


PNG, JPEG = encoded(NOISE).getvalue(), encoded(NOISE, "jpeg").getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"no image", cut(PNG), cut(JPEG), cut(PNG, 0.01), cut(JPEG, 0.1)]
    + [flipped(PNG), encoded(NOISE, "bmp").getvalue()],
)
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


@pytest.mark.parametrize("form", ["gif", "tiff", "bmp", "webp", "ico", "ppm", "eps"])
def test_no_other_decoder_is_reached_by_another_name(form):
    with pytest.raises(UserError, match="x.png .* .it does not start like one"):
        decoded(encoded(NOISE, form))


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


def test_a_rotation_noted_beside_the_pixels_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    file, plain = io.BytesIO(), io.BytesIO()
    Image.fromarray(NOISE).save(file, "jpeg", exif=exif)
    Image.fromarray(NOISE).save(plain, "jpeg")
    np.testing.assert_array_equal(decoded(file), decoded(plain))


def test_deeper_pixels_are_refused():
    deep = np.full((32, 32), 1000, np.uint16)
    with pytest.raises(UserError, match="x.png has more than 8 bits per pixel"):
        decoded(encoded(deep))
