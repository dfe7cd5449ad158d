"""A token is sent where the cluster asks for one, and only there. Real heads: test_submit.py and test_growing.py."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from clipmill.jobs.cluster import auth
from clipmill.schemas.errors import UserError

RIGHT = "right-token-0123456789abcdef"


@contextmanager
def answering(token: str | None) -> Iterator[str]:
    """What answers as a head does: any call where it has no token, else those that carry it."""

    class Any_(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def answer(request: bytes, context: Any) -> bytes:
                if token and dict(context.invocation_metadata()).get("authorization") != f"Bearer {token}":
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Any_()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(auth, "_heed", lambda: None)  # the Ray of the tests has its own setting


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts a token where Ray looks, whose loader keeps the first it has found."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    def put(token: str) -> None:
        if token:
            (Path.home() / ".ray").mkdir()
            (Path.home() / ".ray" / "auth_token").write_text(token)
        AuthenticationTokenLoader.instance().reset_cache()

    yield put
    monkeypatch.undo()
    AuthenticationTokenLoader.instance().reset_cache()


@pytest.mark.parametrize(
    ("home", "mode", "own"), [("/dev/null", "", True), ("", "", False), ("/dev/null", "disabled", False)]
)
def test_where_ray_cannot_leave_a_token_at_home_this_process_has_its_own(
    home: str, mode: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray did not start: no such folder, or somebody else's, as in a container with another user than its image's."""
    if home:
        monkeypatch.setenv("HOME", home)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert not auth.has_token()
    auth.have_token()
    assert ("RAY_AUTH_TOKEN" in os.environ) == own
    assert auth.has_token() == own


@pytest.mark.parametrize("prefix", ["", "ray://"])
@pytest.mark.parametrize(
    ("of_head", "found", "mode", "result"),
    [
        (None, RIGHT, "", "disabled"),  # what `ray.init()` left in the home folder is of another cluster
        (None, "", "", "disabled"),
        (None, RIGHT, "token", "uses no tokens, and RAY_AUTH_MODE is 'token'"),
        (RIGHT, RIGHT, "", "token"),
        (RIGHT, RIGHT, "token", "token"),
        (RIGHT, "wrong-token-0123456789abcdef", "", "refuses the token that it is sent"),
        (RIGHT, "", "", "asks for a token"),
        (RIGHT, RIGHT, "disabled", "asks for a token, and RAY_AUTH_MODE is 'disabled'"),
    ],
)
def test_what_the_cluster_asks_for_is_what_is_used(
    here: Any, monkeypatch: pytest.MonkeyPatch, prefix: str, of_head: str | None, found: str, mode: str, result: str
) -> None:
    here(found)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with answering(of_head) as target:
        if result in ("token", "disabled"):
            auth.use_what_the_cluster_asks_for(prefix + target)
            assert os.environ["RAY_AUTH_MODE"] == result
            return
        with pytest.raises(UserError) as error:
            auth.use_what_the_cluster_asks_for(prefix + target)
    assert result in error.value.message
    assert "RAY_AUTH" in error.value.hint
    assert "0123456789" not in error.value.message + error.value.hint


def test_a_head_that_does_not_say_leaves_it_to_the_token_that_is_here(here: Any) -> None:
    """One that speaks TLS, or none at all, of which Ray tells."""
    here(RIGHT)
    auth.use_what_the_cluster_asks_for("127.0.0.1:9")
    assert os.environ["RAY_AUTH_MODE"] == "token"
