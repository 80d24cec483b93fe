"""The images of a labeling session, and what changed while it ran.

images.jsonl lists the images when the session began: their ids, which queries.csv uses,
and their files, labels and checksums. It is never rewritten. changes.jsonl has a line
for each later change, with `after_round`, the number of rounds whose answers had been
accepted by then. The images of any round follow from the two files.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fkjax.base import UserError
from fkjax.runs.folder import RunFolder

IMAGES, CHANGES = "images.jsonl", "changes.jsonl"


class Image(NamedTuple):
    """An image of a session.

    Attributes:
        id: number of the image, which never changes.
        file: path in the folder of images, or the last path of an image that is gone.
        label: label in the CSV file of known labels, or "".
        set: set in that file; "" for the pool.
        sha256: SHA-256 of the file.
        is_gone: whether the folder has lost the image.
    """

    id: int
    file: str
    label: str
    set: str
    sha256: str
    is_gone: bool = False


Change = dict[str, Any]
"""A line of changes.jsonl: `change`, its kind; `after_round`; and new values of fields
of the image `id`, or the new value of a setting."""


class Manifest(NamedTuple):
    """The images of a session and their changes.

    Attributes:
        first: images when the session began.
        changes: later changes, in order.
    """

    first: list[Image]
    changes: list[Change]

    def images(self, before_round: int | None = None) -> dict[int, Image]:
        """Returns the images by id.

        Args:
            before_round: number of a round, to return the images as its answers were
                accepted; the present images if None.
        """
        found = {image.id: image for image in self.first}
        for change in self.changes:
            if before_round is not None and change["after_round"] >= before_round:
                break
            if "id" in change:
                new = {k: v for k, v in change.items() if k in Image._fields}
                at = change["id"]
                found[at] = found[at]._replace(**new) if at in found else Image(**new)
        return found

    def ids(self, before_round: int | None = None) -> dict[str, int]:
        """Returns the id of each file; of equal names, that of the present image."""
        images = self.images(before_round).values()
        return {
            i.file: i.id for i in sorted(images, key=lambda image: not image.is_gone)
        }

    def owners(self) -> dict[str, set[int]]:
        """Returns the ids of the images that each file has been; one if it is clear."""
        files = [(image.file, image.id) for image in self.first]
        files += [(c["file"], c["id"]) for c in self.changes if {"file", "id"} <= {*c}]
        found: dict[str, set[int]] = {}
        for file, at in files:
            found.setdefault(file, set()).add(at)
        return found

    def settings(self) -> dict[str, Any]:
        """Returns the present values of the settings that have changed."""
        return {c["setting"]: c["value"] for c in self.changes if "setting" in c}


def read(folder: RunFolder) -> Manifest | None:
    """Reads the images of a session; returns None if the folder has no images.jsonl.

    Raises:
        UserError: if a file cannot be read or is damaged.
    """
    first = folder.read_lines(IMAGES)
    if not first:
        return None
    changes = folder.read_lines(CHANGES)
    try:
        manifest = Manifest([Image(**line) for line in first], changes)
        manifest.images(before_round=2**31)
        manifest.settings()
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{folder.path / IMAGES} or {folder.path / CHANGES} is damaged ({error}): "
            "restore the files as they were written"
        ) from error
    return manifest


def begin(folder: RunFolder, images: Iterable[Image]) -> None:
    """Writes the images of a session that begins."""
    fields = [image._asdict() for image in images]
    for line in fields:
        del line["is_gone"]
    folder.append_lines(IMAGES, fields)


def append(folder: RunFolder, changes: Sequence[Mapping[str, Any]]) -> None:
    """Appends changes, completely or not at all."""
    if changes:
        folder.append_lines(CHANGES, changes)
