"""`clipmill serve TABLE`: HTTP API and picture page over one table, from one process or several."""

import logging
import os
from collections.abc import Callable

from clipmill.jobs.querying.open import open_table
from clipmill.jobs.serving import address
from clipmill.jobs.serving.settings import Settings, cores
from clipmill.jobs.table.memory import few_arenas
from clipmill.schemas.errors import UserError
from clipmill.schemas.installed import require
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.words import counted

logger = logging.getLogger(__name__)


def check(settings: Settings) -> None:
    """Raises UserError for a server that anybody on the network could read."""
    if not settings.is_local and not settings.token:
        raise UserError(
            f"serving on {settings.host} without a token would show the table to the whole network",
            "set CLIPMILL_SERVE_TOKEN, or leave --host at 127.0.0.1",
        )
    if settings.token is not None and (len(settings.token) < 16 or not settings.token.isascii()):
        raise UserError("the token is shorter than 16 ASCII characters", "make one with `openssl rand -hex 16`")


def serve(
    table: str,
    settings: Settings,
    storage: Storage | None = None,
    *,
    version: int | str | None = None,
    tell: Callable[[str], None] = logger.info,
) -> None:
    """Serve until interrupted. Raises UserError for a missing table, a taken port, or an open server without token."""
    check(settings)
    require("serving a table", "fastapi", "uvicorn", "python_multipart", "prometheus_client")
    few_arenas(cores())
    opened = open_table(table, version=version, storage=storage)
    opened.snapshot.fingerprint("vector")
    _share_cores(settings.threads * settings.processes)
    for one in address.places(settings):
        address.check(one)
    tell(f"{table}: {counted(opened.num_rows, 'row')} at version {opened.version}")
    tell(f"http://{'localhost' if settings.is_local else settings.host}:{settings.port}/")
    if settings.processes > 1:
        from clipmill.jobs.serving import processes

        del opened
        processes.run(table, settings, storage, version=version, tell=tell)
        return

    import uvicorn

    from clipmill.jobs.serving.app import create_app
    from clipmill.jobs.serving.connections import server_options

    uvicorn.run(
        create_app(opened, settings, tell=tell),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        **server_options(settings),
    )


def _share_cores(queries: int) -> None:
    """Before torch is loaded, which reads it then: texts are embedded side by side, and threads of several of them that
    each want all cores spend more time in waiting for each other than in work. Somebody's own number stays."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // queries)))
