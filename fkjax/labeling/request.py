"""The request of one round: the images to label, and the reasons for them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.files.folders import make_folder
from fkjax.files.opening import read_if_exists
from fkjax.files.writing import plain, replace_file


class Asked(NamedTuple):
    """An image to label.

    Attributes:
        file: path of the image in the folder of images.
        guess: class that the strategy assumed for it or else the model predicts.
        confidence: probability of the guess by the model.
        pseudo_label: class that the strategy assumed; None if it assumed none.
        answers: validation image, a mistake of the model, that the image was matched
            to; None if there is none.
        score: score of the image by the strategy; None if it was drawn at random.
        reason: sentence on why the image was chosen.
    """

    file: str
    guess: str
    confidence: float
    pseudo_label: str | None
    answers: str | None
    score: float | None
    reason: str


class Request(NamedTuple):
    """The images to label in one round.

    Attributes:
        round: number of the round, counted from 1.
        num_mistakes: number of validation mistakes that the strategy used, or -1.
        images: images to label, best first. Length B.
    """

    round: int
    num_mistakes: int
    images: list[Asked]

    @property
    def files(self) -> list[str]:
        """The paths of the images in their folder."""
        return [asked.file for asked in self.images]


def save(path: Path, request: Request) -> None:
    """Writes a request, completely or not at all.

    Args:
        path: file to write.
        request: request of a round.

    Raises:
        UserError: if the file cannot be written.
    """
    value = request._asdict() | {"images": [a._asdict() for a in request.images]}
    text = json.dumps(plain(value), indent=1, allow_nan=False)
    make_folder(path.parent)
    replace_file(path, (text + "\n").encode())


def read(path: Path) -> Request | None:
    """Reads a request.

    Args:
        path: file written by `save`.

    Returns:
        The request; None if the file does not exist or is damaged.

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
