"""What a request is told that cannot be answered: one sentence and a hint, in the shape of `models.Problem`."""

import difflib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from clipmill.jobs.serving import models
from clipmill.jobs.serving.api import router
from clipmill.jobs.serving.guard import UPLOADS
from clipmill.jobs.serving.pictures import NoPicture
from clipmill.jobs.serving.runner import Busy, TooSlow
from clipmill.jobs.serving.services import Loading
from clipmill.schemas.errors import ClipmillError, DamagedIndex, VersionGone
from clipmill.workers.store.errors import StoreRefuses, StoreUnavailable

logger = logging.getLogger(__name__)
UNREADABLE = ("the table cannot be read just now", "/health says why")
VECTOR_HINT = """in Python: base64.urlsafe_b64encode(numpy.asarray(v, "<f2").tobytes()).decode().rstrip("=")"""
SEE = "requests and their fields are described at /openapi.json"
JSON_HINT = "send it with Content-Type: application/json"
FORM_HINT = "send a form with the picture as a file, such as curl -F image=@FILE"


def _nearest_field(name: str) -> str:
    known = sorted({*models.SearchRequest.model_fields, *models.FacetsRequest.model_fields})
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else SEE


def _in_words(request: Request, error: HTTPException) -> tuple[str, str]:
    """What Starlette says in two words."""
    path = request.url.path[:64]
    if error.status_code == 405:
        allowed = sorted(Headers(error.headers).get("allow", "GET").split(", "))
        return f"{path} does not answer {request.method[:16]}", f"use {' or '.join(allowed)}"
    if error.status_code == 404:
        known = {route.path: route.methods or set() for route in router.routes if isinstance(route, APIRoute)}
        close = difflib.get_close_matches(path, known, n=1, cutoff=0.7)
        methods = " or ".join(sorted(known[close[0]])) if close else ""
        return f"there is nothing at {path}", f"did you mean {methods} {close[0]}?" if close else SEE
    return str(error.detail), FORM_HINT if path in UPLOADS else SEE


def _headers(error: HTTPException) -> dict[str, str]:
    found = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405 and found.get("allow", "GET") == "GET":
        found["allow"] = "GET, HEAD"  # `Guard` has the one answered as the other
    return found


def _no_object(kind: str) -> tuple[str, str]:
    """`kind`: the body's Content-Type. Only one of JSON is read as such."""
    named = kind.partition(";")[0].strip().lower()
    if named.startswith("application/") and named.endswith(("/json", "+json")):
        return "the body is JSON, but no object", SEE
    return f"the body is not JSON but {named[:64]}" if named else "the body has no Content-Type", JSON_HINT


def _told(request: Request, errors: Sequence[Any]) -> tuple[str, str]:
    """What is wrong with a body or a query, and the way out."""
    # Of a field that takes one text or several, the other kind's refusal says nothing.
    first = next((e for e in errors if e["type"] not in ("list_type", "string_type")), errors[0])
    if first["type"] == "json_invalid":
        return "the body is not JSON", SEE
    if first["loc"] == ("body",):
        is_missing = first["type"] == "missing"
        return ("there is no body", JSON_HINT) if is_missing else _no_object(request.headers.get("content-type", ""))
    if request.url.path in UPLOADS:
        return "there is no picture", FORM_HINT
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])[:64]
        return f"there is no field {name}", _nearest_field(name)
    where = ".".join(str(part) for part in first["loc"][1:] if "[" not in str(part)) or str(first["loc"][0])
    if where == "vector" and first["type"] in ("string_type", "string_pattern_mismatch"):
        return "vector: it is no base64url of float16 numbers without padding", VECTOR_HINT
    return f"{where}: {first['msg']}"[:300], SEE


def add_error_handlers(app: FastAPI) -> None:
    """Every refusal has the shape of `models.Problem`. What a client sent is never echoed whole."""

    def answer(status: int, error: str, hint: str, headers: dict[str, str] | None = None) -> JSONResponse:
        # Lone surrogates in a message could not be encoded.
        texts = [text.encode("utf-8", "replace").decode() for text in (error, hint)]
        return JSONResponse({"error": texts[0], "hint": texts[1]}, status, headers)

    @app.exception_handler(ClipmillError)
    async def _mistake(request: Request, error: ClipmillError) -> JSONResponse:
        # A damaged index or a table that is away is no mistake of who asks, who need not know where it is.
        if isinstance(error, (StoreUnavailable, StoreRefuses, VersionGone)):
            if request.app.state.services.table_state[0][0] == "ok":  # else it was told
                logger.warning("a query is not answered: %s", error.message)
            return answer(503, *UNREADABLE, {"retry-after": "2"})
        return answer(503 if isinstance(error, DamagedIndex) else 400, error.message, error.hint)

    @app.exception_handler(NoPicture)
    async def _nothing(_: Request, error: NoPicture) -> JSONResponse:
        return answer(404, str(error), "ids are exact; take them from a search")

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, *_told(request, error.errors()))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, *_in_words(request, error), _headers(error))

    def later(
        status: int, error: str, hint: str, headers: dict[str, str]
    ) -> Callable[[Request, Exception], JSONResponse]:
        return lambda _, __: answer(status, error, hint, headers)

    again = "try again in a moment"
    for kind, refusal in {
        Busy: later(503, "too many queries are waiting", again, {"retry-after": "1"}),
        Loading: later(503, "the model is still loading", again, {"retry-after": "2"}),
        TooSlow: later(504, "the query took too long", "narrow the filter, or run `clipmill index`", {}),
    }.items():
        app.add_exception_handler(kind, refusal)

    @app.exception_handler(Exception)
    async def _defect(request: Request, error: Exception) -> JSONResponse:
        if request.app.state.services.table_state[0][0] != "ok":
            return answer(503, *UNREADABLE)
        return answer(500, "something went wrong here", "the server's log says what")
