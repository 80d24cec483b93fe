"""The images of a session, and their changes, on disk."""

import pytest

from fkjax.base import UserError
from fkjax.runs import manifest
from fkjax.runs.folder import RunFolder
from fkjax.runs.manifest import Image

IMAGES = [Image(0, "a\n\udc80.png", "x", "train", "A"), Image(1, "b.png", "", "", "B")]
CHANGES = [
    {"after_round": 1, "change": "moved", "id": 1, "was": "b.png", "file": "c.png"},
    {"after_round": 1, "change": "setting", "setting": "budget", "was": 1, "value": 2},
    {"after_round": 2, "change": "removed", "id": 0, "is_gone": True},
    {"after_round": 2, "change": "added", **IMAGES[1]._replace(id=2)._asdict()},
]


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path)
    manifest.begin(folder, IMAGES)
    return folder


def test_the_images_of_each_round_follow_from_the_changes(folder):
    assert manifest.read(folder) == (IMAGES, [])
    first = (folder.path / "images.jsonl").read_bytes()
    manifest.append(folder, CHANGES[:2])
    manifest.append(folder, CHANGES[2:])
    manifest.append(folder, [])
    read = manifest.read(folder)
    assert read == (IMAGES, CHANGES)
    assert (folder.path / "images.jsonl").read_bytes() == first
    assert list(read.images(before_round=1).values()) == IMAGES
    assert read.images(before_round=2)[1].file == "c.png"
    assert read.images()[0].is_gone and len(read.images()) == 3
    assert read.ids() == {IMAGES[0].file: 0, "c.png": 1, "b.png": 2}
    assert read.owners() == {IMAGES[0].file: {0}, "b.png": {1, 2}, "c.png": {1}}
    assert read.settings() == {"budget": 2}


def test_an_image_that_is_there_precedes_one_of_its_name_that_is_gone(folder):
    back = CHANGES[2] | {"id": 1}
    manifest.append(folder, [back, CHANGES[3]])
    assert manifest.read(folder).ids()["b.png"] == 2


@pytest.mark.parametrize("line", ["[]\n", "{}\n", '{"after_round": 1, "id": 9}\n'])
def test_damage_is_explained(folder, line):
    with (folder.path / "changes.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(UserError, match="restore the file"):
        manifest.read(folder)


def test_a_folder_without_a_manifest_has_none(tmp_path):
    assert manifest.read(RunFolder(tmp_path)) is None
