"""Exports of Label Studio projects that were not made from fkjax's files."""

import json

import pytest

from fkjax.base import UserError
from fkjax.labeling.label_studio import read_export

NAMES = ["a/1.png", "b/1.png", "0.png", "b/my image (2).png", "a/cre\u0300me.PNG"]


def full(data, choice="cat", name="label", kind="choices"):
    value = {"choices": [choice]} if kind == "choices" else {"text": ["a"]}
    result = {"from_name": name, "to_name": "x", "type": kind, "value": value}
    return {"data": data, "annotations": [{"result": [result]}]}


@pytest.fixture
def read(tmp_path):
    def read(*rows):
        path = tmp_path / "export.json"
        path.write_text(json.dumps(rows))
        return [answer[:2] for answer in read_export(path, NAMES)]

    return read


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("/data/upload/1/0a1b2c3d-0.png", "0.png"),
        ("/data/upload/1/0a1b2c3d-my_image_2.png", "b/my image (2).png"),
        ("/data/upload/3/0a1b2c3d-cr%C3%A8me.png", "a/cre\u0300me.PNG"),
        ("/data/upload/0.png", "0.png"),
        ("/data/local-files/?d=images/a/1.png", "a/1.png"),
        ("/data/local-files/?d=images%5Ca%5C1.png", "a/1.png"),
        ("/data/local-files/?d=projects/images/b/1.png", "b/1.png"),
        ("/data/local-files/?d=a/1.png", "a/1.png"),
        ("/data/local-files/?d=0.png", "0.png"),
        ("s3://bucket/set/a/cr%C3%A8me.png", "a/cre\u0300me.PNG"),
        ("https://host:8080/images/b/my%20image%20(2).png?x=1", "b/my image (2).png"),
    ],
)
def test_an_image_is_known_by_its_url(read, url, file):
    assert read(full({"image": url})) == [(file, "cat")]
    assert read({"id": 3, "photo": url, "choice": "cat"}) == [(file, "cat")]


def test_an_image_is_known_by_its_file_first(read):
    data = {"file": "/data/mine/images/0.png", "image": "/data/upload/1/x.png"}
    assert read(full(data)) == [("0.png", "cat")]
    assert read(full(data | {"file": "none.png"})) == [("none.png", "cat")]


def test_an_image_that_is_not_there_is_left_to_the_next_check(read):
    for url in ("/data/upload/1/0a1b2c3d-no.png", "/data/local-files/?d=images/no.png"):
        assert read(full({"image": url})) == [("no.png", "cat")]
    assert read(full({"image": "s3://b/no.png"})) == [("/no.png", "cat")]


@pytest.mark.parametrize("name", ["choice", "class", "label"])
def test_the_control_may_have_another_name(read, name):
    data = {"image": "/data/upload/1/0a1b2c3d-0.png", "note": "dim"}
    comment = full(data, name="comment", kind="textarea")["annotations"][0]["result"]
    row = full(data, name=name)
    row["annotations"][0]["result"] += comment
    assert read(row, full(data, "dog", name)) == [("0.png", "cat"), ("0.png", "dog")]
    minimal = {"file": "0.png", "image": "x", "id": 1, "annotator": 1, "reason": "r"}
    minimal |= {"created_at": "today", "lead_time": 1.5, "answers": "", "round": 1}
    assert read(minimal, minimal | {name: "cat"}) == [("0.png", "cat")]
    assert read(minimal | {name: ["cat"]}) == [("0.png", "cat")]
    assert read(minimal | {name: {"choices": ["cat"]}}) == [("0.png", "cat")]


def test_the_control_called_label_comes_before_others(read):
    row = full({"file": "0.png"})
    row["annotations"] += full({}, "good", "quality")["annotations"]
    assert read(row) == [("0.png", "cat")]
    minimal = {"file": "0.png", "label": "cat", "quality": "good"}
    assert read(minimal, {"file": "a/1.png", "quality": "bad"}) == [("0.png", "cat")]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [full({"file": "0.png"}, name="a"), full({"file": "0.png"}, name="b")],
            r"several fields that can be the class \(a, b\): call that of the class",
        ),
        ([{"file": "0.png", "id": 1, "a": "x", "b": ["y"]}], r"the class \(a, b\)"),
        (
            [full({"file": "0.png"}, kind="rectanglelabels")],
            "of the type rectanglelabels, but none with choices: use config.xml",
        ),
        (
            [full({"image": "/data/upload/1/0a1b2c3d-1.png"})],
            r"task 1 has the image /data/upload/1/0a1b2c3d-1.png, which can be a/1.png "
            "or b/1.png: import tasks.json",
        ),
        (
            [full({"left": "s3://x/0.png", "right": "/y/1.png"})],
            r"has several images \(left, right\): call that to label 'image'",
        ),
        ([full({"image": "data:image/png;base64,AA=="})], "not contain the path"),
        ([full({"text": "no image"})], "does not contain the path of its image"),
    ],
)
def test_what_is_not_certain_is_explained(read, rows, said):
    with pytest.raises(UserError, match=said):
        read(*rows)
