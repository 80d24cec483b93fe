"""What a person is asked in one round: which images, and why."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.files.folders import make_folder
from fkjax.files.opening import read_if_exists
from fkjax.files.writing import plain, replace_file


class Asked(NamedTuple):
    """An image whose class is wanted.

    Attributes:
        file: its path in the folder of the images.
        guess: the class that the strategy assumed for it, else the model's.
        confidence: the probability of the guess, by the model.
        pseudo_label: the class that the strategy assumed, if it did.
        answers: the validation image whose mistake it answers, if it does.
        score: how strongly it is wanted; None if it was drawn by lot.
        reason: all that in a sentence.
    """

    file: str
    guess: str
    confidence: float
    pseudo_label: str | None
    answers: str | None
    score: float | None
    reason: str


class Request(NamedTuple):
    """A round's question.

    Attributes:
        round: its number, from 1.
        num_mistakes: the validation mistakes that it started from, or -1.
        images: the most wanted first. Length B.
    """

    round: int
    num_mistakes: int
    images: list[Asked]

    @property
    def files(self) -> list[str]:
        """The paths of the images."""
        return [asked.file for asked in self.images]


def save(path: Path, request: Request) -> None:
    """Writes a request, whole or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    value = request._asdict() | {"images": [a._asdict() for a in request.images]}
    text = json.dumps(plain(value), indent=1, allow_nan=False)
    make_folder(path.parent)
    replace_file(path, (text + "\n").encode())


def read(path: Path) -> Request | None:
    """Reads a request; None if there is none, or it is not as it was written.

    Raises:
        UserError: if the file cannot be read.
    """
    data = read_if_exists(path)
    if data is None:
        return None
    try:
        value: Any = json.loads(data)
        images = [Asked(**asked) for asked in value.pop("images")]
        return Request(images=images, **value)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
