"""The tasks for Label Studio, and its exports."""

import base64
import json
import xml.etree.ElementTree as ElementTree
from urllib.parse import parse_qs, urlsplit

import pytest

from fkjax.base import UserError
from fkjax.labeling import label_studio
from fkjax.labeling.label_studio import (
    data_uri,
    interface,
    local_url,
    read_export,
    tasks,
)
from fkjax.labeling.request import Asked

ASKED = [
    Asked("a/1 ü.png", "cat", 0.5, "cat", "v.png", 1.5, "Similar to <v.png>."),
    Asked("b.jpg", "dog", 0.25, None, None, None, "Drawn at random."),
]


def annotation(choice, **more):
    value = {"choices": choice if isinstance(choice, list) else [choice]}
    result = {"from_name": "label", "to_name": "image", "type": "choices"}
    return {"id": 1, "result": [result | {"value": value}], **more}


def full(file, *annotations):
    data = {"file": file, "image": "x"}
    return {"id": 7, "data": data, "annotations": list(annotations)}


@pytest.fixture
def read(tmp_path):
    def read(value):
        path = tmp_path / "export.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return [answer[:2] for answer in read_export(path)]

    return read


def test_the_interface_offers_the_choices_whatever_they_are_called():
    choices = ["a", 'b "<&>" c', "can't tell"]
    view = ElementTree.fromstring(interface(choices))
    assert [tag.get("value") for tag in view.iter("Choice")] == choices
    (group,) = view.iter("Choices")
    (image,) = view.iter("Image")
    assert group.get("toName") == image.get("name")
    assert (image.get("value"), group.get("choice")) == ("$image", "single")


def test_tasks_hold_the_image_the_reason_and_the_guess(tmp_path):
    folder = tmp_path / "my images"
    folder.mkdir()
    urls = [local_url(folder, asked.file) for asked in ASKED]
    first, second = json.loads(tasks(ASKED, urls, round=3))
    query = parse_qs(urlsplit(first["data"]["image"]).query)
    assert query["d"] == ["my images/a/1 ü.png"]
    assert first["data"]["image"].startswith("/data/local-files/?d=my%20images/a/1")
    assert first["data"] | {"image": ""} == {
        "image": "",
        "file": "a/1 ü.png",
        "reason": "Similar to <v.png>.",
        "answers": "v.png",
        "round": 3,
    }
    assert second["data"]["answers"] == ""
    (guess,) = first["predictions"]
    assert (guess["model_version"], guess["score"]) == ("fkjax, round 3", 0.5)
    view = ElementTree.fromstring(interface(["cat", "dog"]))
    (result,) = guess["result"]
    (group,) = view.iter("Choices")
    assert result["from_name"] == group.get("name")
    assert result["to_name"] == group.get("toName")
    assert result["value"] == {"choices": ["cat"]}


def test_an_image_may_be_embedded(tmp_path):
    (tmp_path / "a.JPG").write_bytes(b"pixels")
    head, data = data_uri(tmp_path, "a.JPG").split(",")
    assert head == "data:image/jpeg;base64" and base64.b64decode(data) == b"pixels"
    assert data_uri(tmp_path, "a.JPG").startswith("data:image/jpeg")
    (tmp_path / "c.tif").write_bytes(b"pixels")
    assert data_uri(tmp_path, "c.tif").startswith("data:image/tiff")
    with pytest.raises(UserError, match="could not read"):
        data_uri(tmp_path, "b.png")


def test_both_exports_say_the_same(read):
    rows = [
        full("a", annotation("cat")),
        full("b"),
        full("c", annotation("dog", was_cancelled=True)),
        full("d", annotation("dog"), annotation("cat")),
        full("e", annotation([])),
    ]
    rows[0]["annotations"][0]["result"].append({"from_name": "other", "value": 3})
    answers = [("a", "cat"), ("d", "dog"), ("d", "cat")]
    assert read(rows) == answers
    minimal = [
        {"file": "a", "image": "x", "id": 1, "label": "cat", "annotation_id": 3},
        {"file": "b", "image": "x", "id": 2},
        {"file": "d", "image": "x", "id": 3, "label": ["dog"]},
        {"file": "d", "image": "x", "id": 3, "label": {"choices": ["cat"]}},
        {"file": "e", "image": "x", "id": 4, "label": ""},
    ]
    assert read(minimal) == answers


def test_a_task_without_our_data_is_known_by_its_url(read):
    url = "/data/local-files/?d=my%20images/a/1%20%C3%BC.png"
    assert read([{"image": url, "label": "cat"}]) == [("a/1 ü.png", "cat")]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('[{"id": 1', "is not JSON"),
        ("{}", "must contain a list"),
        ([1], "task 1 is not an object"),
        ([{"id": 9, "label": "cat"}], r"task 1 \(id 9\) does not contain the path"),
        ([{"image": "http://[", "label": "cat"}], "does not contain the path"),
        ([{"data": 1, "annotations": [annotation("a")]}], "data that are not an obj"),
        ([{"file": "a", "annotations": {}}], "annotations that are not a list"),
        ([full("a", 1)], "annotation that is not an object"),
        ([full("a", {"result": None})], "result is not a list"),
        ([full("a", {"result": [1]})], "result is not a list"),
        ([full("a", annotation(["a", "b"]))], "must have one choice, but has 2"),
        ([full("a", annotation([1]))], "choice that is not text"),
    ],
)
def test_what_is_no_export_is_told(read, value, said):
    with pytest.raises(UserError, match=said):
        read(value)


def test_an_export_that_is_too_large_is_told(read, monkeypatch):
    monkeypatch.setattr(label_studio, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="more than 10 bytes"):
        read([full("a", annotation("cat"))])
