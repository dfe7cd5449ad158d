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
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from clipmill.jobs.serving import address
from clipmill.jobs.serving.settings import Settings, cores
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.store.errors import StoreRefuses, StoreUnavailable

logger = logging.getLogger(__name__)
_METRICS = "PROMETHEUS_MULTIPROC_DIR"  # where prometheus_client adds up what several processes count
_COUNTED = ("counter", "histogram", "gauge_livesum", "gauge_livemax")  # as it names its files
_COUNTED_BYTES = 1 << 18  # of each; a route takes some 3 kB
_STOP_S = 20.0  # after which a process is killed; they wait half of it for their answers
_REFUSED = 3  # by a process that will not be able to serve: it is not started again
_OF_A_TERMINAL = (signal.SIGINT, signal.SIGHUP)
_PREFIX = "clipmill-serve-"
_WHY = (
    "the lines above say why, if anything does; SIGKILL is mostly for want of memory: fewer --processes take less, and "
    "what one takes is in docs/querying.md"
)
_SOON_S = 5.0  # a process that ends so early is not started again at once
_TRIES = 3  # of each that ends before it can serve, where none of them can
_DEATHS = 5  # of each within `_WITHIN_S`, whatever they did before: what ends them does so again and again
_WITHIN_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the first process tells the others. `places`: where they listen."""

    table: str
    settings: Settings
    places: tuple[Settings, ...]
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
    """Until it is told to end by a signal, which is then raised here as well. `tell`: of a module, so that another
    process finds it. Raises ClipmillError where none can serve."""
    caught: list[int] = []
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        ends.append(signal.SIGHUP)
    before = {one: signal.signal(one, lambda n, _: caught.append(n)) for one in ends}
    try:
        with ExitStack() as stack:
            places = address.places(settings)
            for one in places:
                stack.enter_context(address.hold(one))
            made = stack.enter_context(_folder())
            asked = Asked(
                table=table,
                settings=settings,
                places=places,
                storage=storage,
                version=version,
                folder=made,
                log_level=logging.getLogger().getEffectiveLevel(),
                tell=tell,
            )
            _keep_running(asked, caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])


@contextmanager
def _folder() -> Iterator[Path]:
    """For what they hold together. Locked, by which others see that it is in use: `_sweep`, and what removes old files
    from /tmp on many machines, whose turn it would be after some days."""
    try:
        _sweep(Path(tempfile.gettempdir()))
        made = Path(tempfile.mkdtemp(prefix=_PREFIX))
        mark = os.open(made, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"there is no room in TMPDIR for what the processes hold together ({error.strerror})",
            "set TMPDIR to a folder on a disk of this machine, or leave --processes away",
        ) from None
    try:
        fcntl.flock(mark, fcntl.LOCK_EX)
        (made / "metrics").mkdir()
        yield made
    finally:
        _remove(made)
        os.close(mark)


def _renew(folder: Path) -> None:
    """Where somebody has removed it: others hold what they have mapped, but none could begin any more."""
    with suppress(OSError):
        if not folder.exists():
            folder.mkdir(mode=0o700)
            fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)  # until this process ends, as `_folder` does
        if folder.stat().st_uid == os.geteuid():  # nobody else's under that name
            (folder / "metrics").mkdir(exist_ok=True)


def _sweep(temporary: Path) -> None:
    """What a server left that was killed with all its processes at once."""
    for left in temporary.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            mark = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (left / "metrics").exists():  # else it may be one that is being made
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(mark)


def _remove(folder: Path) -> None:
    """Also where somebody makes files in it meanwhile, which they cannot any more once it is gone."""
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break


def _keep_running(asked: Asked, caught: list[int]) -> None:
    living = [_start(asked) for _ in range(asked.settings.processes)]
    told: set[SpawnProcess] = set()
    failed, ended = 0, deque[float](maxlen=_DEATHS * len(living))
    try:
        while not caught:
            wait([process.sentinel for process, _ in living if process not in told], timeout=0.5)
            for place, (process, began) in enumerate(living):
                if process.is_alive() or caught:
                    continue
                if process.exitcode == _REFUSED:
                    raise ClipmillError("the table cannot be served any more", "the lines above say why")
                if process not in told:
                    told.add(process)
                    logger.warning("process %s ended (%s); another takes its place", process.pid, _how(process))
                    failed = 0 if any(_serves(asked, one.pid) for one, _ in living) else failed + 1
                    if failed >= _TRIES * len(living):
                        raise _none_serves(failed, process)
                    ended.append(time.monotonic())
                    if _too_often(ended):
                        raise _too_many(ended, process)
                if time.monotonic() >= began + _SOON_S:
                    told.remove(process)
                    _renew(asked.folder)
                    living[place] = _start(asked)
    finally:
        _stop([process for process, _ in living], caught)


def _serves(asked: Asked, number: int | None) -> bool:
    """Whether this process began to: also one that has ended since."""
    return (asked.folder / f"serves-{number}").exists()


def _how(process: SpawnProcess) -> str:
    """`signal SIGKILL`, or `exit code 1`."""
    code = process.exitcode or 0
    known = {one.value: one.name for one in signal.Signals}
    return f"exit code {code}" if code >= 0 else f"signal {known.get(-code, str(-code))}"


def _none_serves(failed: int, last: SpawnProcess) -> ClipmillError:
    return ClipmillError(f"no process can serve: {failed} ended before they could, the last one by {_how(last)}", _WHY)


def _too_often(ended: deque[float]) -> bool:
    """`ended`: when the last of them did, as many as may within `_WITHIN_S`."""
    return len(ended) == ended.maxlen and ended[-1] - ended[0] < _WITHIN_S


def _too_many(ended: deque[float], last: SpawnProcess) -> ClipmillError:
    """Whoever watches over a server is to see it: where each is replaced for ever it looks well."""
    return ClipmillError(
        f"{len(ended)} processes ended within {ended[-1] - ended[0]:.0f} s, the last one by {_how(last)}", _WHY
    )


def _stop(living: list[SpawnProcess], caught: list[int]) -> None:
    """At once where somebody asks twice at a terminal."""
    for process in living:
        process.terminate()
    until = time.monotonic() + _STOP_S
    while (left := [one.sentinel for one in living if one.is_alive()]) and time.monotonic() < until:
        if caught.count(signal.SIGINT) > 1:
            break
        wait(left, timeout=0.2)
    for process in living:
        process.kill()
        process.join()


def _start(asked: Asked) -> tuple[SpawnProcess, float]:
    """Ctrl-C reaches all processes of a terminal; this one tells the others, which cannot always end well just then."""
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(asked,), daemon=True)
    resource_tracker.ensure_running()  # by `start` it would be with these signals let through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_A_TERMINAL)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process, time.monotonic()


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
    try:
        _reserve(asked.folder / "metrics")
    except OSError as error:
        logger.error("there is no room in TMPDIR for what is counted (%s)", error.strerror)
        sys.exit(1)

    import uvicorn

    from clipmill.jobs.serving.connections import server_options

    with (asked.folder / "first.lock").open("w") as mark:
        try:
            bound = [address.beside(one) for one in asked.places]
            app = _app(asked, first=_is_locked(mark))
        except ClipmillError as error:  # gone since the first process looked, or its store is away for a while
            logger.error("%s (%s)", error.message, error.hint)
            sys.exit(1 if isinstance(error, (StoreUnavailable, StoreRefuses)) else _REFUSED)
        config = uvicorn.Config(app, log_level="warning", **server_options(asked.settings))
        (asked.folder / f"serves-{os.getpid()}").touch()
        uvicorn.Server(config).run(sockets=bound)


def _app(asked: Asked, *, first: bool) -> Any:
    from clipmill.jobs.querying.at_hand.shared import Shared
    from clipmill.jobs.querying.open import open_table
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
        _remove(folder)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_STOP_S)  # as the first one would wait
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, name="first-process", daemon=True).start()


def _forget_the_dead() -> None:
    """What a process that was killed said of the moment: requests that it was answering."""
    from prometheus_client.multiprocess import mark_process_dead

    for file in Path(os.environ[_METRICS]).glob("gauge_live*_*.db"):
        number = int(file.stem.rpartition("_")[2])
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another that starts now was here before
                mark_process_dead(number)  # type: ignore[no-untyped-call]


def _reserve(metrics: Path) -> None:
    """prometheus_client maps files with holes: where the disk is full by the time that one is written to, the system
    ends the process."""
    files = [metrics / f"{kind}_{os.getpid()}.db" for kind in _COUNTED]
    try:
        for path in files:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _COUNTED_BYTES)
    except OSError:
        for path in files:
            path.unlink(missing_ok=True)
        raise
