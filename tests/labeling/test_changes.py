"""Which file is which image, by name and by content."""

import pytest

from fkjax.labeling.changes import differences, match, sentences
from fkjax.runs.manifest import Image

IMAGES = {
    i: Image(i, file, label, "train" if label else "", sha256)
    for i, (file, label, sha256) in enumerate(
        [("a", "x", "A"), ("b", "", "B"), ("c/d", "", "D"), ("e", "y", "D")]
    )
}


@pytest.mark.parametrize(
    ("found", "ids"),
    [
        (
            {"a": "A", "b": "B", "c/d": "D", "e": "D"},
            {"a": 0, "b": 1, "c/d": 2, "e": 3},
        ),
        ({"z": "A"}, {"z": 0}),
        ({"a": "B", "b": "A"}, {"a": 1, "b": 0}),  # exchanged
        ({"a": "Z", "y": "B"}, {"a": 0, "y": 1}),
        ({"a": "Z", "y": "A"}, {"a": 4, "y": 0}),  # moved, and another in its place
        ({"d": "D"}, {"d": 2}),  # within its name, if there are copies
        ({"f": "D"}, {"f": 3}),  # otherwise the one with a label
        ({"a": "A", "f": "A"}, {"a": 0, "f": 4}),  # a copy is added
        ({"b": "A", "c": "B"}, {"b": 0, "c": 1}),  # renumbered
        ({"n": "N", "m": "M"}, {"m": 4, "n": 5}),
        ({}, {}),
    ],
)
def test_a_file_is_the_image_of_its_name_or_else_of_its_content(found, ids):
    assert match(IMAGES, found, labeled=[0, 3]) == ids


def test_an_image_that_is_gone_is_found_again_by_name_or_content():
    images = IMAGES | {0: IMAGES[0]._replace(is_gone=True)}
    assert match(images, {"a": "Z"}, labeled=[]) == {"a": 0}
    assert match(images, {"z": "A"}, labeled=[]) == {"z": 0}
    (first, second) = differences(images, {**IMAGES, 0: IMAGES[0]._replace(file="z")})
    assert [first["change"], second["change"]] == ["returned", "moved"]


def test_each_kind_of_change_has_a_sentence_with_up_to_20_names():
    now = {i: IMAGES[i]._replace(file=f"{i}") for i in (1, 2)}
    now[3] = IMAGES[3]._replace(label="", set="", sha256="E")
    now |= {i: Image(i, f"{i}.png", "", "", "") for i in range(4, 26)}
    changes = differences(IMAGES, now)
    names = ", ".join(f"{i}.png" for i in range(4, 24))
    assert sentences(changes, IMAGES | now) == [
        f"added 22 images: {names} and 2 more",
        "2 images moved, with the labels and answers: b -> 1, c/d -> 2",
        "1 image no longer in the folder; labels and answers are kept in the records, "
        "but not trained on: a",
        "1 image with another content than before, whose labels and answers are kept: "
        "e",
        "1 label changed in the CSV file: e: y (train) -> none",
    ]
    assert differences(IMAGES, IMAGES) == sentences([], IMAGES) == []
