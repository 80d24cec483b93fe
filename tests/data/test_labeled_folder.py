"""A folder of images and a CSV file of labels: reading and error messages."""

import os
import random

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fkjax.base import UserError
from fkjax.data import labeled_folder as own_images
from fkjax.data.labeled_folder import (
    flaw_of_class,
    list_images,
    load_images,
    natural,
    read_own_images,
)
from fkjax.parallel.examples import Streamed, take

NAMES = ["10.png", "9.jpg", "a/b/c.JPEG", "a/x.png", "z.jpeg"]
LABELS = "file,label,set\n10.png,cat10,\na/x.png,cat9,train\n9.jpg,cat9,validation\n"


@pytest.fixture
def folder(tmp_path):
    """Gray PNG and JPEG files of 12 x 8 pixels, each of a different gray level."""
    home = tmp_path / "my images"
    for i, name in enumerate(NAMES):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 8), 20 * i).save(path)
    return home


@pytest.fixture
def labels(tmp_path):
    def write(text):
        path = tmp_path / "labels.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_every_image_has_its_part(folder, labels):
    for clutter in (".hidden.png", "a/.DS_Store", "a/notes.txt", ".git/x.png"):
        (folder / clutter).parent.mkdir(exist_ok=True)
        (folder / clutter).write_text("")
    own = read_own_images(folder, labels(LABELS), image_size=4)
    assert own.names == NAMES
    parts = (own.pool, own.validation, own.train, own.test)
    assert [part.tolist() for part in parts] == [[2, 4], [0, 1], [3], []]
    assert own.classes == ["cat9", "cat10"]
    assert own.labels.tolist() == [1, 0, -1, 0, -1] and own.labels.dtype == np.int32
    assert own.images.shape == (5, 4, 4, 1) and own.images.dtype == np.uint8
    np.testing.assert_array_equal(own.images[:, 0, 0, 0], [0, 20, 40, 60, 80])
    np.testing.assert_allclose(own.mean, [40 / 255])
    assert read_own_images(folder, labels(LABELS)).images.shape == (5, 224, 224, 1)


def test_a_column_split_is_the_column_set(folder, labels):
    text = LABELS.replace("set", "split").replace("validation", "val")
    own, expected = (list_images(folder, labels(t)) for t in (text, LABELS))
    assert own.train.tolist() == expected.train.tolist() == [3]
    assert own.validation.tolist() == expected.validation.tolist()
    with pytest.raises(UserError, match="the column fold seems to name the set"):
        list_images(folder, labels(LABELS.replace("set", "fold")))
    for name in ("set", "split"):
        text = f"file,label,{name},{name}\n10.png,a,train,test\n"
        with pytest.raises(UserError, match=f"one column {name}, but has 2"):
            list_images(folder, labels(text))
    said, text = [], "file,label,width,note\n10.png,a,8,\n9.jpg,b,8,\n"
    list_images(folder, labels(text), notify=said.append)
    assert len(said) == 1 and "ignored the columns width, note of" in said[0]


def test_an_image_of_that_size_is_taken_pixel_by_pixel(folder, labels):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "10.png")
    own = read_own_images(folder, labels(LABELS), image_size=6)
    assert own.images.shape == (5, 6, 6, 3)  # one is in color
    np.testing.assert_array_equal(own.images[0], pixels)
    assert (own.images[1] == 20).all()


def test_more_than_fits_in_memory_is_streamed(folder, labels, monkeypatch):
    expected = read_own_images(folder, labels(LABELS), image_size=4)
    seen = []
    read_own_images(
        folder, labels(LABELS), image_size=4, tell=lambda *now: seen.append(now)
    )
    assert seen == [(i, 5) for i in range(1, 6)]
    monkeypatch.setattr(own_images, "MEMORY", 5 * 4 * 4 * 3 - 1)
    own = read_own_images(folder, labels(LABELS), image_size=4)
    assert isinstance(own.images, Streamed)
    assert own.mean == (0.485, 0.456, 0.406)
    images = np.asarray(take(own.images[own.pool], jnp.arange(2)))
    np.testing.assert_array_equal(images[..., :1], expected.images[own.pool])


def test_links_are_followed_within_the_folder(folder, labels, tmp_path):
    (folder / "again.png").symlink_to("a/x.png")
    (folder / "b").symlink_to("a")
    names = list_images(folder, labels(LABELS)).names
    assert names == sorted([*NAMES, "again.png", "b/b/c.JPEG", "b/x.png"])
    (tmp_path / "link").symlink_to(folder)
    assert list_images(tmp_path / "link", labels(LABELS)).names == names


@pytest.mark.parametrize("to", ["..", ".", "a", "nowhere", "/etc/hostname"])
def test_links_that_lead_out_or_round_are_refused(folder, labels, to):
    (folder / "a" / "out.png").symlink_to(folder / to)
    with pytest.raises(UserError, match="a/out.png"):
        list_images(folder, labels(LABELS))


def test_names_of_files_may_be_written_otherwise(folder, labels):
    Image.new("L", (8, 8)).save(folder / "=1.png")
    text = "label,file\nb,./10.png\na,a\\x.png\nb,'=1.png\n"
    own = list_images(folder, labels(text))
    assert [own.names[i] for i in own.validation] == ["10.png", "=1.png", "a/x.png"]


def test_names_and_classes_that_look_the_same_are_the_same(folder, labels):
    decomposed, composed = "cre\u0300me.png", "cr\u00e8me.png"
    for name in (decomposed, "a b.PNG", " c.png"):
        Image.new("L", (8, 8)).save(folder / name)
    own = list_images(
        folder,
        labels(f"file,label\n{composed},caf\u00e9\na%20b.png,cafe\u0301\nc.png,d\n"),
    )
    found = {own.names[i]: own.classes[own.labels[i]] for i in own.validation}
    assert found == {decomposed: "caf\u00e9", "a b.PNG": "caf\u00e9", " c.png": "d"}
    assert own.classes == ["caf\u00e9", "d"]


def test_names_that_can_be_two_images_are_refused(folder, labels):
    for name in ("E.png", "e.PNG"):
        Image.new("L", (8, 8)).save(folder / name)
    own = list_images(folder, labels("file,label\nE.png,a\ne.PNG,b\n"))
    assert [own.names[i] for i in own.validation] == ["E.png", "e.PNG"]
    with pytest.raises(UserError, match=r"no image e.png \(it can be E.png or e.PNG: "):
        list_images(folder, labels("file,label\ne.png,a\n9.jpg,b\n"))
    Image.new("L", (8, 8)).save(folder / " e.PNG")
    with pytest.raises(UserError, match="differ only in surrounding spaces"):
        list_images(folder, labels(LABELS))


def test_all_problems_of_the_file_are_told_at_once(folder, labels):
    text = LABELS + (
        "x.png,dog,\nno.png,cat9,\n10.png,cat9,\nz.jpeg,,\na/b/c.JPEG,cat9,tset\n,cat,\n"
    )
    with pytest.raises(UserError) as told:
        list_images(folder, labels(text))
    said = str(told.value)
    for part in (
        "line 5: there is no image x.png (did you mean a/x.png?)",
        "line 6: there is no image no.png;",
        "line 7: 10.png is in line 2, too",
        "line 8: the label of z.jpeg is empty",
        "line 9: the set 'tset' is not one of validation, train, test",
        "line 10: there is no image (no name)",
        "contains all images, so that none is left as the pool",
    ):
        assert part in said
    assert said.count("line") == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,set\n", "label is missing"),
        ("file,label\n", "no line after the first"),
        ("file,label\n9.jpg,a\n", r"has 1 class\(es\)"),
        ("file,label,set\n9.jpg,a\n10.png,b,train\n", r"has 1 class\(es\)"),
        ("file,label\n9.jpg,a\n10.png,\x07\n", "cannot be displayed"),
        (b"file,label\n9.jpg,\xff\n", "must be UTF-8, but line 2"),
    ],
)
def test_what_is_wrong_with_the_file_is_told(folder, labels, text, said):
    with pytest.raises(UserError, match=said):
        list_images(folder, labels(text))


def test_a_folder_without_images_is_told(tmp_path, labels):
    with pytest.raises(UserError, match="could not read"):
        list_images(tmp_path / "none", labels(LABELS))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no .jpg, .* file: give"):
        list_images(tmp_path / "empty", labels(LABELS))
    os.mkfifo(tmp_path / "empty" / "a.png")
    with pytest.raises(UserError, match="not a regular file"):
        list_images(tmp_path / "empty", labels(LABELS))


def test_damaged_images_are_told_and_counted(folder, labels):
    listing = list_images(folder, labels(LABELS))
    for name in ("9.jpg", "z.jpeg"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(UserError, match="2 images cannot be used: ") as told:
        load_images(listing, image_size=4)
    assert "9.jpg (it does not start" in str(told.value)
    assert "z.jpeg (it does not start" in str(told.value)


def test_damaged_streamed_images_are_told_together(folder, labels, monkeypatch):
    monkeypatch.setattr(own_images, "MEMORY", 0)
    own = read_own_images(folder, labels(LABELS), image_size=4)
    for name in ("9.jpg", "z.jpeg"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(UserError, match="2 images cannot be used: .*9.jpg.*z.jpeg"):
        own.images.source.read(np.arange(5), np.arange(0))


def test_more_kinds_of_images_are_listed(folder, labels):
    for name in ("b.webp", "c.TIFF", "d.tif", "e.bmp", "f.jfif"):
        form = "JPEG" if name == "f.jfif" else None
        Image.new("L", (8, 8), 7).save(folder / name, form)
    own = read_own_images(folder, labels(LABELS), image_size=4)
    assert own.names == sorted([*NAMES, "b.webp", "c.TIFF", "d.tif", "e.bmp", "f.jfif"])
    assert abs(own.images[own.names.index("b.webp")].astype(int) - 7).max() <= 2


def test_files_that_are_left_out_are_counted_by_kind(folder, labels):
    told = []
    list_images(folder, labels(LABELS), notify=told.append)
    assert not told
    for name in ("a.heic", "a/b.HEIC", "c.gif", "a/README", "Thumbs.db", ".x.gif"):
        (folder / name).touch()
    path = folder / "labels.csv"
    path.write_text(LABELS)
    list_images(folder, path, notify=told.append)
    (sentence,) = told
    assert sentence.startswith(f"left out 4 files of {folder} that are not .jpg, ")
    assert sentence.endswith(": 2 .heic, 1 .gif, 1 without a suffix")


def test_a_folder_of_other_kinds_only_is_told_with_them(tmp_path, labels):
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.HEIC").touch()
    with pytest.raises(
        UserError, match="contains no .jpg, .* file, only 1 .heic: give"
    ):
        list_images(tmp_path / "phone", labels(LABELS))


def test_the_natural_order_takes_numbers_as_numbers():
    ordered = ["", "0", "1", "01", "2", "10", "1" + "0" * 5000, "a", "a1b", "a9", "a10"]
    shuffled = ordered[:]
    random.Random(0).shuffle(shuffled)
    assert sorted(shuffled, key=natural) == [*ordered[:2], "01", "1", *ordered[4:]]


def test_classes_that_no_cell_can_hold_are_refused():
    assert flaw_of_class("großer Hund") is flaw_of_class("=x") is None
    for name in ("", "a\nb", "'=x", "\x1b[31m"):
        assert flaw_of_class(name)
