"""Differences between the images of a session and those that are found now."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fkjax.base import UserError
from fkjax.files.folders import named
from fkjax.runs.manifest import Change, Image


def match(
    images: Mapping[int, Image], found: Mapping[str, str], labeled: Iterable[int]
) -> dict[str, int]:
    """Finds which image of a session each file is.

    A file with the name and content of an image is that image. Of the others, a file
    with the same content is an image that was moved, if possible within its name, and a
    file with the same name is an image whose content has changed.

    Args:
        images: images of the session by id.
        found: SHA-256 of each file, by its path in the folder.
        labeled: ids of the images with a label, which are preferred to their copies.

    Returns:
        The id of each file; files that are no image of the session have new ids.
    """
    first = {*labeled}
    order = sorted(images.values(), key=lambda i: (i.is_gone, i.id not in first, i.id))
    left, ids = {image.id for image in order}, dict[str, int]()
    by_key: dict[Any, deque[int]] = defaultdict(deque)
    keys: list[Callable[[str, str], Any]] = [
        lambda file, sha256: ("both", file, sha256),
        lambda file, sha256: ("moved", file.rsplit("/", 1)[-1], sha256),
        lambda file, sha256: ("content", sha256),
        lambda file, sha256: ("name", file),
    ]
    for key in keys:
        for image in order:
            by_key[key(image.file, image.sha256)].append(image.id)
        for file in sorted(found.keys() - ids.keys()):
            candidates = by_key[key(file, found[file])]
            while candidates and file not in ids:
                if (at := candidates.popleft()) in left:
                    ids[file] = at
                    left.remove(at)
    new = sorted(found.keys() - ids.keys())
    return ids | {
        file: i for i, file in enumerate(new, start=max(images, default=-1) + 1)
    }


def differences(before: Mapping[int, Image], now: Mapping[int, Image]) -> list[Change]:
    """Lists what has changed, without `after_round`.

    Args:
        before: images of the session by id.
        now: images that were found, by id.
    """
    changes: list[Change] = []
    for at in sorted({*before, *now}):
        old, new = before.get(at), now.get(at)
        if old is None and new is not None:
            fields = new._asdict()
            del fields["is_gone"]
            changes.append({"change": "added", **fields})
        elif new is None and old is not None and not old.is_gone:
            changes.append(
                {"change": "removed", "id": at, "file": old.file, "is_gone": True}
            )
        elif old is not None and new is not None:
            changes += _differences_of(old, new)
    return changes


def _differences_of(old: Image, new: Image) -> list[Change]:
    found: list[Change] = []
    if old.is_gone:
        found.append(
            {"change": "returned", "id": old.id, "file": new.file, "is_gone": False}
        )
    if old.file != new.file:
        found.append(
            {"change": "moved", "id": old.id, "was": old.file, "file": new.file}
        )
    if old.sha256 != new.sha256:
        found.append(
            {
                "change": "content",
                "id": old.id,
                "was": old.sha256,
                "sha256": new.sha256,
            }
        )
    if (old.label, old.set) != (new.label, new.set):
        found.append(
            {
                "change": "label",
                "id": old.id,
                "was": f"{old.label} ({old.set})" if old.set else "",
                "label": new.label,
                "set": new.set,
            }
        )
    return found


def require_comparable(
    before: Mapping[int, Image], now: Mapping[int, Image], labels: str
) -> None:
    """Raises an error if past rounds cannot be compared with those to come.

    Args:
        before: images of the session by id.
        now: images that were found, by id.
        labels: path of the CSV file of known labels.

    Raises:
        UserError: if images have joined or left the validation set or the test set, or
            an image has another label and a name that was that of another image.
    """
    for part in ("validation", "test"):
        was = {at for at, image in before.items() if image.set == part}
        joined = {at for at in now.keys() - was if now[at].set == part}
        left = {at for at in now.keys() & was if now[at].set != part}
        what = [
            f"{verb} it: {named([now[at].file for at in sorted(ids)])}"
            for verb, ids in (("these joined", joined), ("these left", left))
            if ids
        ]
        if what:
            raise UserError(
                f"the {part} set of {labels} has changed, so that past rounds could "
                f"not be compared with the next ({'; '.join(what)}): restore its "
                "lines, give new lines the set train, or choose another --output-dir"
            )
    owner = {image.file: at for at, image in before.items()}
    unclear = [
        f"{image.file} (was {before[at].file})"
        for at, image in sorted(now.items())
        if at in before
        and owner.get(image.file, at) != at
        and (image.label, image.set) != (before[at].label, before[at].set)
    ]
    if unclear:
        raise UserError(
            f"{len(unclear)} images have the names that other images had, but the "
            f"labels of those in {labels}: {named(unclear)}: rename them back, or "
            "write the labels of the images under their new names"
        )


def sentences(changes: Sequence[Change], images: Mapping[int, Image]) -> list[str]:
    """Describes changes, with up to 20 names of each kind.

    Args:
        changes: changes of a session.
        images: images of the session, after the changes.
    """
    lines = []
    for kind, (what, each) in _KINDS.items():
        of_kind = [c for c in changes if c["change"] == kind]
        if of_kind:
            files = [images[c["id"]].file if "id" in c else "" for c in of_kind]
            shown = [each(c, f) for c, f in zip(of_kind, files, strict=True)]
            lines.append(what.format(_counted(kind, len(shown))) + named(shown))
    return lines


def _counted(kind: str, count: int) -> str:
    noun = {"label": "label", "answer": "answer"}.get(kind, "image")
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def _in_set(change: Change, file: str) -> str:
    return f"{file} ({change['label']}, {change['set']})" if change["set"] else file


def _to(value: str, otherwise: str) -> str:
    return value or otherwise


_KINDS: dict[str, tuple[str, Callable[[Change, str], str]]] = {
    "added": ("added {}: ", _in_set),
    "returned": ("found {} again: ", lambda change, file: file),
    "moved": (
        "{} moved, with the labels and answers: ",
        lambda change, file: f"{change['was']} -> {file}",
    ),
    "removed": (
        "{} no longer in the folder; labels and answers are kept in the records, but "
        "not trained on: ",
        lambda change, file: change["file"],
    ),
    "content": (
        "{} with another content than before, whose labels and answers are kept: ",
        lambda change, file: file,
    ),
    "label": (
        "{} changed in the CSV file: ",
        lambda change, file: (
            f"{file}: {_to(change['was'], 'none')} -> "
            + (f"{change['label']} ({change['set']})" if change["set"] else "none")
        ),
    ),
    "answer": (
        "{} changed in answers.csv: ",
        lambda change, file: (
            f"{file}: {change['was']} -> "
            + _to(change["answer"], "none, so that it can be asked again")
        ),
    ),
    "setting": (
        "changed settings: ",
        lambda change, file: (
            f"--{change['setting']} was {change['was']} and is now {change['value']}"
        ),
    ),
}
"""The start of a sentence on each kind of change, and the text of one change."""
