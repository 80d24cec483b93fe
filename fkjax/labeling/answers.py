"""A person's answers: checked against the request, and saved by round."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError
from fkjax.data.labeled_folder import flaw_of_class
from fkjax.files.matching import Names, composed
from fkjax.files.opening import exists, read_if_exists
from fkjax.files.spreadsheet import Problems, as_it_was, csv_bytes, inert, read_rows
from fkjax.files.writing import replace_file
from fkjax.labeling.label_studio import Answer

CANNOT_TELL = "can't tell"
"""The answer that removes an image from the pool without a label."""

_CANNOT_TELL = {"?", CANNOT_TELL, "can\N{RIGHT SINGLE QUOTATION MARK}t tell"}
_COLUMNS = ("round", "file", "label")

Taken = dict[int, dict[str, str]]
"""The label of each file, or `CANNOT_TELL`, by round."""


class AnswerFile(NamedTuple):
    """A file with answers.

    Attributes:
        path: path of the file.
        answers: answers in the file.
        is_history: whether the file also contains the answers of earlier rounds, as an
            export does. It is then not an error if some of them have changed.
    """

    path: Path
    answers: list[Answer]
    is_history: bool


class Collected(NamedTuple):
    """Valid answers to a request.

    Attributes:
        given: label of each file, or `CANNOT_TELL`, in the order of the request.
        missing: files that have no answer yet.
        notes: sentences on answers that changed after they were accepted.
    """

    given: dict[str, str]
    missing: list[str]
    notes: list[str]


def collect(
    sources: Iterable[AnswerFile],
    asked: Sequence[str],
    *,
    earlier: Mapping[str, str],
    classes: Sequence[str],
    names: Iterable[str] = (),
) -> Collected:
    """Checks answers and combines those of several files.

    Args:
        sources: files with answers.
        asked: files of the requested images.
        earlier: answers that were accepted in earlier rounds.
        classes: classes that are allowed as answers.
        names: names of all images, for messages.

    Raises:
        UserError: if an answer is an unknown class, is for an image that was not
            requested, or differs from another answer; the message lists all errors of
            the first file that has one.
    """
    given: dict[str, tuple[str, str]] = {}
    wanted, notes = set(asked), []
    files = Names(names)
    spelled = {composed(name): name for name in (*reversed(classes), CANNOT_TELL)}
    for path, answers, is_history in sources:
        problems = Problems(path)
        for file, text, where in answers:
            label = CANNOT_TELL if text.lower() in _CANNOT_TELL else text
            if label not in classes:
                label = spelled.get(composed(label), label)
            before = given.setdefault(file, (label, f"{path.name}, {where}"))
            if file in earlier and label != earlier[file]:
                what = f"{file} was accepted as {earlier[file]}, but is now {label}"
                if is_history:
                    notes.append(
                        f"{path}, {where}: {what}; the accepted label is kept (to "
                        "correct it, change answers.csv)"
                    )
                else:
                    problems.add(
                        f"{where}: {what}: restore the accepted label (to correct it, "
                        "change answers.csv)"
                    )
            elif file in earlier:
                pass
            elif file not in wanted:
                hint = "" if files.find(file) == [file] else files.hint(file)
                problems.add(f"{where}: {file} was not requested{hint}")
            elif label not in (*classes, CANNOT_TELL):
                near = difflib.get_close_matches(label, classes, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                problems.add(f"{where}: unknown class {label!r}{hint}")
            elif label != before[0]:
                problems.add(
                    f"{where}: {file} is {label}, but {before[0]} in {before[1]}"
                )
        problems.raise_any(
            "no answers were accepted; fix them or, if a class is new, add it to "
            "classes.txt beside to_label.csv or with --new-classes"
        )
    return Collected(
        {file: given[file][0] for file in asked if file in given},
        [file for file in asked if file not in given],
        notes,
    )


def read_form(path: Path, names: Iterable[str]) -> tuple[list[Answer], set[str]]:
    """Reads the form that a person filled in.

    Args:
        path: path of a CSV file with the columns file and label.
        names: names of the images that it may contain.

    Returns:
        The answers, and all files that the form lists.

    Raises:
        UserError: if the form is damaged.
    """
    problems = Problems(path)
    files = Names(names)
    answers, listed = [], set()
    for line, cells in read_rows(path, ("file", "label"), problems):
        found = files.find(cells["file"])
        file = found[0] if len(found) == 1 else as_it_was(cells["file"])
        listed.add(file)
        if cells["label"]:
            answers.append(Answer(file, as_it_was(cells["label"]), f"line {line}"))
    problems.raise_any("fix the file, or delete it so that it is written again")
    return answers, listed


def read_taken(path: Path, names: Iterable[str]) -> Taken:
    """Reads the answers accepted so far; none if there is no file.

    Args:
        path: path of answers.csv.
        names: names of the images.

    Raises:
        UserError: if the file is damaged.
    """
    if not exists(path):
        return {}
    problems, taken = Problems(path), Taken()
    files = Names(names)
    for line, cells in read_rows(path, _COLUMNS, problems):
        number, found = cells["round"], files.find(cells["file"])
        if len(found) != 1 or not cells["label"] or not number.isdecimal():
            problems.add("not a valid answer", line)
        else:
            label = as_it_was(cells["label"])
            of_round = taken.setdefault(int(number), {})
            of_round[found[0]] = CANNOT_TELL if label in _CANNOT_TELL else label
    problems.raise_any("restore the file as it was written")
    return taken


def save_taken(path: Path, taken: Taken) -> None:
    """Writes the answers of all rounds, completely or not at all.

    Args:
        path: path of answers.csv.
        taken: accepted answers of all rounds.

    Raises:
        UserError: if the file cannot be written.
    """
    rows: list[Sequence[Any]] = [_COLUMNS]
    for number, of_round in taken.items():
        rows += [[number, inert(f), inert(label)] for f, label in of_round.items()]
    replace_file(path, csv_bytes(rows))


def read_classes(path: Path) -> list[str]:
    """Reads names of classes, one per line; none if there is no file.

    Raises:
        UserError: if lines are not names of classes; the message lists them.
    """
    data = read_if_exists(path) or b""
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} must be UTF-8, but is not: save it as UTF-8"
        ) from error
    problems = Problems(path)
    for number, line in enumerate(lines, start=1):
        what = flaw_of_answer(line) if line else None
        if what:
            problems.add(f"the class {what}", number)
    problems.raise_any("fix the file")
    first = {composed(line): line for line in reversed(lines) if line}
    return [line for line in dict.fromkeys(lines) if first.get(composed(line)) == line]


def flaw_of_answer(name: str) -> str | None:
    """Returns why a text cannot be the name of a class to answer with, or None."""
    if name.lower() in _CANNOT_TELL:
        return f"{name!r} is reserved for images without a recognizable class"
    return flaw_of_class(name)
