"""Tasks and a labeling interface for Label Studio, and its exports.

Label Studio shows a person each image with fkjax's guess, records the class, and
exports JSON; see https://labelstud.io/guide.
"""

import base64
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from fkjax.base import UserError
from fkjax.files.matching import Names
from fkjax.files.opening import read_bytes
from fkjax.labeling.exported import (
    CONTROL,
    IMAGE,
    FlawError,
    choices_of,
    control_of,
    image_of,
)
from fkjax.labeling.request import Asked

MAX_BYTES = 2 << 30
"""The size of the largest export that is read, in bytes."""

_KINDS = {
    ".png": "png",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
}  # of images, by the suffixes of their names; others are JPEG


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
    """Writes the labeling interface: a choice, the reason for the image, and the image.

    The choice comes first, because Label Studio enlarges an image to the width of the
    page, which may be higher than the window.

    Args:
        choices: answers that the person can choose from.

    Returns:
        XML, as Label Studio reads it.
    """
    lines = [
        "<View>",
        f'  <Choices name="{CONTROL}" toName="{IMAGE}" choice="single"'
        ' required="true" showInline="true">',
        *(f"    <Choice value={quoteattr(choice)}/>" for choice in choices),
        "  </Choices>",
        '  <Text name="reason" value="$reason"/>',
        f'  <Image name="{IMAGE}" value="$image" zoom="true"/>',
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
                            "from_name": CONTROL,
                            "to_name": IMAGE,
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
    kind = _KINDS.get(Path(file).suffix.lower(), "jpeg")
    return f"data:image/{kind};base64,{data}"


def read_export(path: Path, names: Iterable[str] = ()) -> list[Answer]:
    """Reads an export of Label Studio in the format JSON or JSON-MIN.

    Skipped tasks and tasks without an annotation are left out. A task with several
    annotations gives several answers. The control is "label" or else the only one with
    choices. The image is that of the field "file" or else of the URL.

    Args:
        path: path of the export.
        names: paths of the images in their folder.

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
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: task {number} is not an object: {again}")
    try:
        control = control_of(rows)
    except FlawError as error:
        raise UserError(f"{path} {error}") from error
    answers, files = [], Names(names)
    for number, row in enumerate(rows, start=1):
        where = f"task {number}"
        if isinstance(row.get("id"), int):
            where += f" (id {row['id']})"
        try:
            chosen = choices_of(row, control)
            if chosen:
                file = image_of(row, files)
                answers += [Answer(file, choice, where) for choice in chosen]
        except FlawError as error:
            advice = error.advice or again
            raise UserError(f"{path}: {where} {error}: {advice}") from error
    return answers
