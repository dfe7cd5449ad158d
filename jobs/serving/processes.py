"""`serve --processes N`: one address answered by N processes, because Python runs in one thread of a process at a time.

Each listens at the address by itself, and the system shares the connections out (on Linux). What they hold of the table
they hold once: it is mapped from files in a folder of theirs, which goes with them.
"""

import fcntl
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from clipmill.jobs.serving.settings import Settings, cores
from clipmill.schemas.config import Storage
from clipmill.schemas.errors import ClipmillError

logger = logging.getLogger(__name__)
_METRICS = "PROMETHEUS_MULTIPROC_DIR"  # where prometheus_client adds up what several processes count
_STOP_S = 20.0  # after which a process is killed; they wait half of it for their answers
_REFUSED = 3  # by a process that will not be able to serve: it is not started again
_SOON_S = 5.0  # a process that ends so early is not started again at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the first process tells the others."""

    table: str
    settings: Settings
    storage: Storage | None
    version: int | str | None
    folder: Path
    log_level: int
    tell: Callable[[str], None]


def run(
    table: str,
    settings: Settings,
    storage: Storage | None,
    *,
    version: int | str | None,
    tell: Callable[[str], None],
) -> None:
    """Until SIGINT or SIGTERM, which is then raised here as well. `tell`: of a module, so that another process finds
    it. Raises ClipmillError where none can serve."""
    caught: list[int] = []
    before = {one: signal.signal(one, lambda n, _: caught.append(n)) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Ours as long as this process lives, whichever of the others does not listen just now.
        with _at(settings), tempfile.TemporaryDirectory(prefix="clipmill-serve-", ignore_cleanup_errors=True) as made:
            (Path(made) / "metrics").mkdir()
            asked = Asked(
                table=table,
                settings=settings,
                storage=storage,
                version=version,
                folder=Path(made),
                log_level=logging.getLogger().getEffectiveLevel(),
                tell=tell,
            )
            _keep_running(asked, caught)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if caught:
        signal.raise_signal(caught[0])


def _keep_running(asked: Asked, caught: list[int]) -> None:
    living = [_start(asked) for _ in range(asked.settings.processes)]
    try:
        while not caught:
            wait([process.sentinel for process, _ in living], timeout=0.5)
            for place, (process, began) in enumerate(living):
                if process.is_alive() or caught:
                    continue
                if process.exitcode == _REFUSED:
                    raise ClipmillError("the table cannot be served any more", "the lines above say why")
                logger.warning(
                    "process %s ended (exit code %s); another takes its place", process.pid, process.exitcode
                )
                time.sleep(max(0.0, min(_SOON_S, began + _SOON_S - time.monotonic())))
                living[place] = _start(asked)
    finally:
        until = time.monotonic() + _STOP_S
        for process, _ in living:
            process.terminate()
        for process, _ in living:
            process.join(max(0.0, until - time.monotonic()))
            process.kill()
            process.join()


def _start(asked: Asked) -> tuple[SpawnProcess, float]:
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(asked,), daemon=True)
    process.start()
    return process, time.monotonic()


def _at(settings: Settings) -> socket.socket:
    """Bound to the address beside others of ours; it gets no connection before it listens.

    TCP by its name: asyncio looks for that before it has answers sent at once, and without it they wait for the other
    side's acknowledgement, 40 ms of each.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((settings.host, settings.port))
    except BaseException:
        bound.close()
        raise
    return bound


def _serve(asked: Asked) -> None:
    """In each of the others."""
    logging.basicConfig(
        stream=sys.stderr,
        level=asked.log_level,
        format="%(asctime)s %(levelname)s %(name)s (process %(process)d): %(message)s",
    )
    _end_with_the_first(asked.folder)
    os.environ[_METRICS] = str(asked.folder / "metrics")  # before prometheus_client is imported, which reads it then
    _forget_the_dead()

    import uvicorn

    from clipmill.jobs.serving.connections import server_options

    with _at(asked.settings) as address, (asked.folder / "first.lock").open("w") as mark:
        try:
            app = _app(asked, first=_is_locked(mark))
        except ClipmillError as error:  # gone since the first process looked
            logger.error("%s (%s)", error.message, error.hint)
            sys.exit(_REFUSED)
        config = uvicorn.Config(app, log_level="warning", **server_options(asked.settings))
        with suppress(KeyboardInterrupt):  # raised again by uvicorn, after it has stopped
            uvicorn.Server(config).run(sockets=[address])


def _app(asked: Asked, *, first: bool) -> Any:
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.querying.shared import Shared
    from clipmill.jobs.serving.app import create_app
    from clipmill.jobs.table.memory import few_arenas

    few_arenas(cores() // asked.settings.processes)
    table = open_table(asked.table, version=asked.version, storage=asked.storage)
    return create_app(table, asked.settings, tell=asked.tell if first else logger.info, shared=Shared(asked.folder))


def _is_locked(mark: Any) -> bool:
    """What all of them would say is said by one: by another where that one dies."""
    with suppress(OSError):
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _end_with_the_first(folder: Path) -> None:
    """Killed, the process that started us cannot stop us, and nobody would take the folder away."""
    first = multiprocessing.parent_process()
    assert first is not None

    def follow() -> None:
        first.join()
        shutil.rmtree(folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="first-process", daemon=True).start()


def _forget_the_dead() -> None:
    """What a process that was killed said of the moment: requests that it was answering."""
    from prometheus_client.multiprocess import mark_process_dead

    for file in Path(os.environ[_METRICS]).glob("gauge_live*_*.db"):
        number = int(file.stem.rpartition("_")[2])
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            mark_process_dead(number)  # type: ignore[no-untyped-call]
