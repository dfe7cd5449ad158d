"""Ray's token: whether there is one here, and whether a cluster asks for it.

`ray.init()` of 2.60 leaves a token in the home folder of whoever starts a cluster on his own machine, so that one is
there says nothing of the cluster at an address. A driver that uses tokens on a cluster that uses none connects, and
then every actor dies, because the cluster's processes cannot call it.
"""

import os
import secrets
from dataclasses import dataclass

from clipmill.schemas.errors import UserError

TOKEN_HINT = "set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's token"  # noqa: S105 - no token
MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_ASK_S = 10.0
_CALL, _CLIENT_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/KVExists"


def has_token() -> bool:
    """Where Ray looks for one."""
    if any(os.environ.get(name) for name in (_TOKEN, "RAY_AUTH_TOKEN_PATH")):
        return True
    return os.path.isfile(_file())  # False too where the home folder is somebody else's


def _file() -> str:
    return os.path.join(os.path.expanduser("~"), ".ray", "auth_token")


def have_token() -> None:
    """Before Ray starts a node here: it leaves a token in the home folder, and does not start where it cannot, as in
    many a container. Then this process and those it starts have one of their own."""
    if os.environ.get(MODE, "token") != "token" or has_token():
        return
    try:
        os.makedirs(os.path.dirname(_file()), exist_ok=True)
        writable = os.access(os.path.dirname(_file()), os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        os.environ[_TOKEN] = secrets.token_hex(32)


def use_token() -> None:
    """Ray sends no token, also where there is one, unless this variable says so. Before Ray is imported, or `heed`."""
    if MODE not in os.environ and has_token():
        os.environ[MODE] = "token"


def use_what_the_cluster_asks_for(address: str) -> None:
    """Before connecting to `host:port`, `ray://host:port` or `auto`. Raises UserError where this shell's setting and
    the cluster's do not go together, which Ray would tell late, and as something else."""
    mode, head = os.environ.get(MODE), _Head.at(address)
    answered = head.lets_in({}) if head else None
    if head is None or answered is None:
        use_token()
    elif answered and mode == "token":
        raise UserError(
            f"the cluster at {address} uses no tokens, and {MODE} is 'token' here, with which its workers would die",
            f"unset {MODE}; if the cluster is yours, start it with {MODE}=token too",
        )
    elif answered:
        os.environ[MODE] = "disabled"
    elif (mode or "token") != "token":
        raise UserError(
            f"the cluster at {address} asks for a token, and {MODE} is '{mode}' here",
            f"unset {MODE}; where no token is found then, {TOKEN_HINT}",
        )
    else:
        os.environ[MODE] = "token"
        token = _token()
        if not token:
            raise UserError(f"the cluster at {address} asks for a token", TOKEN_HINT)
        if head.lets_in(token) is False:
            raise UserError(f"the cluster at {address} refuses the token that it is sent", TOKEN_HINT)
    _heed()


def _token() -> dict[str, str]:
    """The header that Ray would send; empty where it finds no token."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    try:
        found: dict[str, str] = AuthenticationTokenLoader.instance().get_token_for_http_header(ignore_auth_mode=True)
    except AuthenticationError as error:
        raise UserError(f"Ray's token cannot be read: {str(error).split('. ')[0]}", TOKEN_HINT) from None
    return found


@dataclass(frozen=True, slots=True)
class _Head:
    """Where a driver's calls go, and one that is answered without effect."""

    target: str
    call: str

    @staticmethod
    def at(address: str) -> "_Head | None":
        if address.startswith("ray://"):
            return _Head(address.removeprefix("ray://").rstrip("/"), _CLIENT_CALL)
        target = _auto() if address == "auto" else address
        return None if not target or "://" in target else _Head(target, _CALL)

    def lets_in(self, header: dict[str, str]) -> bool | None:
        """None where it does not answer so, as one that speaks TLS."""
        import grpc

        with grpc.insecure_channel(self.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            try:
                channel.unary_unary(self.call)(b"", timeout=_ASK_S, metadata=tuple(header.items()))
            except grpc.RpcError as error:
                code = error.code()
                if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    return None
                return bool(code != grpc.StatusCode.UNAUTHENTICATED)
        return True


def _auto() -> str:
    """What Ray takes `auto` for; empty where it finds nothing, which it says itself."""
    from ray._private import services

    try:
        return str(services.canonicalize_bootstrap_address_or_die("auto"))
    except (ConnectionError, ValueError):
        return ""


def _heed() -> None:
    """Ray has read its settings when it was imported."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")
