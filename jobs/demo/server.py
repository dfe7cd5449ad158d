"""A local S3 server for as long as the demo runs: moto's, in a process of its own, in memory.

`python -m clipmill.jobs.demo.server` is that process. It prints its port and ends when its standard input
closes, so that it never outlives the demo, whichever way that ends.
"""

import contextlib
import os
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.installed import require
from clipmill.schemas.job.config import Storage

BUCKET = "demo"
HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
# The server believes anybody; clients want some key all the same, and must not look for a real one.
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "demo-access-key-0000",
    "AWS_SECRET_ACCESS_KEY": "demo",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_UNSET = ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@contextlib.contextmanager
def local_s3(log: Path) -> Iterator[Storage]:
    """A running server with the empty bucket `demo`; this process and its children may use it until the end.

    Raises UserError where moto is not installed, ClipmillError where it does not start.
    """
    require("the demo's local S3 server", "moto", "flask")
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "clipmill.jobs.demo.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Ctrl-C in the terminal must not reach it: a run that drains still reads.
            start_new_session=True,
        )
    try:
        port = _port(server, log)
        with _environment(_ENVIRONMENT):
            _create_bucket(port)
            yield Storage(endpoint_url=f"http://{HOST}:{port}", region="us-east-1")
    finally:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.close()
        server.stdout.close()
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def upload(folder: Path, prefix: str, storage: Storage) -> Iterator[tuple[int, int]]:
    """Every tar of `folder` into the bucket below `prefix`; yields (done, in all)."""
    from clipmill.workers.store.storage import put_bytes

    paths = sorted(folder.glob("*.tar"))
    for done, path in enumerate(paths, 1):
        put_bytes(f"s3://{BUCKET}/{prefix}{path.name}", path.read_bytes(), storage)
        yield done, len(paths)


def _port(server: "subprocess.Popen[bytes]", log: Path) -> int:
    """The port it says it listens on."""
    assert server.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if select.select([server.stdout], [], [], 0.2)[0]:
            line = server.stdout.readline().strip()
            if line.isdigit():
                return int(line)
            break
    raise ClipmillError("the local S3 server did not start", f"its own words are in {log}")


def _create_bucket(port: int) -> None:
    request = urllib.request.Request(f"http://{HOST}:{port}/{BUCKET}", method="PUT")
    # Not through whatever proxy the machine has.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request, timeout=30).close()
    except (urllib.error.URLError, OSError) as error:
        raise ClipmillError(f"the local S3 server does not answer: {error}") from None


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """The environment of this process and its children; put back afterwards."""
    near = {"NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), HOST)))}
    changed = {**wanted, **near, "no_proxy": near["NO_PROXY"]}
    before = {name: os.environ.get(name) for name in (*changed, *_UNSET)}
    for name in _UNSET:
        os.environ.pop(name, None)
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve() -> None:
    """The server's process."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)  # noqa: T201 - how the parent learns the port
    sys.stdin.read()  # until the parent closes it, or is gone
    os._exit(0)


if __name__ == "__main__":
    _serve()
