"""Words in, pictures out: `open_table(uri).search("a red shoe")`, from Python.

```python
import clipmill

table = clipmill.open_table("s3://lake/db/images")
table.search("a red shoe", where="width >= 512 AND license = 'cc0'", no_tags=("person",), limit=20)
table.search(image="shoe.jpg", min_score=0.25).to_pylist()  # or .to_pandas(), polars.from_arrow(...)
table.search(like="s3://lake/raw/0001.tar#000123.jpg", negative="sandals")
table.search("canvas sneaker", hybrid=True, text_weight=0.3, offset=20)
```
"""

from os import PathLike, fspath

from clipmill.jobs.querying.request import Examples, Query
from clipmill.jobs.querying.table import Table
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.engine import Engine

__all__ = ["Examples", "Query", "Table", "open_table"]


def open_table(
    uri: str | PathLike[str],
    *,
    version: int | str | None = None,
    storage: Storage | None = None,
    engine: Engine | None = None,
    **others: object,
) -> Table:
    """Open `<database uri>/<name>` for reading.

    `version`: a number, a tag, or None for `live` where it exists and else the newest. `engine`: a loaded model to
    encode queries with; None loads the one the table's fingerprint names, at the first text or image. Raises
    UserError where there is no such table or version.
    """
    if others:  # endpoint_url and region, as the command line has them
        raise UserError(
            f"open_table has no option {next(iter(others))}",
            "there is version, storage, engine; a server goes into storage=clipmill.Storage(endpoint_url=...)",
        )
    if not isinstance(uri, str | PathLike):
        raise UserError(f"a table is named by a string, not by a {type(uri).__name__}", "give <database uri>/<name>")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int | str)):
        raise UserError(f"version is {version!r}", "give a whole number, or a tag such as live")
    if storage is not None and not isinstance(storage, Storage):
        raise UserError(
            f"storage is a {type(storage).__name__}",
            "give clipmill.Storage(endpoint_url=..., region=...)",
        )
    return Table(fspath(uri), version, storage or Storage(), engine)
