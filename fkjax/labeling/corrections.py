"""Answers of past rounds that were corrected, and names of images that were asked for.

answers.csv names an image as it was named when the answer was accepted.
"""

import difflib
from collections.abc import Sequence
from typing import Any

from fkjax.base import UserError
from fkjax.files.folders import named
from fkjax.files.matching import Names
from fkjax.files.opening import exists
from fkjax.files.spreadsheet import Problems, csv_bytes, inert, read_rows
from fkjax.files.writing import replace_file
from fkjax.labeling import request
from fkjax.labeling.answers import (
    CANNOT_TELL,
    read_classes,
    read_taken,
    save_taken,
)
from fkjax.runs.folder import QUERY_COLUMNS, RunFolder
from fkjax.runs.manifest import Change, Manifest

Answers = dict[int, dict[int, str]]
"""The label of each image, or `CANNOT_TELL`, by round and id."""


def accepted(folder: RunFolder, manifest: Manifest) -> Answers:
    """Reads the accepted answers of all rounds.

    Args:
        folder: folder of the session.
        manifest: images of the session and their changes.

    Raises:
        UserError: if answers.csv is damaged.
    """
    taken = read_taken(folder.path / "answers.csv", manifest.owners())
    found: Answers = {}
    for number, of_round in taken.items():
        ids = manifest.ids() | manifest.ids(before_round=number)
        found[number] = {ids[file]: label for file, label in of_round.items()}
    return found


def save(folder: RunFolder, manifest: Manifest, answers: Answers) -> None:
    """Writes the accepted answers of all rounds, completely or not at all."""
    taken = {}
    for number, of_round in answers.items():
        images = manifest.images(before_round=number)
        taken[number] = {images[at].file: label for at, label in of_round.items()}
    save_taken(folder.path / "answers.csv", taken)


def answered(folder: RunFolder, manifest: Manifest) -> set[int]:
    """Returns the ids of all images with an accepted answer."""
    rounds = accepted(folder, manifest).values()
    return {at for of_round in rounds for at in of_round}


def num_accepted(
    folder: RunFolder, manifest: Manifest, records: Sequence[dict[str, Any]]
) -> int:
    """Returns the number of rounds whose answers were accepted."""
    before = [change["after_round"] for change in manifest.changes]
    return max([len(records), *accepted(folder, manifest), *before])


def of_answers(
    folder: RunFolder,
    manifest: Manifest,
    records: Sequence[dict[str, Any]],
    classes: Sequence[str],
) -> list[Change]:
    """Lists the answers of recorded rounds that have changed in answers.csv.

    A missing answers.csv is written again.

    Args:
        folder: folder of the session.
        manifest: images of the session and their changes.
        records: records of the rounds.
        classes: classes that are allowed beside those of the records.

    Raises:
        UserError: if a changed answer is an unknown class.
    """
    path = folder.path / "answers.csv"
    recorded = _recorded(folder, manifest, records)
    if recorded and not exists(path):
        save(folder, manifest, recorded)
    now = accepted(folder, manifest)
    more = read_classes(folder.path / "classes.txt")
    known = [*(records[-1]["classes"] if records else ()), *classes, *more]
    images, problems, changes = manifest.images(), Problems(path), list[Change]()
    for number, was in recorded.items():
        new = now.get(number, {})
        for at in sorted({*was, *new}):
            if was.get(at) == new.get(at):
                continue
            label = new.get(at, "")
            if label and label not in (*known, CANNOT_TELL):
                near = difflib.get_close_matches(label, known, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                problems.add(f"{images[at].file}: unknown class {label!r}{hint}")
            change = {"change": "answer", "id": at, "round": number}
            changes.append(change | {"was": was.get(at, "none"), "answer": label})
    problems.raise_any("fix them or, if a class is new, add it to classes.txt")
    return changes


def _recorded(
    folder: RunFolder, manifest: Manifest, records: Sequence[dict[str, Any]]
) -> Answers:
    """Returns the answers of the recorded rounds, with the corrections so far."""
    path = folder.path / "queries.csv"
    if not records or not exists(path):
        return {}
    classes = {record["round"]: record["classes"] for record in records}
    found: Answers = {number: {} for number in classes}
    problems = Problems(path)
    for line, cells in read_rows(path, QUERY_COLUMNS, problems):
        try:
            number, at = int(cells["round"]), int(cells["id"])
            label = cells["label"]
            if number in classes:
                name = classes[number][int(label)] if label else CANNOT_TELL
                found[number][at] = name
        except (ValueError, IndexError):
            problems.add("is not as the session wrote it", line)
    problems.raise_any("restore the file as it was written")
    for change in manifest.changes:
        if change["change"] == "answer" and change["round"] in found:
            of_round = found[change["round"]]
            of_round[change["id"]] = change["answer"]
            if not change["answer"]:
                del of_round[change["id"]]
    return found


def labels_of(manifest: Manifest) -> list[str]:
    """Returns the classes of the corrected answers."""
    last = {
        (change["round"], change["id"]): change["answer"]
        for change in manifest.changes
        if change["change"] == "answer"
    }
    return [label for label in last.values() if label not in ("", CANNOT_TELL)]


def rename_pending(
    folder: RunFolder, before: Manifest, after: Manifest, number: int
) -> None:
    """Renames the images of the round that waits for answers, which are kept.

    Args:
        folder: folder of the session.
        before: images before the changes.
        after: images after them.
        number: number of the round.

    Raises:
        UserError: if the form has answers under names that other images have now.
    """
    old, new = before.images(), after.images()
    moved = {i.file: new[i.id].file for i in old.values() if i.file != new[i.id].file}
    if not moved:
        return
    _rename_form(folder, before, after, moved)
    path = folder.path / "requests" / f"round-{number}.json"
    asked = request.read(path)
    if asked is not None:
        images = [
            image._replace(
                file=moved.get(image.file, image.file),
                answers=image.answers and moved.get(image.answers, image.answers),
            )
            for image in asked.images
        ]
        request.save(path, asked._replace(images=images))


def _rename_form(
    folder: RunFolder, before: Manifest, after: Manifest, moved: dict[str, str]
) -> None:
    path = folder.path / "to_label.csv"
    if not exists(path):
        return
    problems = Problems(path)
    rows = [row.cells for row in read_rows(path, ("file", "label"), problems)]
    problems.raise_any("fix the file, or delete it so that it is written again")
    names, now, unclear = Names(before.ids()), after.ids(), list[str]()
    for cells in rows:
        found = names.find(cells["file"])
        file = found[0] if len(found) == 1 else ""
        if file in moved:
            if cells["label"] and file in now and now[file] != before.ids()[file]:
                unclear.append(file)
            cells["file"] = inert(moved[file])
    if unclear:
        raise UserError(
            f"{path} has answers for images that were renamed, whose names other "
            f"images have now: {named(unclear)}: rename the images back until the "
            "answers are accepted"
        )
    if rows:
        table = [list(rows[0]), *(list(cells.values()) for cells in rows)]
        replace_file(path, csv_bytes(table))
