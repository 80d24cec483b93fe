"""Tables of other libraries as mappings of arrays.

These are tables of pandas, Polars, Arrow and Hugging Face's datasets, and groups of
HDF5 and Zarr. No library is imported: a table is recognized by its methods.
"""

from collections.abc import Collection, Mapping
from typing import Any

from fkjax.data.arrow import ArrowColumn, column_of, table_of


def as_mapping(given: Any, names: Collection[str]) -> Mapping[str, Any] | None:
    """Returns a table as a mapping of arrays.

    Args:
        given: mapping of arrays, group of HDF5 or Zarr, table of pandas, Polars or
            Arrow, or dataset of Hugging Face.
        names: names of the arrays that are needed; others may be None.

    Returns:
        The arrays by name; None if it is none of these.

    Raises:
        UserError: if PyArrow is needed and not installed.
    """
    if isinstance(given, Mapping):
        return given
    if all(hasattr(given, x) for x in ("with_format", "column_names", "__len__")):
        return {
            name: _of_dataset(given, name) if name in names else None
            for name in given.column_names
        }
    if hasattr(given, "keys") and hasattr(given, "__getitem__"):
        return {
            name: given[name] if name in names else None for name in list(given.keys())
        }
    if hasattr(given, "__arrow_c_stream__"):
        table = table_of(given)
        return {
            name: column_of(table, name) if name in names else None
            for name in table.column_names
        }
    return None


def _of_dataset(dataset: Any, name: str) -> ArrowColumn:
    rows = dataset.select_columns([name]).with_format("arrow")
    return ArrowColumn(
        name, len(dataset), lambda start, stop: rows[start:stop].column(0)
    )
