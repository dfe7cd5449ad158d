"""Which clipmill this process runs: version, and a digest of the sources that a worker runs.

Ray puts the submitter's folders first on a worker's path, so a user whose directory has a `workers/` or `jobs/` would
get those instead of ours. The driver compares its own origin with every actor's and refuses a difference.
"""

import functools
import hashlib
from pathlib import Path

import clipmill
from clipmill.schemas.installed import version

PACKAGES = ("schemas", "workers")  # what an actor runs; `jobs` stays with the driver


@functools.cache
def origin() -> tuple[str, str, str]:
    """(version, digest, folder). Only `.py` files count: caches and data may differ between machines."""
    root = Path(clipmill.__file__).resolve().parent
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return version(), digest.hexdigest()[:16], str(root)
