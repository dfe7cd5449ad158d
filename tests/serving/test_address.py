"""What the processes of one server have of the machine: their address, alone, and a folder that goes with them."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.serving import address, processes
from clipmill.jobs.serving.settings import Settings
from clipmill.schemas.errors import UserError


def free_port(host: str = "127.0.0.1") -> Settings:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return Settings(host=host, port=probe.getsockname()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere whoever listens first has the address")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_one_servers_before_any_of_its_processes_listens(host: str) -> None:
    where = free_port(host)
    with address.hold(where):
        for taken in (address.check, address.hold):
            with pytest.raises(UserError, match="cannot listen on"):
                taken(where)
        with address.beside(where) as one, address.beside(where) as two:
            one.listen()
            two.listen()
            clients = [socket.create_connection((where.host, where.port)) for _ in range(3)]
        for client in clients:
            client.close()
        with pytest.raises(UserError, match="cannot listen on"):
            address.check(where)
    with address.hold(where), address.beside(where) as again:  # connections of the one before do not matter
        again.listen()


def test_a_name_is_all_its_addresses_as_for_a_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `localhost` most machines know two, and this one maybe not."""
    real = socket.getaddrinfo

    def resolved(host: str, *rest: Any, **more: Any) -> Any:
        names = ("127.0.0.1", "::1") if host == "localhost" else (host,)
        return [found for one in names for found in real(one, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)

    async def alone(host: str) -> set[str]:
        async with await asyncio.start_server(lambda *_: None, host, 0) as server:
            return {one.getsockname()[0] for one in server.sockets}

    for host in ("localhost", "127.0.0.1", "0.0.0.0"):
        assert {one.host for one in address.places(Settings(host=host))} == asyncio.run(alone(host))
    assert [one.host for one in address.places(Settings(host="localhost"))] == ["127.0.0.1", "::1"]
    for host in ("no-such-host.invalid", "192.0.2.250", "a..b", 70 * "x"):
        with pytest.raises(UserError, match=f"{host}"):
            address.check(address.places(Settings(host=host))[0])


def test_answers_of_several_processes_do_not_wait_for_acknowledgements() -> None:
    """40 ms of each, on a connection that is kept: asyncio asks a socket for its protocol before it says so."""
    with address.beside(Settings(port=0)) as one:
        assert one.proto == socket.IPPROTO_TCP
        with address.beside(Settings(port=one.getsockname()[1])) as other:
            assert other.getsockname() == one.getsockname()


def test_what_a_killed_server_left_is_swept_by_the_next_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, signal; from clipmill.jobs.serving import processes\n"
        "with processes._folder() as made: os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, check=False)
    assert len(list(tmp_path.glob("clipmill-serve-*/metrics"))) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with processes._folder() as first:
        assert list(tmp_path.iterdir()) == [first]
        with processes._folder() as second:
            assert sorted(tmp_path.iterdir()) == sorted([first, second])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_goes_although_somebody_still_writes_into_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def write() -> None:
        n = 0
        while folder.exists():
            n += 1
            try:
                (folder / str(n)).touch()
            except OSError:
                return

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    processes._remove(folder)
    for thread in threads:
        thread.join()
    assert not folder.exists()


def test_without_a_place_for_files_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no room in TMPDIR"), processes._folder():
        pass


def test_what_is_counted_needs_no_room_later(tmp_path: Path) -> None:
    """A process that writes to a hole of a mapped file ends by SIGBUS where the disk is full."""
    processes._reserve(tmp_path)
    code = (
        "import os, sys; from clipmill.jobs.serving import processes; from pathlib import Path\n"
        "processes._reserve(Path(sys.argv[1]))\n"
        "from clipmill.jobs.serving.guard import Metrics\n"
        "counted = Metrics(); counted.running.inc(); counted.rows.set(1)\n"
        "for n in range(40):\n"
        "    counted.requests.labels(f'/api/{n}', '200').inc(); counted.seconds.labels(f'/{n}').observe(1)"
    )
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, check=True)
    made = list(tmp_path.iterdir())
    assert len(made) == 8, "another file than those that were made beforehand"
    for file in made:
        assert file.stat().st_size == processes._COUNTED_BYTES
        assert file.stat().st_blocks * 512 >= processes._COUNTED_BYTES
