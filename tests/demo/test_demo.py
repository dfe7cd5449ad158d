"""The demo as a newcomer meets it: start, look, again, Ctrl-C and again; and the folders it must not touch."""

import errno
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.demo import bucket, files, server
from clipmill.jobs.demo.findings import FacetFound, Findings, Found, Hit
from clipmill.jobs.demo.page import render_page
from clipmill.jobs.demo.run import Options, demo
from clipmill.jobs.demo.searches import SEARCHES, suggestions
from clipmill.jobs.planning.jobfile import load_job
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import Status
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.store.storage import list_objects
from tests.conftest import unprivileged

SPEC = bucket.BucketSpec(number=100)


def listens(url: str) -> bool:
    port = int(url.rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_closed(url: str) -> None:
    deadline = time.monotonic() + 20
    while listens(url) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not listens(url), "the S3 server outlives the demo"


class TestFolder:
    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        with pytest.raises(UserError, match="out is not a folder"):
            demo(Options(out=tmp_path / "out"))

    def test_somebody_elses_folder_stays_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(UserError, match="holds files that the demo did not make"):
            demo(Options(out=tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    def test_a_second_demo_waits_for_the_first(self, tmp_path: Path) -> None:
        with files.claimed(tmp_path / "out"), pytest.raises(UserError, match="another demo is running"):
            demo(Options(out=tmp_path / "out"))

    def test_a_folder_that_cannot_be_written(self) -> None:
        folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
        folder.chmod(0o555)
        try:
            with unprivileged(), pytest.raises(UserError, match="cannot be written"), files.claimed(folder / "out"):
                pytest.fail("it was written")
        finally:
            folder.rmdir()

    def test_a_disk_that_is_read_only(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="out cannot be written"), files.claimed(tmp_path / "out"):
            raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "out"))

    def test_what_another_version_made_goes_and_the_rest_stays(self, tmp_path: Path) -> None:
        with files.claimed(tmp_path / "out") as folder:
            assert files.drop_outdated(folder, SPEC) == []
            folder.tars.mkdir(parents=True)
            folder.table.parent.mkdir()
            folder.yours.write_text("edited")
            assert files.drop_outdated(folder, SPEC) == []
            assert folder.tars.exists()
            assert folder.table.parent.exists()
            assert len(files.drop_outdated(folder, replace(SPEC, seed=99))) == 2
            assert not folder.tars.exists()
            assert not folder.table.parent.exists()
            assert folder.yours.read_text() == "edited"

    def test_both_job_files_are_good_ones(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        out = tmp_path / "an odd: folder"
        with files.claimed(out) as folder:
            files.write_jobs(folder, Storage(endpoint_url="http://127.0.0.1:1", region="us-east-1"), "clipmill")
            job = load_job(folder.job)
            assert (job.table, job.storage.endpoint_url) == (str(folder.table), "http://127.0.0.1:1")
            assert load_job(folder.yours).model.name == "ViT-B-32"
            folder.yours.write_text("edited")
            files.write_jobs(folder, Storage(), "clipmill")
            assert folder.yours.read_text() == "edited"


class TestBucket:
    def test_the_bytes_follow_from_the_seed_and_drawing_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        """Equal bytes are equal etags: the second demo has nothing to embed."""
        (tmp_path / "000.77.part").write_bytes(b"half a tar of a killed run")
        assert list(bucket.draw(SPEC, tmp_path, processes=2)) == [(0, 1), (1, 1)]
        drawn = (tmp_path / "000.tar").read_bytes()
        assert drawn == bucket.tar_bytes(SPEC, bucket.choose_scenes(SPEC), 0)
        assert list(bucket.draw(SPEC, tmp_path, processes=2)) == [(1, 1)]
        assert [path.name for path in tmp_path.iterdir()] == ["000.tar"]
        assert SPEC.digest() != replace(SPEC, seed=6).digest()

    def test_row_ids_lead_back_to_scenes(self) -> None:
        assert bucket.number_of(f"s3://demo/scenes/003.tar#{bucket.key_of(321)}.jpg") == 321


class TestServer:
    def test_it_holds_the_bucket_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "my-own")
        (tmp_path / "000.tar").write_bytes(b"a tar")
        with server.local_s3(tmp_path / "log") as storage:
            assert "AWS_PROFILE" not in os.environ
            assert list(server.upload(tmp_path, "scenes/", storage)) == [(1, 1)]
            (found,) = list_objects("s3://demo/scenes/*.tar", storage)
            assert (found.uri, found.size_bytes) == ("s3://demo/scenes/000.tar", 5)
            assert storage.endpoint_url is not None
            assert listens(storage.endpoint_url)
        assert os.environ["AWS_PROFILE"] == "my-own"
        wait_until_closed(storage.endpoint_url)

    def test_without_moto_the_fix_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "moto", None)
        with pytest.raises(UserError) as caught, server.local_s3(tmp_path / "log"):
            pass
        assert "clipmill[demo]" in caught.value.hint


def a_page(caption: str) -> str:
    hit = Hit(
        id="s3://demo/scenes/000.tar#000001.jpg",
        caption=caption,
        score=0.5,
        tags=["red"],
        thumbnail=b"webp",
        right=True,
    )
    status = Status(
        table="db/scenes", rows=1, units=1, seen=2, rejects={"empty": 1}, balanced=True, model="clipmill-tiny",
        pretrained="", dim=256, precision="fp32", vocabulary="scenes", version=1, live=None, fragments=1, indices=[],
        proof="",
        held_by=None, left_out={}, live_rows=None, readers="", deleted=0,
    )  # fmt: skip
    return render_page(
        Findings(
            status=status,
            run={},
            searches=[Found(search=one, title=one.text, command="clipmill search", hits=[hit]) for one in SEARCHES],
            facets=[FacetFound(name="colour", values=[("red", 1)], accuracy=1.0)],
            rejects=[{"reason": "empty", "id": "x", "uri": "x", "detail": caption}],
        ),
        table="db/scenes",
        called="clipmill",
        tries=["clipmill search db/scenes 'two <b>boats'"],
    )


def test_the_page_is_self_contained_and_captions_are_only_text() -> None:
    page = a_page("<script>alert(1)</script>")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2 * len(SEARCHES) + 1
    assert page.count('src="data:image/webp;base64,') == len(SEARCHES)
    assert not re.search(r'(src|href)=(?!"data:)|@import|url\(', page)


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.text or "like")
def test_the_printed_searches_are_commands_that_exist(search) -> None:
    name, *words = shlex.split(search.command("clipmill", "demo-out/db/scenes", "s3://demo/scenes/0.tar#1.jpg"))[1:]
    cli.build().commands[name].make_context(name, words).close()


@pytest.mark.parametrize("number", [50, 300, 2000])
def test_what_to_try_next_is_in_the_bucket_and_is_a_command(number: int) -> None:
    """`two yellow boats` used to be the first thing proposed, and was in none of the pictures."""
    scenes = bucket.choose_scenes(bucket.BucketSpec(number=number))
    tries = suggestions(scenes)
    assert [bool(one.where) for one in tries] == [False, True]
    for one in tries:
        assert any(map(one.is_true, scenes)), one.text
        name, *words = shlex.split(one.command("clipmill", "demo-out/db/scenes", k=None))[1:]
        cli.build().commands[name].make_context(name, words).close()


# -- the whole command ---------------------------------------------------------------------------------------------


class Terminal:
    """Runs the command as a terminal does: in a process group of its own, which Ctrl-C reaches whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.words = [
            sys.executable,
            "-m",
            "clipmill",
            "demo",
            "--out",
            "out",
            "--scenes",
            "600",
            "--json",
        ]
        self.stderr = ""

    def run(self, *, stop_at: str = "", after_s: float = 0, with_signal: int = signal.SIGINT) -> tuple[int, str]:
        """(exit code, stdout). `stop_at`: words on stderr, so long after which the signal is sent."""
        with subprocess.Popen(
            self.words,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stderr is not None
            self.stderr = ""
            for line in process.stderr:
                self.stderr += line
                if stop_at and stop_at in line:
                    stop_at = ""
                    time.sleep(after_s)
                    os.killpg(process.pid, with_signal)
            assert process.stdout is not None
            return process.wait(), process.stdout.read()

    def server(self) -> Iterator[str]:
        yield from re.findall(r"http://127\.0\.0\.1:\d+", self.stderr)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_interrupted_anywhere_it_goes_on_and_the_second_time_there_is_nothing_to_do(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    code, _ = terminal.run(stop_at="draw 600 scenes")
    assert code == 130, terminal.stderr
    assert "hint: run the same command again" in terminal.stderr
    assert "Traceback" not in terminal.stderr

    code, _ = terminal.run(stop_at="starting workers")
    assert code == 130, terminal.stderr
    assert "Traceback" not in terminal.stderr
    for url in terminal.server():
        wait_until_closed(url)

    code, _ = terminal.run(stop_at="it listens on", with_signal=signal.SIGKILL)
    assert code == -signal.SIGKILL
    for url in terminal.server():
        wait_until_closed(url)

    # The workers have their model and embed: the units under way are committed before the demo ends. A fast machine may
    # have committed all of them by then, or be done.
    code, _ = terminal.run(stop_at="batches of", after_s=2)
    assert code == 130 or (code == 0 and "Try next:" in terminal.stderr), terminal.stderr
    assert "Traceback" not in terminal.stderr
    table = Tables.at(str(tmp_path / "out" / "db" / "scenes")).open(missing_ok=True)
    kept = 0 if table is None else int(table.count_rows())
    if re.search(r"[1-9]\d* units in flight", terminal.stderr):
        assert kept > 0

    code, out = terminal.run()
    assert code == 0, terminal.stderr
    report = json.loads(out)
    assert (report["seen"], report["rows"], report["new_rows"]) == (608, 600, 600 - kept)
    assert sum(report["rejects"].values()) == bucket.NUM_BROKEN
    assert len(report["searches"]) == 6
    page = Path(report["page"]).read_text()
    assert page.count('src="data:image/webp;base64,') == 36
    for url in terminal.server():
        wait_until_closed(url)

    drawn = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "bucket" / "scenes").iterdir()}
    code, out = terminal.run()
    assert code == 0, terminal.stderr
    again = json.loads(out)
    assert again["new_rows"] == 0
    assert "nothing to do" in terminal.stderr
    changing = ("new_rows", "seconds")
    assert {**report, **dict.fromkeys(changing)} == {**again, **dict.fromkeys(changing)}
    assert drawn == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "bucket" / "scenes").iterdir()}
