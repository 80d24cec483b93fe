"""The tasks in an export of Label Studio: their control, choices and images."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fkjax.data.decoding import SUFFIXES
from fkjax.files.matching import Names

CONTROL, IMAGE = "label", "image"
"""The names of the control and of the image in fkjax's labeling interface."""

_FIELDS = {IMAGE, "file", "reason", "answers", "round"}  # those of fkjax's tasks
_ADDED = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}
_UPLOADS = "/data/upload/"


class FlawError(ValueError):
    """Raised if an export or a task is invalid.

    The message follows the path of the file or the number of the task.

    Attributes:
        advice: end of the message, on what to do; "" if only another export helps.
    """

    def __init__(self, message: str, advice: str = ""):
        """Takes the message and the advice."""
        super().__init__(message)
        self.advice = advice


def control_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the name of the control with which the person chose the class.

    Args:
        rows: tasks of the export.

    Raises:
        FlawError: if it is unclear which control it is, or none has choices; the
            message includes the advice.
    """
    found: dict[str, None] = {}
    others: set[str] = set()
    for row in rows:
        if not _is_full(row):
            found |= dict.fromkeys(_controls_of_minimal(row))
            continue
        for result in _results(row):
            name, kind, value = (result.get(k) for k in ("from_name", "type", "value"))
            has_choices = isinstance(value, dict) and "choices" in value
            if isinstance(name, str) and (kind == "choices" or has_choices):
                found[name] = None
            elif kind is not None:
                others.add(str(kind))
    if CONTROL in found or not (found or others):
        return CONTROL
    if not found:
        raise FlawError(
            f"has annotations of the type {', '.join(sorted(others))}, but none with "
            "choices: use config.xml, beside tasks.json, as the labeling interface"
        )
    if len(found) > 1:
        raise FlawError(
            f"has several fields that can be the class ({', '.join(found)}): call "
            f"that of the class {CONTROL!r} in the labeling interface or in the file"
        )
    return next(iter(found))


def choices_of(row: Mapping[str, Any], control: str) -> list[str]:
    """Returns the choices in a task: one for each annotation that has one.

    Args:
        row: a task of the export.
        control: name of the control.

    Raises:
        FlawError: if an annotation is invalid.
    """
    if _is_full(row):
        chosen = _chosen_of_annotations(row, control)
    else:
        chosen = [_chosen(row.get(control))]
    return [choice for choice in chosen if choice is not None]


def image_of(row: Mapping[str, Any], names: Names) -> str:
    """Returns the path of a task's image, as it was imported or from its URL.

    Args:
        row: a task of the export.
        names: paths of the images.

    Returns:
        One of the names; another path if there is no such image.

    Raises:
        FlawError: if the task has no path of an image, or it can be that of several.
    """
    data = row.get("data", row)  # JSON-MIN has no field "data"
    if not isinstance(data, dict):
        raise FlawError("has data that are not an object")
    file, url = data.get("file"), _url(data)
    if isinstance(file, str):
        return _certain(_of_path(file, names), file) or file
    inside = _inside(url)
    if "/" in inside:  # in a local storage, of which fkjax's is the image folder
        name = inside.split("/", 1)[1]
        return _certain(names.find(name) or _of_path(inside, names), inside) or name
    path = inside or _path(url)
    if path.startswith(_UPLOADS):
        base = path.rsplit("/", 1)[-1]
        original = re.sub(r"^[0-9a-f]{8}-", "", base)  # the prefix of an upload
        found = names.named(original) or names.named(base)
        return _certain(found, path) or original
    if path.rsplit("/", 1)[-1]:
        return _certain(_of_path(path, names), path) or path
    raise FlawError("does not contain the path of its image")


def _is_full(row: Mapping[str, Any]) -> bool:
    """Returns whether a task is one of a JSON export, not of JSON-MIN."""
    return "annotations" in row or "completions" in row


def _results(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yields the results of the annotations of a task, without invalid ones."""
    annotations = row.get("annotations", row.get("completions"))
    for annotation in annotations if isinstance(annotations, list) else []:
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            results = annotation.get("result")
            for result in results if isinstance(results, list) else []:
                if isinstance(result, dict):
                    yield result


def _controls_of_minimal(row: Mapping[str, Any]) -> list[str]:
    """Returns the fields of a task of JSON-MIN that can be choices."""
    if CONTROL in row:
        return [CONTROL]
    return [
        name
        for name, value in row.items()
        if name not in _FIELDS | _ADDED
        and not _is_image(value)
        and (
            isinstance(value, str)
            or (isinstance(value, dict) and "choices" in value)
            or (isinstance(value, list) and all(isinstance(v, str) for v in value))
        )
    ]


def _chosen_of_annotations(row: Mapping[str, Any], control: str) -> list[str | None]:
    """Returns the choices in the annotations of a task in a JSON export."""
    annotations = row.get("annotations", row.get("completions"))
    if not isinstance(annotations, list):
        raise FlawError("has annotations that are not a list")
    chosen = []
    for annotation in annotations:
        if not isinstance(annotation, dict):
            raise FlawError("has an annotation that is not an object")
        if annotation.get("was_cancelled"):  # the person skipped it
            continue
        results = annotation.get("result")
        if not isinstance(results, list) or not all(
            isinstance(result, dict) for result in results
        ):
            raise FlawError("has an annotation whose result is not a list of objects")
        for result in results:
            if result.get("from_name") == control:
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
        raise FlawError(f"must have one choice, but has {len(value)}")
    if not isinstance(value, str):
        raise FlawError("has a choice that is not text")
    return value.strip() or None


def _url(data: Mapping[str, Any]) -> str:
    """Returns the URL of the image in the data of a task; "" if there is none."""
    url = data.get(IMAGE)
    if isinstance(url, str):
        return url
    urls = {name: value for name, value in data.items() if _is_image(value)}
    if len(urls) > 1:
        raise FlawError(
            f"has several images ({', '.join(urls)})",
            f"call that to label {IMAGE!r}, or import tasks.json",
        )
    return next(iter(urls.values()), "")


def _is_image(value: Any) -> bool:
    """Returns whether a value is the path or the URL of an image."""
    if not isinstance(value, str):
        return False
    return (_inside(value) or _path(value)).lower().endswith(SUFFIXES)


def _inside(url: str) -> str:
    """Returns the path of an image in a local storage; "" for other URLs."""
    try:
        inside = parse_qs(urlsplit(url).query).get("d", [""])[0]
    except ValueError:
        return ""
    return inside.replace("\\", "/")


def _path(url: str) -> str:
    """Returns the path in a URL; "" if there is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return "" if parts.scheme == "data" else unquote(parts.path).replace("\\", "/")


def _of_path(path: str, names: Names) -> list[str]:
    """Returns the names in which a longer path can end."""
    parts = path.replace("\\", "/").split("/")
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    if found := names.find(path):
        return found
    return list(dict.fromkeys(name for tail in tails for name in names.find(tail)))


def _certain(found: Sequence[str], path: str) -> str | None:
    """Returns the only name found, or None if there is none.

    Raises:
        FlawError: if there are several.
    """
    if len(found) > 1:
        raise FlawError(
            f"has the image {path}, which can be {' or '.join(found[:3])}",
            "import tasks.json, which contains the paths, or rename the images",
        )
    return found[0] if found else None
