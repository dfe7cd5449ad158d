"""`clipmill serve --processes`: real processes at one address, asked over fresh connections, and killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.serving import processes
from tests.tables import TableOptions, append, make_table

pytestmark = pytest.mark.slow
COUNT = 2


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = make_table(tmp_path_factory.mktemp("processes"), TableOptions(rows=300))
    build_index(made, IndexOptions(kind="ivf_rq", measure_recall=False))
    return made


class Server:
    def __init__(self, uri: str, folder: Path, *, ready: bool = True, deaths: int = processes._DEATHS) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.base, self.folder, self.log = f"http://127.0.0.1:{port}", folder, folder / "log"
        program = (
            "from clipmill.jobs.cli.main import main; from clipmill.jobs.serving import processes; "
            f"processes._DEATHS = {deaths}; main()"
        )
        command = [sys.executable, "-c", program, "serve", uri, "--port", str(port), "--processes", str(COUNT)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(folder)}, start_new_session=True
            )
        self.until(lambda: not ready or len(self.holding()) == COUNT)

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not true():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def answering(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        living = [one for one in found if one.status() != psutil.STATUS_ZOMBIE]
        return [one for one in living if "resource_tracker" not in str(one.cmdline())]

    def mapped(self) -> dict[psutil.Process, set[str]]:
        """Inodes of the table's vectors, by who has mapped them."""
        found = {one: Path(f"/proc/{one.pid}/maps").read_text().splitlines() for one in self.answering()}
        return {one: {line.split()[4] for line in lines if "/vectors" in line} for one, lines in found.items()}

    def holding(self) -> list[psutil.Process]:
        """Those that have mapped the table's vectors, all from one file."""
        mapped = self.mapped()
        assert len(set().union(*mapped.values())) <= 1
        return [one for one, inodes in mapped.items() if inodes]

    def ask(self) -> tuple[list[str], int]:
        """Over a connection of its own; the hits and the version."""
        answer = httpx.post(f"{self.base}/api/search", json={"like": ["row-000007"], "k": 10}, timeout=30).json()
        return [hit["id"] for hit in answer["hits"]], answer["version"]

    def made(self) -> list[Path]:
        return [one for one in self.folder.iterdir() if one != self.log]


@pytest.fixture
def server(uri: str, tmp_path: Path) -> Iterator[Server]:
    started = Server(uri, tmp_path)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            os.killpg(started.process.pid, signal.SIGKILL)
        started.process.wait()


def test_they_answer_alike_count_together_and_replace_each_other(server: Server, uri: str) -> None:
    table = open_table(uri)
    expected = table.search(like="row-000007", k=10)["id"].to_pylist(), table.version
    assert [server.ask() for _ in range(30)] == [expected] * 30
    counted = httpx.get(f"{server.base}/metrics").text
    assert 'clipmill_requests_total{route="/api/search",status="200"} 30.0' in counted
    assert "clipmill_table_rows 300.0" in counted
    assert "clipmill_requests_running 1.0" in counted
    assert server.log.read_text().count("loading the model") == 1

    killed = server.holding()[0]
    killed.kill()
    server.until(lambda: len(server.holding()) == COUNT and killed not in server.answering())
    assert "another takes its place" in server.log.read_text()
    assert [server.ask() for _ in range(10)] == [expected] * 10
    append(uri, TableOptions(rows=20, start=300))
    newest = open_table(uri)
    assert newest.version > expected[1]
    server.until(lambda: all(server.ask()[1] == newest.version for _ in range(10)))
    server.until(lambda: len(set().union(*server.mapped().values())) == 1)  # by chance one of them answered all ten
    assert len(server.holding()) == COUNT

    others = server.answering()
    for one in others:
        blocked = next(line for line in Path(f"/proc/{one.pid}/status").read_text().splitlines() if "SigBlk" in line)
        assert int(blocked.split()[1], 16) & 1 << signal.SIGINT - 1, "Ctrl-C would interrupt it wherever it is"
    os.killpg(server.process.pid, signal.SIGINT)  # as Ctrl-C does
    assert server.process.wait(30) == 130
    assert not any(one.is_running() for one in others)
    assert server.made() == []
    assert "Traceback" not in server.log.read_text()


def test_where_each_is_killed_again_and_again_it_ends_with_a_sentence(uri: str, tmp_path: Path) -> None:
    """As for want of memory, once they have served."""
    started = Server(uri, tmp_path, deaths=2)
    killed: set[psutil.Process] = set()
    while len(killed) < 2 * COUNT and started.process.poll() is None:
        for one in set(started.holding()) - killed:
            one.kill()
            killed.add(one)
        time.sleep(0.1)
    assert started.process.wait(60) == 1
    log = started.log.read_text()
    assert f"error: {2 * COUNT} processes ended within" in log
    assert "the last one by signal SIGKILL\nhint: " in log
    assert log.count("ended (signal SIGKILL); another takes its place") == 2 * COUNT
    assert "Traceback" not in log
    assert started.made() == []


def test_deaths_far_apart_end_nothing() -> None:
    assert not processes._too_often(deque([0.0, 1.0], maxlen=3))
    assert processes._too_often(deque([0.0, 1.0, processes._WITHIN_S - 1], maxlen=3))
    assert not processes._too_often(deque([0.0, 1.0, processes._WITHIN_S], maxlen=3))


def test_twice_ctrl_c_ends_a_process_that_does_not_answer(server: Server) -> None:
    server.holding()[0].suspend()
    for _ in range(2):
        os.killpg(server.process.pid, signal.SIGINT)
        time.sleep(0.5)
    assert server.process.wait(10) == 130
    assert server.made() == []
    assert "Traceback" not in server.log.read_text()


def test_where_their_folder_was_removed_another_still_takes_the_place_of_one_that_ends(server: Server) -> None:
    (folder,) = server.made()
    shutil.rmtree(folder)
    server.holding()[0].kill()
    server.until(lambda: any((folder / "metrics" / f"counter_{one.pid}.db").exists() for one in server.answering()))
    assert server.ask()[0]
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.process.wait(30) == 130
    assert server.made() == []


def test_killed_the_first_leaves_nothing(server: Server) -> None:
    others = server.answering()
    server.process.kill()
    server.until(lambda: not any(one.is_running() for one in others))
    assert server.made() == []


def test_a_table_that_goes_ends_them_all_with_a_sentence(uri: str, tmp_path: Path) -> None:
    """The first process looks at the table before the others do."""
    gone = tmp_path / "gone.lance"
    shutil.copytree(f"{uri}.lance", gone)
    started = Server(str(gone.with_suffix("")), tmp_path, ready=False)
    started.until(lambda: "at version" in started.log.read_text())
    shutil.rmtree(gone)
    assert started.process.wait(60) == 1
    assert "there is no table" in started.log.read_text()
    assert "Traceback" not in started.log.read_text()
    assert started.made() == []


def test_where_none_of_them_can_begin_it_ends_with_a_sentence(uri: str, tmp_path: Path) -> None:
    """Each is ended by the system at its first file, as for want of memory."""

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "clipmill", "serve", uri, "--port", port, "--processes", str(COUNT)]
    limited = ["sh", "-c", 'ulimit -f 100 && exec "$0" "$@"', *command]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    ended = subprocess.run(limited, env=env, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert ended.stderr.count("another takes its place") == 3 * COUNT
    assert f"error: no process can serve: {3 * COUNT} ended before they could" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []
