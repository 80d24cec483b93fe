"""The set that each line of a CSV file of labels names."""

from collections.abc import Mapping, Sequence

from fkjax.files.spreadsheet import Problems, Row

SETS = ("validation", "train", "test")
"""The sets that a labeled image can belong to; the first is the default."""

_NAMES = {
    "validation": ("validation", "val", "valid", "validate", "dev", "development"),
    "train": ("train", "training"),
    "test": ("test", "testing"),
}
_SET_OF = {name: part for part, names in _NAMES.items() for name in names}

COLUMNS = ("set", "split")
"""The columns that can name the set of each image."""

_CERTAIN = (
    *("sets", "splits", "subset", "data_split", "partition", "fold", "tvt"),
    *_SET_OF,
    *(f"is_{name}" for name in _SET_OF),
)
_POSSIBLE = ("dataset", "data_set", "part", "phase", "purpose", "stage", "usage")


def set_column(rows: Sequence[Row], problems: Problems) -> str | None:
    """Returns the column that names the set of each image: `set` or `split`.

    Args:
        rows: lines of the file.
        problems: collection to which other columns that seem to name sets are added.

    Returns:
        The name of the column; None if there is none.
    """
    columns = list(rows[0].cells) if rows else []
    found = [name for name in COLUMNS if name in columns]
    if len({tuple(_part(row.cells, name) for row in rows) for name in found}) > 1:
        problems.add("has the columns set and split, which differ: leave one out")
    for name in sorted(set(columns) - {"file", "label"}) if not found else ():
        values = {row.cells[name].lower() for row in rows} - {""}
        is_meant = name in _CERTAIN or (values and values <= set(_SET_OF))
        if is_meant or (name in _POSSIBLE and values & set(_SET_OF)):
            problems.add(
                f"the column {name} seems to name the set of each image: call it set, "
                f"with {', '.join(SETS)}, or leave it out"
            )
    return found[0] if found else None


def ignored_columns(rows: Sequence[Row]) -> list[str]:
    """Returns the names of the columns that are not read, if they have any."""
    columns = rows[0].cells if rows else ()
    return [c for c in columns if c and c not in ("file", "label", *COLUMNS)]


def set_of(cells: Mapping[str, str], column: str | None) -> str:
    """Returns the set that a line names, by its usual names; the first by default.

    >>> set_of({"split": "Val"}, "split"), set_of({"file": "a.png"}, None)
    ('validation', 'validation')
    """
    return _part(cells, column) if column is not None else SETS[0]


def _part(cells: Mapping[str, str], column: str) -> str:
    part = cells[column].lower()
    return _SET_OF.get(part, part) or SETS[0]
