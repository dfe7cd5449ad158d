"""The address of `serve --processes N`: each process listens at it by itself, and nobody else can."""

import errno
import ipaddress
import socket
import sys
from dataclasses import replace

from clipmill.jobs.serving.settings import Settings
from clipmill.schemas.errors import UserError


def places(settings: Settings) -> tuple[Settings, ...]:
    """One for each address that the host's name stands for, as a server alone listens at all of them: `localhost` is
    127.0.0.1 and ::1. Raises UserError where it stands for none of this machine."""
    try:
        ipaddress.ip_address(settings.host.partition("%")[0])
    except ValueError:
        return _resolved(settings)
    return (settings,)


def _resolved(settings: Settings) -> tuple[Settings, ...]:
    try:
        told = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter of a part that is too long for a name, or empty
        why = error.strerror if isinstance(error, OSError) else "no such name can be"
        raise UserError(f"--host {settings.host} is no address ({why})", "give one of this machine") from None
    found = [replace(settings, host=str(address[0])) for _, _, _, _, address in told]
    here = [one for one in dict.fromkeys(found) if _is_here(one)]
    if not here:
        raise UserError(f"--host {settings.host} is no address of this machine", "give one that is")
    return tuple(here)


def _is_here(settings: Settings) -> bool:
    """Without IPv6, ::1 is in /etc/hosts all the same."""
    try:
        with _socket(settings) as probe:
            probe.bind((settings.host, 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


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
