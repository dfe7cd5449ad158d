"""The FastAPI app over an open table: routes, the page, and what runs beside."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from clipmill.jobs.querying.at_hand.shared import Shared
from clipmill.jobs.querying.damaged import reading_table
from clipmill.jobs.querying.open import Table
from clipmill.jobs.serving.api import router
from clipmill.jobs.serving.guard import COOKIE, Guard, Metrics
from clipmill.jobs.serving.pictures import Pictures
from clipmill.jobs.serving.quick import QuickSearch
from clipmill.jobs.serving.refusals import add_error_handlers
from clipmill.jobs.serving.renewal import Renewal
from clipmill.jobs.serving.runner import Runner
from clipmill.jobs.serving.services import LOADING, Services
from clipmill.jobs.serving.settings import Settings
from clipmill.jobs.table.memory import give_back
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.table.vocabularies import vocabulary_of
from clipmill.schemas.errors import ClipmillError, VersionGone
from clipmill.workers.store.errors import StoreRefuses, StoreUnavailable

logger = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parent
_AWAY: dict[type[ClipmillError], str] = {
    StoreUnavailable: "the table's store does not answer",
    StoreRefuses: "the table's store refuses to let us in",
    VersionGone: "the table's files are being replaced",
}


def create_app(
    table: Table, settings: Settings, *, tell: Callable[[str], None] = logger.info, shared: Shared | None = None
) -> FastAPI:
    """An app that serves `table` until it ends. The encoder loads and the table is followed in the background; `tell`
    hears how that goes. `shared`: what is at hand is held together with other processes."""
    metrics = Metrics()
    table.remember_words()
    services = Services(
        table=table,
        settings=settings,
        runner=Runner(settings, Renewal(table)),
        pictures=Pictures(table, settings),
        metrics=metrics,
        encoder=[LOADING],
        table_state=[("ok", "")],
        facet_of=[{}],
    )
    app = FastAPI(
        title="clipmill",
        summary="Words in, pictures out.",
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        lifespan=lambda _: _background(services, tell, shared),
    )
    app.state.services = services
    app.router.routes.append(QuickSearch(app.router))  # before the route that it stands in for
    app.include_router(router)
    app.get("/", include_in_schema=False)(_page)
    app.mount("/static", StaticFiles(directory=ROOT / "static"), name="static")
    add_error_handlers(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


@contextlib.asynccontextmanager
async def _background(services: Services, tell: Callable[[str], None], shared: Shared | None) -> AsyncIterator[None]:
    stop = threading.Event()
    # A thread of its own: warming reads gigabytes and must not take the place of queries.
    threading.Thread(target=_warm_up, args=(services, tell, stop, shared), name="warm-up", daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        services.runner.close()


def _warm_up(services: Services, tell: Callable[[str], None], stop: threading.Event, shared: Shared | None) -> None:
    tell("loading the model; filters and pictures work meanwhile")
    _find_facets(services)
    _load_encoder(services, tell)
    at_hand = _keep_at_hand(services, shared)
    cold = _tell_cold(services, "", tell)
    give_back()
    while not stop.wait(services.settings.refresh_s):
        moved = _follow(services)
        at_hand = moved or at_hand or _keep_at_hand(services, shared)  # of a newer version it is, by then
        if moved:
            logger.info("now serving version %s", services.table.version)
            _find_facets(services)
            _load_encoder(services, logger.info)  # a table that was made again may be of another model
            cold = _tell_cold(services, cold, logger.warning)
            give_back()


def _keep_at_hand(services: Services, shared: Shared | None) -> bool:
    """False where the table could not be read just now: it is tried again, and followed meanwhile."""
    try:
        with reading_table():
            services.table.warm(memory_bytes=services.settings.warm_bytes, rows=True, shared=shared)
    except ClipmillError as error:
        logger.warning("vectors cannot be read into memory yet: %s", error.message)
        return False
    except Exception:  # such as a table that was dropped meanwhile
        logger.warning("vectors cannot be read into memory yet", exc_info=True)
        return False
    return True


def _tell_cold(services: Services, before: str, tell: Callable[[str], None]) -> str:
    if (cold := services.table.cold) and cold != before:
        tell(f"{cold}: narrow filters are answered from the table instead, which takes longer")
    return cold


def _find_facets(services: Services) -> None:
    """Which facet each tag is of. Here and not at a query, because a vocabulary may lie in a store that is slow."""
    table = services.table
    try:
        found = vocabulary_of(Tables.at(table.uri, table.storage), table.schema)
    except Exception:  # whatever is wrong with the runs or the metadata: tags are then one plain list
        logger.warning("the vocabulary of the tags cannot be looked for", exc_info=True)
        found = None
    services.facet_of[0] = {label.name: label.facet for label in found.labels} if found else {}


def _load_encoder(services: Services, tell: Callable[[str], None]) -> None:
    """The text tower, which takes half of the time; what pictures need is loaded with the first that is sent."""
    try:
        services.table.engine(use="words")
        services.encoder[0] = "ready"
        tell("the model is ready")
    except ClipmillError as error:
        services.encoder[0] = f"unavailable: {error.message}"
        logger.warning("words and pictures cannot be searched: %s (%s)", error.message, error.hint)
    except Exception:  # whatever a library makes of a broken checkpoint: the rest of the table is still there
        services.encoder[0] = "unavailable: the model could not be loaded; the server's log says why"
        logger.exception("words and pictures cannot be searched")


def _follow(services: Services) -> bool:
    """Look for a newer version; True where there is one. What is wrong stands in the health until it is right."""
    try:
        with reading_table():
            moved = services.table.refresh()
    except tuple(_AWAY) as error:  # the open version still answers, and we look again
        if services.table_state[0][0] != "away":
            logger.warning("the table cannot be looked at for a newer version: %s", error.message)
        services.table_state[0] = ("away", next(says for kind, says in _AWAY.items() if isinstance(error, kind)))
        return False
    except ClipmillError as error:
        if services.table_state[0][0] != "gone":
            logger.warning("the table cannot be served: %s", error.message)
        services.table_state[0] = ("gone", "there is no such table any more, or it is another one")
        return False
    except Exception:  # whatever else a store that is ill makes of it
        if services.table_state[0][0] != "away":
            logger.exception("the table cannot be looked at for a newer version")
        services.table_state[0] = ("away", "the table's store does not answer")
        return False
    services.table_state[0] = ("ok", "")
    return moved


async def _page(request: Request) -> Response:
    """The page; with `?token=` it is kept in a cookie and leaves the address."""
    services: Services = request.app.state.services
    if "token" in request.query_params:
        answer = Response(status_code=303, headers={"location": "/"})
        token = services.settings.token or ""
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer
    page = await asyncio.to_thread((ROOT / "templates" / "page.html").read_text, encoding="utf-8")
    return Response(page, media_type="text/html", headers={"cache-control": "no-cache"})
