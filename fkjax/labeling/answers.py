"""What a person answered: checked against what was asked, and kept by round."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError
from fkjax.data.labeled_folder import flaw_of_class
from fkjax.files.opening import exists, read_if_exists
from fkjax.files.spreadsheet import Problems, as_it_was, csv_bytes, inert, read_rows
from fkjax.files.writing import replace_file
from fkjax.labeling.label_studio import Answer

CANNOT_TELL = "can't tell"
"""The answer that takes an image out of the pool without a class."""

_CANNOT_TELL = {"?", CANNOT_TELL, "can\N{RIGHT SINGLE QUOTATION MARK}t tell"}
_COLUMNS = ("round", "file", "label")

Taken = dict[int, dict[str, str]]
"""By round, the label of each file, or `CANNOT_TELL`."""


class Source(NamedTuple):
    """Where answers come from.

    Attributes:
        path: of the file.
        answers: what is in it.
        is_history: whether it goes on holding the answers of earlier rounds, as an
            export does. Those that were changed since are no mistake.
    """

    path: Path
    answers: list[Answer]
    is_history: bool


class Collected(NamedTuple):
    """Answers without a mistake.

    Attributes:
        given: the label of each file, or `CANNOT_TELL`, in the order of the questions.
        missing: the files that have no answer yet.
        notes: sentences on answers that changed after they were taken.
    """

    given: dict[str, str]
    missing: list[str]
    notes: list[str]


def collect(
    sources: Iterable[Source],
    asked: Sequence[str],
    *,
    earlier: Mapping[str, str],
    classes: Sequence[str],
) -> Collected:
    """Checks answers, and puts together those of several files.

    Args:
        sources: the files.
        asked: the images that are asked for.
        earlier: the answers that were taken in earlier rounds.
        classes: that an answer may name.

    Raises:
        UserError: with all mistakes of the first file that has one: an unknown class,
            an image that was not asked for, or two answers that disagree.
    """
    given: dict[str, tuple[str, str]] = {}
    wanted, notes = set(asked), []
    for path, answers, is_history in sources:
        problems = Problems(path)
        for file, text, where in answers:
            label = CANNOT_TELL if text.lower() in _CANNOT_TELL else text
            before = given.setdefault(file, (label, f"{path.name}, {where}"))
            if file in earlier and label != earlier[file]:
                what = f"{file} was taken as {earlier[file]}, and is {label} now"
                if is_history:
                    notes.append(f"{path}, {where}: {what}; what was taken counts.")
                else:
                    problems.add(f"{where}: {what}: put back what was taken")
            elif file in earlier:
                pass
            elif file not in wanted:
                problems.add(f"{where}: {file} was not asked for")
            elif label not in (*classes, CANNOT_TELL):
                near = difflib.get_close_matches(label, classes, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                problems.add(f"{where}: there is no class {label!r}{hint}")
            elif label != before[0]:
                problems.add(
                    f"{where}: {file} is {label}, but {before[0]} in {before[1]}"
                )
        problems.raise_any(
            "nothing was taken yet; mend the answers, or if a class is new, add it to "
            "classes.txt beside to_label.csv or with --new-classes"
        )
    return Collected(
        {file: given[file][0] for file in asked if file in given},
        [file for file in asked if file not in given],
        notes,
    )


def read_form(path: Path, names: Iterable[str]) -> tuple[list[Answer], set[str]]:
    """Reads the file that a person filled in.

    Args:
        path: a CSV file with the columns file and label.
        names: of the images that it may be about.

    Returns:
        The answers, and all files that it lists.

    Raises:
        UserError: if it is damaged.
    """
    problems = Problems(path)
    files = {inert(name): name for name in names}
    answers, listed = [], set()
    for line, cells in read_rows(path, ("file", "label"), problems):
        file = files.get(cells["file"], as_it_was(cells["file"]))
        listed.add(file)
        if cells["label"]:
            answers.append(Answer(file, as_it_was(cells["label"]), f"line {line}"))
    problems.raise_any("mend the file, or delete it to have it written again")
    return answers, listed


def read_taken(path: Path, names: Iterable[str]) -> Taken:
    """Reads the answers that were taken; none if there is no file.

    Raises:
        UserError: if it is damaged.
    """
    if not exists(path):
        return {}
    problems, taken = Problems(path), Taken()
    files = {inert(name): name for name in names}
    for line, cells in read_rows(path, _COLUMNS, problems):
        number, file = cells["round"], files.get(cells["file"])
        if file is None or not cells["label"] or not number.isdecimal():
            problems.add("is no answer", line)
        else:
            of_round = taken.setdefault(int(number), {})
            of_round[file] = as_it_was(cells["label"])
    problems.raise_any("put back the file as it was written")
    return taken


def save_taken(path: Path, taken: Taken) -> None:
    """Writes the answers of all rounds, whole or not at all.

    Raises:
        UserError: if they cannot be written.
    """
    rows: list[Sequence[Any]] = [_COLUMNS]
    for number, of_round in taken.items():
        rows += [[number, inert(f), inert(label)] for f, label in of_round.items()]
    replace_file(path, csv_bytes(rows))


def read_classes(path: Path) -> list[str]:
    """Reads the names of classes, one a line; none if there is no file.

    Raises:
        UserError: with all lines that are no name of a class.
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
    problems.raise_any("mend the file")
    return list(dict.fromkeys(line for line in lines if line))


def flaw_of_answer(name: str) -> str | None:
    """What keeps a text from being a class that can be answered, or None."""
    if name.lower() in _CANNOT_TELL:
        return f"{name!r} is what stands for an image that nobody can tell"
    return flaw_of_class(name)
