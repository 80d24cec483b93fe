"""Names of files as people and programs write them, matched to those of a folder."""

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import unquote

from fkjax.files.spreadsheet import as_in_cell, inert

_SHOWN = 3
_MAX_COMPARED = 10_000  # comparing each name takes some microseconds
_SIMILAR = 0.8


def composed(text: str) -> str:
    r"""Returns a text in Unicode normal form C; macOS decomposes names of files.

    >>> composed("cafe\u0301") == "caf\u00e9"
    True
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _in_cell(name: str) -> str:
    return inert(name).strip()


def _path(text: str) -> str:
    return os.path.normpath(text)


def _slashes(text: str) -> str:
    return os.path.normpath(text.replace("\\", "/"))


def _composed(text: str) -> str:
    return composed(_slashes(as_in_cell(text)))


def _lower(text: str) -> str:
    return composed(_composed(text).lower())


def _unescaped(text: str) -> str:
    return _lower(unquote(as_in_cell(text)))


def _base(text: str) -> str:
    return _unescaped(text).rsplit("/", 1)[-1]


def _safe(text: str) -> str:
    return re.sub(r"[^-\w.]", "", _base(text).replace(" ", "_"))


# Pairs of functions: that of a given text and that of a name must return the same.
_READINGS: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
    (str, str),
    (str, _in_cell),
    (_path, str),
    (_path, _in_cell),
    (_slashes, str),
    (_slashes, _in_cell),
    (_composed, _composed),
    (_lower, _lower),
    (_unescaped, _unescaped),
)


class Names:
    """Paths of files in a folder, found by texts that may be written differently.

    A text is compared exactly, as a cell of a CSV file, without `./`, with backslashes,
    in another Unicode normal form, in another case, and with URL escapes, in this
    order. The first comparison with a match counts.
    """

    def __init__(self, names: Iterable[str]):
        """Stores the names.

        Args:
            names: paths of the files, with slashes.
        """
        self._names = list(names)
        self._groups: dict[Callable[[str], str], dict[str, list[str]]] = {}

    def find(self, given: str) -> list[str]:
        """Returns the names that a text can denote: one if it is certain, or none."""
        if not given:
            return []
        for of_given, of_name in _READINGS:
            if found := self._by(of_name).get(of_given(given)):
                return found
        return []

    def named(self, base: str) -> list[str]:
        """Returns the names that end in a name of a file, in any folder.

        Names are also found as servers store them: without the characters that are
        unsafe in URLs, and with underscores for spaces.
        """
        for key in (_base, _safe):
            if found := self._by(key).get(key(base)):
                return found
        return []

    def hint(self, given: str) -> str:
        """Returns a hint at the nearest names, to be appended to a message, or ""."""
        found = self.find(given)
        if len(found) > 1:
            return f" (it can be {_either(found)}: write the name exactly)"
        found = found or self.named(given) or self._near(given)
        return f" (did you mean {_either(found)}?)" if found else ""

    def _near(self, given: str) -> list[str]:
        """Returns the most similar name; names with other numbers are not similar."""
        if len(self._names) > _MAX_COMPARED:
            return []
        digits = re.findall(r"[0-9]+", given)
        names = [n for n in self._names if re.findall(r"[0-9]+", n) == digits]
        return difflib.get_close_matches(given, names, n=1, cutoff=_SIMILAR)

    def _by(self, key: Callable[[str], str]) -> dict[str, list[str]]:
        """Returns the names by what a function returns for them."""
        if key not in self._groups:
            groups = self._groups[key] = {}
            for name in self._names:
                groups.setdefault(key(name), []).append(name)
        return self._groups[key]


def _either(names: Sequence[str]) -> str:
    """Returns some names for a message."""
    more = ", ..." if len(names) > _SHOWN else ""
    return " or ".join(names[:_SHOWN]) + more
