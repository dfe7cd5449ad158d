"""Words in, pictures out: `open_table(uri).search("a red shoe")`, from Python.

```python
from jobs.query import open_table
table = open_table("s3://lake/db/images")
table.search("a red shoe", where="width >= 512 AND license = 'cc0'", no_tags=("person",), k=20)
table.search(image="shoe.jpg", min_score=0.25).to_pandas()      # or polars.from_arrow(...)
table.search(like="s3://lake/raw/0001.tar#000123.jpg", negative=Examples(texts=("sandals",)))
table.search("canvas sneaker", hybrid=True, text_weight=0.3, offset=20)
```
"""

from jobs.querying.request import Examples, Query
from jobs.querying.table import Table
from schemas.config import Storage
from workers.engine import Engine

__all__ = ["Examples", "Query", "Table", "open_table"]


def open_table(
    uri: str, *, version: int | str | None = None, storage: Storage | None = None, engine: Engine | None = None
) -> Table:
    """Open `<database uri>/<name>` for reading.

    `version`: a number, a tag, or None for `live` where it exists and else the newest. `engine`: a loaded model to
    encode queries with; None loads the one the table's fingerprint names, at the first text or image. Raises
    UserError where there is no such table or version.
    """
    return Table(uri, version, storage or Storage(), engine)
