"""Validation labels of classes for which the model has no output yet.

Every validation example of such a class is a mistake, and the strategies that match
mistakes query its neighbors. Names of more classes than the model has are those of the
logits first, then those of such classes. A label that is not among the names, or one of
no names, is taken as such a class only if it is hardly an error:

- A number must follow the numbers of the model's classes without a gap, or lie between
  their names. Without names, there must be a label 0, because the labels may be counted
  from 1, and no more such classes than the model has.
- A name must differ from those of the other classes by more than case, spaces, Unicode
  form or one letter, and be neither a number nor a mark of a missing label.
- At least one label must be a class of the model.

All other labels are refused.
"""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.data.labeled_folder import natural
from fkjax.files.matching import composed
from fkjax.selection.arguments import whole_or_none
from fkjax.selection.class_names import (
    class_names,
    class_numbers,
    given_classes,
    plain_labels,
    unknown_label,
)

_MISSING = set("|nan|none|null|na|n/a|<na>|nat|?|unknown|unlabeled".split("|"))
_LONG = 4  # letters of a name that one wrong letter leaves recognizable


class Labels(NamedTuple):
    """The labels of a validation set and the names of all classes.

    Attributes:
        numbers: numbers of the classes. Shape [M] int32.
        classes: names of the classes, those of the model first.
        num_lacking: number of classes for which the model has no output.
    """

    numbers: np.ndarray
    classes: list[str]
    num_lacking: int


def read_labels(labels: np.ndarray, classes: Any, num_outputs: int) -> Labels:
    """Reads validation labels, which may be of classes that the model lacks.

    Args:
        labels: names or numbers of classes. Shape [M].
        classes: names of the classes as given by the user, in the order of the logits;
            or None.
        num_outputs: number of logits, C.

    Raises:
        UserError: if the names do not fit the logits or the labels, or a label is
            neither a class of the model nor certainly one that it lacks.
    """
    given = given_classes(classes)
    names = class_names(given, num_outputs)
    if len(names) == num_outputs:
        more = _lacking(plain_labels(labels), given, names)
        given = None if given is None else [*given, *more]
        names = class_names(given, num_outputs + len(more))
    numbers = class_numbers(labels, names, given)
    if len(names) > num_outputs > numbers.max():
        raise UserError(
            f"the network has {num_outputs} classes and needs as many different names, "
            f"got {len(names)} ({', '.join(names[:10])}); no validation example is of "
            f"a class after the first {num_outputs}"
        )
    return Labels(numbers, names, len(names) - num_outputs)


def _lacking(
    labels: Sequence[Any], given: Sequence[Any] | None, names: Sequence[str]
) -> list[Any]:
    """Returns the labels of classes that the model lacks, in the order of the classes.

    Raises:
        UserError: if there seem to be some, but this is not certain.
    """
    numbers: list[Any] = [whole_or_none(label) for label in labels]
    known = [whole_or_none(name) for name in names]
    if None not in known and None not in numbers:
        found: list[Any] = sorted(set(numbers) - set(known))
        flaw = _flaw_of_numbers(found, known, numbers, are_given=given is not None)
        if found and given is not None and set(numbers) <= set(range(len(names))):
            if flaw:
                return []  # they are positions, or refused by `class_numbers`
            flaw = found[0], "the labels may be names or positions from 0"
        labels = numbers
    elif given is not None and all(isinstance(label, str) for label in labels):
        forms = set(map(composed, names))
        found = sorted({x for x in labels if composed(x) not in forms}, key=natural)
        flaw = _flaw_of_names(found, names, labels)
    else:
        return []
    if found and flaw:
        label, advice = flaw
        raise unknown_label(labels.index(label), label, names, advice)
    return found


def _flaw_of_numbers(
    found: Sequence[int],
    known: Sequence[Any],
    labels: Collection[Any],
    *,
    are_given: bool,
) -> tuple[int, str] | None:
    """Returns a number that may not be a class without an output, and why."""
    end = max(known) + 1
    while end in found:
        end += 1
    for number in found:
        if not min(known) <= number < end:
            return number, f"{number} does not follow them"
    if not set(known) & set(labels):
        return found[0], "no label is one of them"
    if not are_given and 0 not in labels:
        return found[-1], "no label is 0, so that labels may be counted from 1"
    if not are_given and len(found) > len(known):
        return found[0], "the labels have more other classes"
    return None


def _flaw_of_names(
    found: Sequence[str], known: Iterable[str], labels: Collection[str]
) -> tuple[str, str] | None:
    """Returns a name that may not be that of a class without an output, and why."""
    others = list(known)
    if found and len(found) == len(set(labels)):
        return found[0], "no label is one of them"
    for name in found:
        plain = _letters(name)
        if plain in _MISSING:
            return name, "it may mark a missing label"
        if whole_or_none(plain) is not None:
            return name, "it is a number"
        for other in others:
            if _letters(other) == plain or _is_one_letter(other, name):
                return name, f"{other} is similar"
        others.append(name)
    return None


def _letters(name: str) -> str:
    """Returns a name without case, spaces, hyphens and underscores."""
    return re.sub(r"[-_\s]+", "", unicodedata.normalize("NFKC", name).casefold())


def _is_one_letter(first: str, second: str) -> bool:
    """Returns whether one letter is wrong, missing, added or exchanged with the next.

    Digits and words of one letter distinguish classes, such as "type A" and "type B".

    >>> pairs = ("wolf", "wolff"), ("wolf", "wlof"), ("boy", "toy"), ("b 1", "b 2")
    >>> [_is_one_letter(*pair) for pair in pairs]
    [True, True, False, False]
    """
    if min(len(first), len(second)) < _LONG:
        return False
    start = os.path.commonprefix([first, second])
    a, b = first[len(start) :], second[len(start) :]
    end = os.path.commonprefix([a[::-1], b[::-1]])
    a, b = a[: len(a) - len(end)], b[: len(b) - len(end)]
    is_word = not (start[-1:] + end[-1:]).strip(" -_./")
    is_one = max(len(a), len(b)) == 1 or (len(a) == 2 and a == b[::-1])
    return is_one and (a + b).isalpha() and not is_word
