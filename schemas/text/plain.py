"""Any value of ours as JSON has it: what is printed with `--json`, answered over HTTP and written into a file."""

import dataclasses
import math
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from typing import Any

# Most of what there is comes first: a server asks it of every value of a page.
_AS_IT_IS = (str, int, bool, type(None))


def plain(value: Any) -> Any:
    """JSON values for anything clipmill prints: dataclasses, Arrow tables (as rows), enums, times, numpy scalars.

    NaN and infinity become null: JSON has neither.
    """
    if type(value) in _AS_IT_IS:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if hasattr(value, "to_pylist"):  # pyarrow.Table, RecordBatch, Array
        return plain(value.to_pylist())
    if hasattr(value, "model_dump"):  # pydantic
        return plain(value.model_dump(mode="json", by_alias=True))
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    return value
