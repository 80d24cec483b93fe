"""Image folders, from the list of files to the command line."""

import dataclasses
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fkjax.commands.run
from fkjax.base import UserError
from fkjax.data import splits
from fkjax.data.datasets import load, validate
from fkjax.data.decoding import decode
from fkjax.experiment import play
from fkjax.experiment.config import Config
from fkjax.models import MODELS
from fkjax.parallel.examples import Streamed, take
from tests.tiny import ARCHITECTURE

CLASSES = ("cat", "Dog", "emu")  # sorted: Dog, cat, emu
SUFFIXES = (".png", ".JPEG", ".jpg", ".jpeg", ".PNG")


def write_images(folder, counts, seed):
    """Writes images of different sizes, whose brightness depends on the class."""
    rng = np.random.default_rng(seed)
    for level, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            shape = (*rng.integers(8, 20, 2), 3)
            pixels = rng.integers(0, 60, shape, dtype=np.uint8) + np.uint8(90 * level)
            file = folder / name / f"{i:03}{SUFFIXES[i % len(SUFFIXES)]}"
            Image.fromarray(pixels).save(file)


def make_set(folder, test="val", train=6, num_test=3):
    write_images(folder / "train", dict.fromkeys(CLASSES, train), 0)
    write_images(folder / test, dict.fromkeys(CLASSES, num_test), 1)
    return folder


@pytest.fixture
def pets(tmp_path):
    return make_set(tmp_path / "my-pets.2")


@pytest.mark.parametrize("test", ["val", "test"])
def test_every_image_is_listed_under_its_class_and_decoded_when_taken(tmp_path, test):
    folder = make_set(tmp_path / "pets", test)
    for clutter in ("train/.DS_Store", "train/cat/.hidden", f"{test}/cat/.DS_Store"):
        (folder / clutter).write_text("")
    pets = load("pets", data_dir=tmp_path, image_size=12)
    assert pets.num_classes == 3
    assert (pets.mean, pets.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for part, images, labels in (
        ("train", pets.train_images, pets.train_labels),
        (test, pets.test_images, pets.test_labels),
    ):
        files = [
            (path, label)
            for label, name in enumerate(sorted(CLASSES))
            for path in sorted((folder / part / name).glob("[!.]*"))
        ]
        assert isinstance(images, Streamed) and images.shape == (len(files), 12, 12, 3)
        assert labels.dtype == np.int32
        assert labels.tolist() == [label for _, label in files]
        expected = [decode(path, "", image_size=12) for path, _ in files]
        rows = jnp.arange(len(files))
        np.testing.assert_array_equal(take(images, rows), np.stack(expected))


def test_the_part_that_is_not_used_is_reported(tmp_path):
    folder = make_set(tmp_path / "pets", "val")
    said = []
    load("pets", data_dir=tmp_path, notify=said.append)
    assert not said
    write_images(folder / "test", dict.fromkeys(CLASSES, 2), 2)
    found = load("pets", data_dir=tmp_path, notify=said.append)
    assert len(found.test_labels) == 6
    assert said == [
        f"{folder}/val is not used, with its 9 images: the test images are those of "
        f"{folder}/test"
    ]
    shutil.rmtree(folder / "test")
    (folder / "test").mkdir()  # as of ImageNet, without classes
    shutil.copy(folder / "val" / "cat" / "000.png", folder / "test")
    assert len(load("pets", data_dir=tmp_path, notify=said.append).test_labels) == 9
    assert said[1].startswith(f"{folder}/test is not used, with its 1 images")


def test_names_of_classes_match_in_another_unicode_form(tmp_path):
    folder = make_set(tmp_path / "pets")
    (folder / "train" / "emu").rename(folder / "train" / "\u00e9mu")
    (folder / "val" / "emu").rename(folder / "val" / "e\u0301mu")
    pets = load("pets", data_dir=tmp_path, image_size=8)
    assert pets.num_classes == 3 and pets.test_labels.tolist() == sorted([0, 1, 2] * 3)
    last = take(pets.test_images, jnp.array([8]))
    expected = decode(folder / "val" / "e\u0301mu" / "002.jpg", "", image_size=8)
    np.testing.assert_array_equal(last[0], expected)
    (folder / "train" / "e\u0301mu").mkdir()
    with pytest.raises(UserError, match="differ only in their Unicode normal form"):
        load("pets", data_dir=tmp_path)


def test_nothing_is_decoded_before_it_is_used(pets, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr("fkjax.data.image_folder.decode", refuse)
    dataset = load(pets.name, data_dir=pets.parent)
    assert dataset.train_images.shape == (18, 224, 224, 3)
    validate(dataset)
    parts = splits.split(jax.random.key(0), dataset, validation_size=6)
    assert parts.pool.images.shape == (12, 224, 224, 3)
    with pytest.raises(jax.errors.JaxRuntimeError, match="decoded"):
        jax.jit(take)(parts.pool.images, jnp.array([0])).block_until_ready()


def test_splits_hold_the_images_of_their_ids(pets):
    dataset = load(pets.name, data_dir=pets.parent, image_size=8)
    parts = splits.split(jax.random.key(0), dataset, validation_size=6, tuning_size=3)
    for part in parts[:3]:
        np.testing.assert_array_equal(
            take(part.images, jnp.arange(len(part.ids))),
            take(dataset.train_images, jnp.asarray(part.ids)),
        )


def test_the_images_of_imagenets_test_part_have_no_class_and_are_left_out(tmp_path):
    folder = make_set(tmp_path / "imagenet")
    (folder / "test").mkdir()
    (folder / "test" / "1.JPEG").write_bytes(b"")
    assert len(load("imagenet", data_dir=tmp_path).test_images) == 9


def test_links_are_followed_within_the_data_folder(pets):
    shutil.move(pets / "train" / "cat", pets.parent / "elsewhere")
    (pets / "train" / "cat").symlink_to(pets.parent / "elsewhere")
    (pets / "train" / "emu" / "more.png").symlink_to("../cat/000.png")
    assert len(load(pets.name, data_dir=pets.parent).train_images) == 19


def test_all_kinds_of_images_are_read_and_clutter_of_file_managers_is_not(pets):
    pixels = np.full((9, 9, 3), 7, np.uint8)
    for name in ("x.webp", "x.tif", "x.TIFF", "x.bmp", "x.jfif"):
        form = "JPEG" if name == "x.jfif" else None
        Image.fromarray(pixels).save(pets / "train" / "cat" / name, form)
    (pets / "train" / "cat" / "Thumbs.db").touch()
    (pets / "train" / "desktop.ini").touch()
    (pets / "train" / "__MACOSX").mkdir()
    dataset = load(pets.name, data_dir=pets.parent, image_size=4)
    assert dataset.num_classes == 3 and len(dataset.train_images) == 18 + 5
    rows = jnp.arange(len(dataset.train_images))
    images = np.asarray(take(dataset.train_images, rows)).astype(int)
    assert (abs(images - 7).max(axis=(1, 2, 3)) <= 2).sum() >= 5


def test_all_files_of_a_class_that_are_no_images_are_named(pets):
    for i in range(22):
        (pets / "train" / "cat" / f"{i:02}.gif").touch()
    with pytest.raises(UserError, match="00.gif, .*19.gif, and 2 more are not .jpg"):
        load(pets.name, data_dir=pets.parent)


def test_the_folder_of_a_set_and_that_of_all_sets_may_be_links(pets, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "own").symlink_to(pets)
    (tmp_path / "link").symlink_to("data")
    (pets / "train" / "emu" / "more.png").symlink_to(pets / "train" / "cat" / "000.png")
    assert len(load("own", data_dir=tmp_path / "link").train_images) == 19


@pytest.mark.parametrize(
    "place", ["train", "val", "train/cat", "val/emu", "train/cat/000.png"]
)
def test_a_link_that_leads_out_of_the_data_folder_is_refused(tmp_path, place):
    folder = make_set(tmp_path / "data" / "pets")
    shutil.move(folder / place, tmp_path / "private")
    (folder / place).symlink_to(tmp_path / "private")
    with pytest.raises(UserError, match="points out of the data folder") as caught:
        load("pets", data_dir=tmp_path / "data")
    assert str(folder / place) in str(caught.value)
    assert "--follow-links" in str(caught.value)
    followed = load("pets", data_dir=tmp_path / "data", follow_links=True)
    assert len(followed.train_images) == 18


def test_a_set_beside_the_data_folder_is_outside_of_it(tmp_path):
    """The path of the other folder starts with the path of the data folder."""
    folder = make_set(tmp_path / "data" / "pets")
    (tmp_path / "data-private").mkdir()
    shutil.move(folder / "train" / "cat", tmp_path / "data-private" / "cat")
    (folder / "train" / "cat").symlink_to("../../../data-private/cat")
    with pytest.raises(UserError, match="points out of the data folder"):
        load("pets", data_dir=tmp_path / "data")


NAMES = ["=cmd()", "<script>", "a\nb", "\x1b[31m", "..c", "$x", "\udc80", "x" * 240]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_class_and_of_a_file_is_only_a_name(pets, name):
    for part in ("train", "val"):
        (pets / part / "cat").rename(pets / part / name)
        damaged = pets / part / name / f"{name}.png"
        (pets / part / name / "000.png").rename(damaged)
    if name.startswith("."):  # hidden
        assert load(pets.name, data_dir=pets.parent).num_classes == 2
        return
    dataset = load(pets.name, data_dir=pets.parent, image_size=4)
    assert dataset.num_classes == 3 and len(dataset.train_images) == 18
    damaged.write_bytes(b"")
    images = dataset.test_images
    with pytest.raises(UserError) as caught:
        images.source.read(np.arange(len(images)), np.arange(0))
    message = str(caught.value)
    assert message.isprintable() and "could not be read as a JPEG, PNG" in message


@pytest.mark.parametrize("name", ["pets", "my-pets"])
def test_a_folder_of_another_kind_is_told_what_it_lacks(tmp_path, name):
    write_images(tmp_path / name, dict.fromkeys(CLASSES, 2), 0)
    message = f"{name} contains no dataset .*image folders train/"
    with pytest.raises(UserError, match=message):
        load(name, data_dir=tmp_path)


def no_test(pets):
    shutil.rmtree(pets / "val")


def unknown_class(pets):
    (pets / "val" / "yak").mkdir()


def absent_class(pets):
    shutil.rmtree(pets / "val" / "emu")


def no_image(pets):
    (pets / "train" / "cat" / "list.txt").write_text("")


def stray_file(pets):
    (pets / "train" / "list.txt").write_text("")


def folder_in_class(pets):
    (pets / "val" / "cat" / "more.png").mkdir()


def broken_link(pets):
    (pets / "val" / "cat" / "gone.png").symlink_to("nowhere.png")


def circular_link(pets):
    (pets / "val" / "cat" / "loop.png").symlink_to("loop.png")


def link_to_the_folder_above(pets):
    (pets / "val" / "cat" / "up.png").symlink_to("..")


def pipe(pets):
    os.mkfifo(pets / "val" / "cat" / "pipe.png")


def empty_class(pets):
    for part in ("train", "val"):
        (pets / part / "yak").mkdir()


def one_class(pets):
    for part in ("train", "val"):
        for name in ("cat", "emu"):
            shutil.rmtree(pets / part / name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_test, r"neither test/<class>/ nor val/<class>/"),
        (unknown_class, r"val/yak is a class that .*/train does not have"),
        (absent_class, r"train/emu is a class that .*/val does not have"),
        (no_image, r"train/cat/list.txt is not a .jpg, .jpeg, .*.bmp file"),
        (stray_file, r"train/list.txt is not the folder of a class"),
        (folder_in_class, r"val/cat/more.png is not a .jpg"),
        (pipe, r"val/cat/pipe.png is not a .jpg"),
        (broken_link, r"val/cat/gone.png could not be read \(No such file"),
        (circular_link, r"val/cat/loop.png could not be read \(Too many levels"),
        (link_to_the_folder_above, r"val/cat/up.png is not a .jpg"),
        (empty_class, r"train/yak contains no image"),
        (one_class, r"1 class\(es\), but classification needs at least 2"),
    ],
)
def test_a_folder_that_is_not_in_order_is_explained(pets, damage, message):
    damage(pets)
    with pytest.raises(UserError, match=message) as caught:
        load(pets.name, data_dir=pets.parent)
    assert "\n" not in str(caught.value)


# The command line

ARGUMENTS = (
    "--dataset pets --image-size 8 --seeds 1 --rounds 2 --budget 3 --epochs 1 "
    "--pretraining none --validation-size 6 --imbalance-ratio 1 --batch-size 3 "
    "--strategies random --conv-dropout 0 --dense-dropout 0"
).split()


def test_seeds_share_a_program_only_if_told_to(pets, digits, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    dataset = load(pets.name, data_dir=pets.parent)
    config = Config(seeds=3)
    yes = dataclasses.replace(config, side_by_side="yes")
    assert len(play.groups(config, digits)) == 1
    assert len(play.groups(config, dataset)) == 3
    assert len(play.groups(yes, dataset)) == 1


def test_the_command_runs_and_then_tells_which_image_is_damaged(
    tmp_path, capfd, monkeypatch
):
    monkeypatch.setitem(MODELS, "tiny", ARCHITECTURE)
    folder = make_set(tmp_path / "pets")
    argv = [*ARGUMENTS, "--model", "tiny", "--data-dir", str(tmp_path)]
    assert (
        fkjax.commands.run.main([*argv, "--seeds", "2", "--side-by-side", "yes"]) == 0
    )
    capfd.readouterr()

    damaged = folder / "val" / "emu" / "001.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert fkjax.commands.run.main(argv) == 2
    error = capfd.readouterr().err
    assert f"fkjax: {damaged} could not be read as a JPEG, PNG" in error
    assert "Traceback" not in error and error.count("\n") <= 2
