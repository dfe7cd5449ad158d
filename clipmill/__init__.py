"""A bucket of images and captions becomes a LanceDB table of CLIP embeddings and zero-shot tags.

```python
import clipmill

table = clipmill.open_table("s3://lake/db/images")
table.search("a red shoe", where="width > 512", limit=20).to_pylist()
```

The names below are what other programs may use. Each is loaded when it is first asked for, so that `import clipmill`
costs nothing: no torch, no ray, no lance.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmill.jobs.planning.dry_run import dry_run as plan
    from clipmill.jobs.planning.jobfile import load_job
    from clipmill.jobs.querying.open import Table, open_table
    from clipmill.jobs.querying.request import Examples, Query
    from clipmill.jobs.running.embed import embed
    from clipmill.jobs.selecting.select import select
    from clipmill.schemas.errors import ClipmillError, UserError
    from clipmill.schemas.job.config import JobFile, Storage

    __version__: str

_HOMES = {
    "ClipmillError": "schemas.errors",
    "Examples": "jobs.querying.request",
    "JobFile": "schemas.job.config",
    "Query": "jobs.querying.request",
    "Storage": "schemas.job.config",
    "Table": "jobs.querying.open",
    "UserError": "schemas.errors",
    "embed": "jobs.running.embed",
    "load_job": "jobs.planning.jobfile",
    "open_table": "jobs.querying.open",
    "plan": "jobs.planning.dry_run:dry_run",
    "select": "jobs.selecting.select",
}

__all__ = [
    "ClipmillError",
    "Examples",
    "JobFile",
    "Query",
    "Storage",
    "Table",
    "UserError",
    "__version__",
    "embed",
    "load_job",
    "open_table",
    "plan",
    "select",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from clipmill.schemas.installed import version

        return version()
    if name not in _HOMES:
        raise AttributeError(f"module 'clipmill' has no attribute '{name}'")
    module, _, known_as = _HOMES[name].partition(":")
    value = globals()[name] = getattr(import_module(f"clipmill.{module}"), known_as or name)
    return value


def __dir__() -> list[str]:
    return __all__
