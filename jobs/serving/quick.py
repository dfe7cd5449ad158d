"""POST /api/search without what FastAPI does around a route, which costs as much again as the rest of HTTP.

A question that is as it should be is answered here. Any other goes on to FastAPI's route of the same name, which says
what is wrong with it and what the schema is.
"""

import json

from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipmill.jobs.serving import models
from clipmill.jobs.serving.answering import answer
from clipmill.jobs.serving.services import services

_PASSED_ON = "clipmill.passed_on"


class QuickSearch(BaseRoute):
    path = "/api/search"  # by which the metrics count it

    def __init__(self, routes: ASGIApp) -> None:
        """`routes`: all of them, this one too."""
        self._routes = routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        ours = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == self.path
        return (Match.FULL, {"route": self}) if ours and _PASSED_ON not in scope else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            await self._pass_on(scope, {"type": "http.disconnect"}, receive, send)
            return
        question = _question(request, body)
        if question is None:
            await self._pass_on(scope, {"type": "http.request", "body": body, "more_body": False}, receive, send)
            return
        await (await answer(services(request), question))(scope, receive, send)

    async def _pass_on(self, scope: Scope, first: Message, receive: Receive, send: Send) -> None:
        messages = [first]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        scope[_PASSED_ON] = True
        await self._routes(scope, again, send)


def _question(request: Request, body: bytes) -> models.SearchRequest | None:
    if request.headers.get("content-type") != "application/json":  # or one of its many spellings
        return None
    try:
        return models.SearchRequest.model_validate(json.loads(body))
    except (ValueError, RecursionError):
        return None
