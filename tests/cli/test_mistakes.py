"""What strangers type: each ends in one sentence and a hint, with exit code 2, within seconds, and writes nothing.

Beside test_bad_jobs.py (the job file) and test_bad_sources.py (source, store, model), here are the paths,
tables of other tools, addresses and options of all commands.
"""

import socket
import time
from pathlib import Path

import pyarrow as pa
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.table.readers import FENCE_TAG
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import EXIT_OTHER
from tests.planning.test_bad_jobs import listing, refused
from tests.tables import TableOptions, make_table

# TABLE: a table of ours; OTHER: one that another tool made; HERE: the folder of both, with some files.
TYPED: dict[str, tuple[str, str]] = {
    # what stands for TABLE
    "status HERE/notes.txt/images": ("HERE/notes.txt is no folder", "a folder and a name"),
    "status HERE/picture.jpg": ("there is no table HERE/picture.jpg", "clipmill embed"),
    "search HERE/db shoe": ("there is no table HERE/db", "it is a database; what it holds: HERE/db/"),
    "search TABLES shoe": ("there is no table TABLES", "did you mean TABLE?"),
    "status s3://lake": ("'s3://lake' is not a table", "s3://lake/db/images"),
    "status s3://lake/": ("'s3://lake/' is not a table", "s3://lake/db/images"),
    "status ftp://host/db/images": ("nothing here keeps tables under ftp://", "s3://lake/db/images"),
    "status https://example.com/db/images": ("nothing here keeps tables under https://", "s3://lake/db/images"),
    "status TABLE__units": ("clipmill did not make it", "check the name"),
    "search TABLE__rejects shoe": ("clipmill did not make it", "check the name"),
    "search OTHER shoe": ("clipmill did not make it: it has no column `id`", "check the name"),
    "tags OTHER": ("clipmill did not make it", "check the name"),
    "rejects OTHER": ("clipmill did not make it", "check the name"),
    "verify OTHER": ("clipmill did not make it", "check the name"),
    "index OTHER": ("clipmill did not make it", "check the name"),
    "dedup OTHER": ("clipmill did not make it", "check the name"),
    "export OTHER --to HERE/out": ("clipmill did not make it", "check the name"),
    "evaluate OTHER": ("clipmill did not make it", "check the name"),
    "serve OTHER": ("clipmill did not make it", "check the name"),
    # addresses
    "status TABLE --endpoint-url minio": (
        "--endpoint-url must start with http:// or https://",
        "http://localhost:9000",
    ),
    "status s3://lake/db/t --endpoint-url localhost:9000": ("--endpoint-url must start with", "http://localhost:9000"),
    "export TABLE --to s3://me:hunter2@lake/out": ("--to carries a user name and password", "AWS"),
    "search TABLE --image https://me:hunter2@host/a.jpg": ("--image carries a user name and password", "AWS"),
    "verify TABLE --allow-source s3://me:hunter2@lake/": ("--allow-source carries a user name and password", "AWS"),
    "score TABLE --head s3://me:hunter2@lake/head.npz": ("--head carries a user name and password", "AWS"),
    "embed HERE/job.yaml --address ray://me:hunter2@host:10001": ("--address carries a user name", "AWS"),
    "embed HERE/job.yaml --address 127.0.0.1:CLOSED": ("cannot connect to the Ray cluster", "this machine"),
    "embed HERE/job.yaml --address ray://127.0.0.1:CLOSED": ("cannot connect to the Ray cluster", "this machine"),
    "embed HERE/job.yaml --address banana": ("'banana' is no address of a Ray cluster", "host:6379"),
    "index TABLE --kind ivf_rq --rebuild --address 127.0.0.1:CLOSED": ("cannot connect to the Ray", "this machine"),
    # places to write to
    "export TABLE --to HERE/notes.txt": ("HERE/notes.txt is no folder", "another place"),
    "export TABLE --to HERE/notes.txt/out": ("HERE/notes.txt is no folder", "another place"),
    "export TABLE --to /proc/out": ("/proc", "another place"),
    "embed HERE/proc.yaml": ("/proc", "another place"),
    "embed HERE/file.yaml": ("HERE/notes.txt is no folder", "a folder and a name"),
    "dedup TABLE --keep-list HERE/none/keep.txt": ("there is no folder 'HERE/none'", "--help"),
    "dedup TABLE --keep-list HERE": ("is a directory", "--help"),
    "evaluate TABLE --plot HERE/none/plot.svg": ("there is no folder 'HERE/none'", "--help"),
    "demo --out HERE/notes.txt": ("notes.txt is not a folder", "--out"),
    "demo --out /proc/demo": ("/proc/demo cannot be", "--out"),
    "import OTHER.lance --to HERE/db/a__units --model stub": (
        "'a__units' cannot be a table's name: letters, digits, dots, - and single _",
        "another name",
    ),
    "import OTHER.lance --to HERE/db/naïve --model stub": ("'naïve' cannot be a table's name", "another name"),
    # files to read
    "export TABLE --to HERE/out --ids HERE/picture.jpg": ("picture.jpg is no UTF-8 text", "one id a line"),
    "export TABLE --to HERE/out --ids HERE/none.txt": ("none.txt' does not exist", "--help"),
    "evaluate TABLE --captions HERE/picture.jpg": ("picture.jpg is not CSV", "UTF-8"),
    "plan HERE/absent-list.yaml": ("HERE/absent.csv", "check the spelling, and the folder"),
    # words and filters
    "search TABLE a red shoe": ("unexpected extra arguments (red shoe)", 'quotes, such as "a red shoe"'),
    "tags TABLE red": ("unexpected extra argument (red)", "`clipmill tags --help` shows"),
    "search TABLE --like HERE/picture.jpg": ("there is no row with id", "a picture in a file is an image, no id"),
    "search TABLE --where tags='red'": ("the filter cannot be used", "array_has_any(tags, ['shoe'])"),
    "search TABLE --where widht>3": ("names widht, which is no column", "did you mean width?"),
    "search TABLE --where width>": ("the filter cannot be used", "filters are SQL"),
    "search TABLE --like nobody": ("there is no row with id 'nobody'", "ids are exact"),
    "search TABLE --like row-000001 --version latest": ("has no version latest", "newest: 1; tags: none"),
    "search TABLE --like row-000001 -k -5": ("-5 is not in the range", "--help"),
    "search TABLE --not night": ("nothing to search for", "--image FILE"),
    "rejects TABLE --reason curropt": ("'curropt' is no reason", "corrupt"),
    "index TABLE --kind ivf_pq": ("'ivf_pq' is not one of", "--help"),
    "index TABLE --memory -4GB": ("'-4GB' is not a size", "4GB"),
    "dedup TABLE --threshold 95": ("95.0 is no cosine", "0.95"),
    "evaluate TABLE --label-column nope": ("nope is no column of the table", "there is: id"),
    "serve TABLE --port BUSY": ("cannot listen on 127.0.0.1:BUSY", "--port"),
    "serve TABLE --host localhost:8000": ("localhost:8000 without a token", "CLIPMILL_SERVE_TOKEN"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    import lance

    here = tmp_path_factory.mktemp("mistakes")
    table = make_table(here / "db", TableOptions(rows=20))
    Tables.at(table).ensure_side_tables()
    Tables.at(table).open().tags.create(FENCE_TAG, 1)  # as the first commit makes it; no tag that a person can use
    lance.write_dataset(pa.table({"text": ["x"], "vector": [[1.0, 2.0]]}), f"{here}/db/other.lance")
    (here / "notes.txt").write_text("just words\n")
    (here / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    source = f"source: {{format: files, uri: {here}/}}\nmodel: {{name: stub}}\n"
    (here / "job.yaml").write_text(f"table: {here}/db/new\n{source}")
    (here / "proc.yaml").write_text(f"table: /proc/db/new\n{source}")
    (here / "file.yaml").write_text(f"table: {here}/notes.txt/images\n{source}")
    (here / "absent-list.yaml").write_text(
        f"table: {here}/db/new\nsource: {{format: manifest, uri: {here}/absent.csv}}\n"
    )
    return {"TABLE": table, "OTHER": f"{here}/db/other", "HERE": str(here)}


@pytest.mark.parametrize("typed", TYPED)
def test_a_mistake_is_one_sentence_and_a_hint(capsys, monkeypatch, places, typed):
    if "proc" in typed and not Path("/proc/self").exists():
        pytest.skip("a folder in which nobody can make anything")
    monkeypatch.delenv("CLIPMILL_SERVE_TOKEN", raising=False)
    monkeypatch.chdir(places["HERE"])
    with socket.socket() as busy, socket.socket() as closed:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        ports = {"BUSY": str(busy.getsockname()[1]), "CLOSED": str(closed.getsockname()[1])}

        def filled(text: str) -> str:
            for name, value in (places | ports).items():
                text = text.replace(name, value)
            return text

        before, started = listing(Path(places["HERE"])), time.monotonic()
        said, hint = refused(capsys, *filled(typed).split())
    assert time.monotonic() - started < 20
    assert filled(TYPED[typed][0]) in said
    assert filled(TYPED[typed][1]) in hint
    assert "hunter2" not in said + hint
    assert listing(Path(places["HERE"])) == before


def test_the_kept_row_of_a_group_is_no_copy_of_itself(capsys, places):
    assert cli.run(["dedup", places["TABLE"], "--threshold", "0.5"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    kept = [row for row in rows if row[1] == "yes"]
    assert kept
    assert {row[2] for row in kept} == {"-"}


def test_a_web_server_that_does_not_answer_is_no_matter_of_an_endpoint(capsys, tmp_path):
    file = tmp_path / "job.yaml"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}/a.tar"
        file.write_text(f"table: {tmp_path}/db/t\nsource: {{format: webdataset, uri: '{uri}'}}\n")
        said, hint = refused(capsys, "plan", str(file), code=EXIT_OTHER)
    assert f"{uri} does not answer" in said
    assert "check the address and the network" in hint
    assert "endpoint" not in hint
