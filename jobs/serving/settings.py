"""What a server is allowed to do, as one frozen value."""

import os
from dataclasses import dataclass, field

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`token`: asked of every request but health; required beyond this machine. `max_body_bytes`: of a JSON body;
    `max_image_bytes`, `max_pixels`: of an uploaded picture, and of an original that is passed on. `query_s`: after
    that a query is answered 504. `threads`: queries at a time; `queue`: those that may wait, further ones get 503.
    `connections`: open at a time; beyond that the one that keeps us waiting longest goes. `header_s`: for the first
    lines of a request; `body_s`: for its body, and for a client to take its answer. `refresh_s`: how often the table
    is looked at for a newer version. `warm_bytes`: for vectors and rows at hand. `processes`: that answer, each
    with `threads`, `queue` and `connections` of its own. `originals`: whether full images are passed on.
    `allow_sources`: places beside the table's own source that images may be read from, see `jobs.table.originals`."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    max_body_bytes: int = 1_000_000
    max_image_bytes: int = 10_000_000
    max_pixels: int = 50_000_000
    query_s: float = 20.0
    connections: int = 256
    header_s: float = 10.0
    body_s: float = 30.0
    threads: int = 4
    queue: int = 64
    refresh_s: float = 15.0
    warm_bytes: int = 2_000_000_000
    processes: int = 1
    originals: bool = True
    allow_sources: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        return self.host in LOCAL_HOSTS


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
