"""What Lance may print. It reads this once, when it is imported."""

import os

# A commit that `retag` and `reembed` make is "not stable yet": so its interface is. And of each partition of which a
# part of an index has no rows it says so: hundreds of lines a build. Nobody can act on either.
_QUIET = "lance_table::transaction::manifest_build=error,lance::index::vector::builder=error"


def quiet() -> None:
    """Before each import of lance. The user's own LANCE_LOG stays."""
    os.environ.setdefault("LANCE_LOG", f"warn,{_QUIET}")
