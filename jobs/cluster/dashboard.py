"""Ray's dashboard, where jobs are submitted to: reached with its token, its errors as one sentence and a hint."""

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from clipmill.jobs.cluster.auth import TOKEN_HINT, has_token, use_token
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.text.secrets import secret_in

_CONNECT_S = 10.0


def connect(address: str) -> Any:
    """A JobSubmissionClient of a cluster that runs our Ray. Raises UserError for what only a person can put right, and
    ClipmillError where nobody answers, which may pass."""
    if what := secret_in(address):
        raise UserError(f"--address carries {what}", TOKEN_HINT)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"--address {address} is not where jobs are submitted to",
            "write the address of Ray's dashboard, such as http://HEAD:8265",
        )
    _knock(address, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray prefers them to what it is given
        os.environ.pop(name, None)
    use_token()
    import ray
    from ray.job_submission import JobSubmissionClient

    # It tells of each upload, each log's end, and that the embedded model is large; the first two by loggers that have
    # levels of their own.
    for logger in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with told(address):
        client = JobSubmissionClient(address)
        version = client._server_ray_version
    if version != ray.__version__:
        raise UserError(
            f"the cluster at {address} runs Ray {version}, and this clipmill {ray.__version__}",
            f"start the cluster from the image of this clipmill ({image_hint()})",
        )
    return client


def image_hint() -> str:
    """The image that a cluster has to run, in words."""
    from importlib import metadata

    return f"deploy/Dockerfile of clipmill {metadata.version('clipmill')}"


@contextlib.contextmanager
def told(address: str) -> Iterator[None]:
    """Around calls of the client. What it raises for a status that is none of these passes as it is."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        refused = "403" in str(error) or "nvalid" in str(error)
        what = "refuses the token that it is sent" if refused and has_token() else "asks for a token"
        raise UserError(f"the cluster at {address} {what}", TOKEN_HINT) from None
    except (ConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout):
        raise _nobody(address, "the connection was lost or refused") from None
    except ValueError as error:
        if not isinstance(error, requests.exceptions.JSONDecodeError):
            raise
        raise _no_dashboard(address) from None
    except KeyError:  # JSON without `ray_version`
        raise _no_dashboard(address) from None
    except requests.exceptions.HTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            raise _nobody(address, f"it answers with status {error.response.status_code}") from None
        raise _no_dashboard(address) from None
    except RuntimeError as error:
        if "Version check returned 404" in str(error):
            raise _no_dashboard(address) from None
        raise


def _knock(address: str, host: str, port: int) -> None:
    """The client itself waits for minutes, where packets go nowhere."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _nobody(address, getattr(error, "strerror", None) or str(error) or type(error).__name__) from None


def _nobody(address: str, why: str) -> ClipmillError:
    return ClipmillError(
        f"Ray's dashboard does not answer at {address}: {why}",
        "check the address and its port (8265 unless it was changed), and that the cluster is up",
    )


def _no_dashboard(address: str) -> UserError:
    return UserError(
        f"what answers at {address} is not Ray's dashboard",
        "its port is 8265 unless it was changed; 6379 is another one",
    )


def details(client: Any, address: str, submission: str) -> Any:
    """What the dashboard knows of a job; raises UserError where there is none of this name."""
    with told(address):
        try:
            return client.get_job_info(submission)
        except RuntimeError as error:
            if not re.search(r"status code 404", str(error)):
                raise
    raise UserError(
        f"the cluster at {address} knows no job {submission}", f"`clipmill jobs --address {address}` lists them"
    )
