"""Tasks and a labeling interface for Label Studio, and its exports.

Label Studio shows a person each image with fkjax's guess, records the class, and
exports JSON; see https://labelstud.io/guide.
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
"""The size of the largest export that is read, in bytes."""

_CHOICES, _IMAGE = "label", "image"  # the names of the tags


class Answer(NamedTuple):
    """A person's answer for one image.

    Attributes:
        file: path of the image in its folder.
        label: text of the answer.
        where: place of the answer in its file, in words.
    """

    file: str
    label: str
    where: str


def interface(choices: Sequence[str]) -> bytes:
    """Writes the labeling interface: an image, the reason for it, and a choice.

    Args:
        choices: answers that the person can choose from.

    Returns:
        XML, as Label Studio reads it.
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
    """Writes the tasks to import, each with fkjax's guess as a prediction.

    Args:
        wanted: requested images, in order.
        urls: URL of each image, from `local_url` or `data_uri`.
        round: number of the round.

    Returns:
        JSON, as Label Studio reads it.
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
    """Returns the URL at which Label Studio serves an image of a local storage.

    Label Studio serves files in folders below LOCAL_FILES_DOCUMENT_ROOT, but not in
    LOCAL_FILES_DOCUMENT_ROOT itself. It must therefore be the parent of the folder of
    images, which must be the path of the project's local storage.

    Args:
        folder: folder of images.
        file: path of the image in the folder.
    """
    name = Path(os.path.realpath(folder)).name
    return f"/data/local-files/?d={quote(os.fsencode(f'{name}/{file}'))}"


def data_uri(folder: Path, file: str) -> str:
    """Encodes an image as a data URI.

    Args:
        folder: folder of images.
        file: path of the image in the folder.

    Raises:
        UserError: if the image cannot be read.
    """
    path = folder / file
    data = base64.b64encode(read_bytes(path)).decode()
    kind = "png" if file.lower().endswith(".png") else "jpeg"
    return f"data:image/{kind};base64,{data}"


def read_export(path: Path) -> list[Answer]:
    """Reads an export of Label Studio in the format JSON or JSON-MIN.

    Skipped tasks and tasks without an annotation are left out. A task with several
    annotations gives several answers.

    Raises:
        UserError: if the file cannot be read or is not such an export; the message
            gives the first invalid task.
    """
    data = read_bytes(path, MAX_BYTES)
    again = "export the project as JSON or JSON-MIN again"
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): {again}") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} must contain a list of tasks: {again}")
    answers = []
    for number, row in enumerate(rows, start=1):
        where = f"task {number}"
        if not isinstance(row, dict):
            raise UserError(f"{path}: {where} is not an object: {again}")
        if isinstance(row.get("id"), int):
            where += f" (id {row['id']})"
        try:
            answers += _answers(row, where)
        except _FlawError as error:
            raise UserError(f"{path}: {where} {error}: {again}") from error
    return answers


class _FlawError(ValueError):
    """Raised if a task is invalid; the message follows the number of the task."""


def _answers(row: dict[str, Any], where: str) -> list[Answer]:
    if "annotations" in row or "completions" in row:
        chosen = _chosen_of_annotations(row)
    else:
        chosen = [_chosen(row.get(_CHOICES))]
    chosen = [choice for choice in chosen if choice is not None]
    return [Answer(_file(row), choice, where) for choice in chosen]


def _chosen_of_annotations(row: Mapping[str, Any]) -> list[str | None]:
    """Returns the choices in the annotations of a task in a JSON export."""
    annotations = row.get("annotations", row.get("completions"))
    if not isinstance(annotations, list):
        raise _FlawError("has annotations that are not a list")
    chosen = []
    for annotation in annotations:
        if not isinstance(annotation, dict):
            raise _FlawError("has an annotation that is not an object")
        if annotation.get("was_cancelled"):  # the person skipped it
            continue
        results = annotation.get("result")
        if not isinstance(results, list) or not all(
            isinstance(result, dict) for result in results
        ):
            raise _FlawError("has an annotation whose result is not a list of objects")
        for result in results:
            if result.get("from_name") == _CHOICES:
                chosen.append(_chosen(result.get("value")))
    return chosen


def _chosen(value: Any) -> str | None:
    """Returns the choice in a value, or None if there is none."""
    if isinstance(value, dict):
        value = value.get("choices")
    if isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    if value is None:
        return None
    if isinstance(value, list):
        raise _FlawError(f"must have one choice, but has {len(value)}")
    if not isinstance(value, str):
        raise _FlawError("has a choice that is not text")
    return value.strip() or None


def _file(row: Mapping[str, Any]) -> str:
    """Returns the path of a task's image, as it was imported or from its URL."""
    data = row.get("data", row)  # JSON-MIN has no field "data"
    if not isinstance(data, dict):
        raise _FlawError("has data that are not an object")
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
    raise _FlawError("does not contain the path of its image")
