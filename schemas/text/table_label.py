"""A table's address as a name that Kubernetes, Ray and file systems take."""

import hashlib
import re


def table_label(table: str) -> str:
    """A DNS label of at most 36 characters, which is what RayCronJob takes; no two tables share one."""
    last = re.sub(r"[^a-z0-9]+", "-", table.rpartition("/")[2].lower()).strip("-")[:20].strip("-")
    digest = hashlib.sha256(table.encode()).hexdigest()[:6]
    return "-".join(part for part in ("clipmill", last, digest) if part)
