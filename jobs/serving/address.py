"""The address of `serve --processes N`: each process listens at it by itself, and nobody else can."""

import socket
import sys

from clipmill.jobs.serving.settings import Settings
from clipmill.schemas.errors import UserError


def check(settings: Settings) -> None:
    """Raises UserError where somebody listens there, or it is no address of this machine."""
    with _socket(settings) as probe:
        _bind(probe, settings)


def hold(settings: Settings) -> socket.socket:
    """Ours as long as this is open, whether others of ours listen just now or not. It gets no connection itself. Raises
    UserError as `check` does."""
    held = _socket(settings)
    try:
        _bind(held, settings)
        if sys.platform == "linux":
            # Two servers that start at the same moment could both bind, and would then share each other's requests.
            # Whoever has listened is alone; and from then on only those that share ports are let in beside it.
            _listen(held, settings)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            held.shutdown(socket.SHUT_RDWR)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        held.close()
        raise
    return held


def beside(settings: Settings) -> socket.socket:
    """Bound to an address that another process of ours holds. Raises UserError where it does not any more."""
    bound = _socket(settings)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(bound, settings)
    except BaseException:
        bound.close()
        raise
    return bound


def _socket(settings: Settings) -> socket.socket:
    """TCP by its name: asyncio looks for that before it has answers sent at once, and without it they wait for the
    other side's acknowledgement, 40 ms of each."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as asyncio has it
    return made


def _bind(made: socket.socket, settings: Settings) -> None:
    try:
        made.bind((settings.host, settings.port))
    except OSError as error:
        raise _taken(settings, error) from None


def _listen(made: socket.socket, settings: Settings) -> None:
    try:
        made.listen(1)
    except OSError as error:
        raise _taken(settings, error) from None


def _taken(settings: Settings, error: OSError) -> UserError:
    another = settings.port + 1 if settings.port < 65_535 else 8000
    return UserError(f"cannot listen on {settings.host}:{settings.port} ({error.strerror})", f"try --port {another}")
