"""Label Studio: tasks and a labelling interface for it, and what it exports.

Label Studio shows a person each image with fkjax's guess, takes the class, and exports
JSON; see https://labelstud.io/guide.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import quoteattr

from fkjax.base import UserError
from fkjax.files.opening import read_bytes
from fkjax.labeling.request import Asked

MAX_BYTES = 2 << 30
"""The largest export that is read."""

_CHOICES, _IMAGE = "label", "image"  # the names of the tags


class Answer(NamedTuple):
    """What a person said.

    Attributes:
        file: the path of an image in its folder.
        label: the text of the choice.
        where: it stands, in words.
    """

    file: str
    label: str
    where: str


def interface(choices: Sequence[str]) -> bytes:
    """The labelling interface: an image, why it is asked for, and a choice.

    Args:
        choices: what the person may choose from.
    """
    lines = [
        "<View>",
        f'  <Image name="{_IMAGE}" value="$image" zoom="true"/>',
        f'  <Choices name="{_CHOICES}" toName="{_IMAGE}" choice="single"'
        ' required="true" showInline="true">',
        *(f"    <Choice value={quoteattr(choice)}/>" for choice in choices),
        "  </Choices>",
        '  <Text name="reason" value="$reason"/>',
        "</View>",
    ]
    return ("\n".join(lines) + "\n").encode()


def tasks(wanted: Sequence[Asked], urls: Sequence[str], *, round: int) -> bytes:
    """The file to import, each task with fkjax's guess as a prediction.

    Args:
        wanted: what is asked, in that order.
        urls: where each image is, from `local_url` or `data_uri`.
        round: for which the answers are.
    """
    rows = [
        {
            "data": {
                "image": url,
                "file": task.file,
                "reason": task.reason,
                "answers": task.answers or "",
                "round": round,
            },
            "predictions": [
                {
                    "model_version": f"fkjax, round {round}",
                    "score": task.confidence,
                    "result": [
                        {
                            "from_name": _CHOICES,
                            "to_name": _IMAGE,
                            "type": "choices",
                            "value": {"choices": [task.guess]},
                        }
                    ],
                }
            ],
        }
        for task, url in zip(wanted, urls, strict=True)
    ]
    text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


def local_url(folder: Path, file: str) -> str:
    """Where Label Studio serves an image of a local storage.

    It serves what is in a folder below its LOCAL_FILES_DOCUMENT_ROOT, never in that
    itself: so the root is to be the parent of the images' folder, and the path of the
    project's local storage that folder.
    """
    name = Path(os.path.realpath(folder)).name
    return f"/data/local-files/?d={quote(os.fsencode(f'{name}/{file}'))}"


def data_uri(folder: Path, file: str) -> str:
    """An image itself, as a URI.

    Raises:
        UserError: if it cannot be read.
    """
    path = folder / file
    data = base64.b64encode(read_bytes(path)).decode()
    kind = "png" if file.lower().endswith(".png") else "jpeg"
    return f"data:image/{kind};base64,{data}"


def read_export(path: Path) -> list[Answer]:
    """Reads what Label Studio exported as JSON or as JSON-MIN.

    Tasks without an annotation, and skipped ones, are left out. If several people
    answered one, all of them are given.

    Raises:
        UserError: if the file cannot be read or is no such export; or with the first
            task that is none.
    """
    data = read_bytes(path, MAX_BYTES)
    again = "export the project as JSON or JSON-MIN again"
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}): {again}") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} must hold a list of tasks, but does not: {again}")
    answers = []
    for number, row in enumerate(rows, start=1):
        where = f"task {number}"
        if not isinstance(row, dict):
            raise UserError(f"{path}: {where} is no object: {again}")
        if isinstance(row.get("id"), int):
            where += f" (id {row['id']})"
        try:
            answers += _answers(row, where)
        except _FlawError as error:
            raise UserError(f"{path}: {where} {error}: {again}") from error
    return answers


class _FlawError(ValueError):
    """What is wrong with a task."""


def _answers(row: dict[str, Any], where: str) -> list[Answer]:
    if "annotations" in row or "completions" in row:
        chosen = _chosen_of_annotations(row)
    else:
        chosen = [_chosen(row.get(_CHOICES))]
    chosen = [choice for choice in chosen if choice is not None]
    return [Answer(_file(row), choice, where) for choice in chosen]


def _chosen_of_annotations(row: Mapping[str, Any]) -> list[str | None]:
    """Of each annotation of a task in a JSON export."""
    annotations = row.get("annotations", row.get("completions"))
    if not isinstance(annotations, list):
        raise _FlawError("has annotations that are no list")
    chosen = []
    for annotation in annotations:
        if not isinstance(annotation, dict):
            raise _FlawError("has an annotation that is no object")
        if annotation.get("was_cancelled"):  # the person skipped it
            continue
        results = annotation.get("result")
        if not isinstance(results, list) or not all(
            isinstance(result, dict) for result in results
        ):
            raise _FlawError("has an annotation whose result is no list of objects")
        for result in results:
            if result.get("from_name") == _CHOICES:
                chosen.append(_chosen(result.get("value")))
    return chosen


def _chosen(value: Any) -> str | None:
    """The one choice, or None if there is none."""
    if isinstance(value, dict):
        value = value.get("choices")
    if isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    if value is None:
        return None
    if isinstance(value, list):
        raise _FlawError(f"has {len(value)} choices, but takes one")
    if not isinstance(value, str):
        raise _FlawError("has a choice that is no text")
    return value.strip() or None


def _file(row: Mapping[str, Any]) -> str:
    """The image's path in its folder: as it was imported, or from its URL."""
    data = row.get("data", row)  # JSON-MIN has no data of its own
    if not isinstance(data, dict):
        raise _FlawError("has data that are no object")
    file, url = data.get("file"), data.get(_IMAGE)
    if isinstance(file, str):
        return file
    if isinstance(url, str):
        try:
            inside = parse_qs(urlsplit(url).query).get("d", [""])[0]
        except ValueError:
            inside = ""
        if "/" in inside:
            return inside.split("/", 1)[1]
    raise _FlawError("does not say which file it is of")
