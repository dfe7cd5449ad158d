"""What an index is called. Its name stays when its column is renamed, so another column may have taken it."""

from typing import Any

METRIC = "cosine"  # of every vector index that is built here, and what all searches ask for


def index_name(dataset: Any, column: str) -> str:
    """Of the index there is on the column, to be replaced; else one that no other column's index has."""
    names = {index.name: list(index.field_names) for index in dataset.describe_indices()}
    for name, fields in names.items():
        if fields == [column]:
            return str(name)
    number, name = 1, f"{column}_idx"
    while name in names:
        number += 1
        name = f"{column}_{number}_idx"
    return name
