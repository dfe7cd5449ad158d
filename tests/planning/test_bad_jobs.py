"""Bad job files through the command line: exit code 2, one sentence and a hint, no traceback, nothing written.

Here are the mistakes the file itself shows; test_bad_sources.py has those that only the store, the table or the
model can tell.
"""

import os
from pathlib import Path

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.schemas import errors

GOOD = """\
table: {out}/db/images
source:
  format: webdataset
  uri: {out}/raw/*.tar
"""

# What replaces or follows the good file -> what the sentence must say, and the hint.
BAD: dict[str, tuple[str, str, str]] = {
    "empty file": ("", "it is empty", "table: s3://lake/db/images"),
    "a list": ("- table\n- source\n", "it holds a list", "table: s3://"),
    "one word": ("images", "it holds one value", "table: s3://"),
    "not yaml: tab": ("table:\n\t- x", "line 2, column 1: this is not YAML", "indentation"),
    "not yaml: bracket": (GOOD + "tags: {top_k: 5\n", "this is not YAML", "missing colon, quote"),
    "not yaml: unquoted star": (
        GOOD.replace("{out}/raw/*.tar", "*.tar"),
        "line 4: YAML anchors and aliases",
        "quote it where & or *",
    ),
    "binary": ("\udcff\udcfe\x00", "byte 0 is not UTF-8 text", "saved as UTF-8"),
    "key twice": (GOOD + "table: x/y\n", "line 5: 'table' is given twice, first on line 1", "keep one"),
    "key that is no text": (GOOD + "3: x\n", "line 5: '3' is not a text key", "in quotes"),
    "bad date": (GOOD + "nightly: {golden: 2024-13-45}\n", "a value cannot be read", "quote the value"),
    "no table": (GOOD.split("\n", 1)[1], "'table' is missing", "add `table: s3://lake/db/images`"),
    "no source": ("table: {out}/db/images\n", "'source' is missing", "source: ..."),
    "no uri": (GOOD.replace("  uri: {out}/raw/*.tar\n", ""), "'source.uri' is missing", "uri: s3://lake/raw"),
    "unknown key at the top": (GOOD + "tag: {}\n", "line 5: 'tag' is not a known key", "did you mean `tags`?"),
    "unknown key in a section": (
        GOOD + "  imge: jpg\n",
        "line 5: 'source.imge' is not a known key",
        "did you mean `image`?",
    ),
    "unknown key in a kept column": (
        GOOD + "  keep: {a: {type: int32, form: b}}\n",
        "'source.keep.a.form' is not a known key",
        "did you mean `from`?",
    ),
    "key of another section": (GOOD + "top_k: 3\n", "'top_k' is not a known key", "under `tags:`"),
    "key near nothing": (GOOD + "storage: {zzz: 1}\n", "'storage.zzz'", "are endpoint_url, region"),
    "unknown format": (GOOD.replace("webdataset", "webdatset"), "'source.format' must be one of", "webdataset`?"),
    "number for a text": (GOOD + "  caption: 3\n", "'source.caption' must be text, not 3", "`caption: txt`"),
    "bare no": (GOOD + "  caption: no\n", "'source.caption' must be text, not false", "in quotes"),
    "text for a number": (GOOD + "tags: {top_k: five}\n", "must be a whole number, not 'five'", "`top_k: 5`"),
    "fraction for a count": (GOOD + "workers: {num: 1.5}\n", "must be a whole number or auto", "`num: auto`"),
    "list for a section": (GOOD + "tags: [coco]\n", "must be a section of keys and values, not a list", "vocabulary"),
    "empty section": (GOOD + "tags:\n", "line 5: 'tags' must be a section of keys and values, not empty", "remove"),
    "empty list": (GOOD.replace("{out}/raw/*.tar", "[]"), "'source.uri' is an empty list", "`uri: s3://lake"),
    "number in a list": (GOOD.replace("{out}/raw/*.tar", "[a.tar, 3]"), "'source.uri.1' must be text, not 3", "uri"),
    "empty uri": (GOOD.replace("{out}/raw/*.tar", "''"), "'source.uri': a URI is empty", "`uri: s3://lake"),
    "zero": (GOOD + "tags: {top_k: 0}\n", "'tags.top_k' must be at least 1, not 0", "`top_k: 5`"),
    "over one": (GOOD + "tags: {min_score: 1.5}\n", "'tags.min_score' must be at most 1, not 1.5", "min_score"),
    "negative": (GOOD + "workers: {gpus: -1}\n", "'workers.gpus' must be a positive number or auto", "gpus"),
    "no size": (GOOD + "limits: {max_pixels: 12X}\n", "'12X' is not a size such as 50MB", "`max_pixels: 100M`"),
    "infinite size": (GOOD + "limits: {max_image_bytes: .inf}\n", "'limits.max_image_bytes' must be", "50MB"),
    "not a number": (GOOD + "commit: {every_s: .nan}\n", "'commit.every_s' must be", "every_s"),
    "unknown precision": (GOOD + "model: {precision: bf17}\n", "must be one of auto, fp32, bf16", "bf16`?"),
    "table without a database": (GOOD.replace("{out}/db/images", "images"), "'images' is not <database uri>", "table:"),
    "table with a reserved name": (
        GOOD.replace("db/images", "db/a__units"),
        "'a__units' cannot be a table's name",
        "table:",
    ),
    "table with a blank in its name": (
        GOOD.replace("db/images", "db/my images"),
        "'my images' cannot be a table's name: letters",
        "table:",
    ),
    "unknown id": (GOOD + "  id: name\n", "'name' is none of uri, key, content, column:NAME", "`id: uri`"),
    "kept column with a taken name": (GOOD + "  keep: {tags: string}\n", "'tags' is a column of the table", "keep"),
    "kept column of unknown type": (GOOD + "  keep: {a: varchar}\n", "'source.keep.a' must be one of", "keep"),
    "kept column with an odd name": (GOOD + "  keep: {'a b': string}\n", "cannot be a column name", "keep"),
    "two image columns": (
        GOOD.replace("webdataset", "parquet") + "  image: a;b\n",
        "image names one column",
        "docs/job-file.md",
    ),
    "endpoint without http": (GOOD + "storage: {endpoint_url: 'localhost:9000'}\n", "must start with http", "http://"),
    "secret in storage": (
        GOOD + "storage: {aws_secret_access_key: abc}\n",
        "'storage.aws_secret_access_key' would put a credential",
        "standard AWS chain",
    ),
    "password in a uri": (GOOD.replace("{out}/raw", "s3://me:abc@lake/raw"), "carries a user name and password", "AWS"),
    "several mistakes": (
        GOOD + "tags: {top_k: 0}\nworkers: {num: many}\nxyz: 1\n",
        "'tags.top_k' must be at least 1, not 0 (and 2 more mistakes)",
        "`top_k: 5`",
    ),
}


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file())


def refused(capsys: pytest.CaptureFixture[str], *argv: str, code: int = errors.EXIT_USER) -> tuple[str, str]:
    """Run a command that must be refused, as the user's mistake if nothing else is said; its sentence and its hint."""
    ended = cli.run(argv)
    out, err = capsys.readouterr()
    assert ended == code, err
    assert out == ""
    assert "Traceback" not in err
    # Progress may come before; the error and its hint are the last two lines, and the only ones of their kind.
    sentence, hint = err.splitlines()[-2:]
    assert err.count("error: ") == err.count("hint: ") == 1, err
    assert sentence.startswith("error: ")
    assert hint.startswith("hint: ")
    # One sentence: no full stop followed by another one.
    assert ". " not in sentence
    assert not sentence.endswith(".")
    return sentence, hint


@pytest.mark.parametrize("command", ["plan", "embed"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_job_file_is_refused_in_one_sentence(capsys, tmp_path, name, command):
    text, sentence, hint = BAD[name]
    file = tmp_path / "job.yaml"
    file.write_bytes(text.replace("{out}", str(tmp_path)).encode("utf-8", "surrogateescape"))
    before = listing(tmp_path)
    said, advice = refused(capsys, command, str(file))
    assert str(file) in said
    assert sentence in said
    assert hint in advice
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder, not a job file"),
        (lambda path: path.write_bytes(b"# " + b"x" * 1_000_001), "is larger than 1,000,000 bytes"),
        (lambda path: os.symlink(path.name, path), "cannot be read: Too many levels of symbolic links"),
    ],
    ids=["missing", "folder", "huge", "loop"],
)
def test_a_job_file_that_cannot_be_read(capsys, tmp_path, make, sentence):
    path = tmp_path / "job.yaml"
    make(path)
    said, _ = refused(capsys, "embed", str(path))
    assert sentence in said


def test_a_missing_job_file_shows_its_neighbours(capsys, tmp_path):
    (tmp_path / "nightly.yaml").write_text("table: x/y")
    _, hint = refused(capsys, "plan", str(tmp_path / "nigthly.yaml"))
    assert "nightly.yaml" in hint


def test_the_likeliest_neighbour_of_a_missing_job_file_comes_first(capsys, tmp_path):
    for name in ("a.yaml", "b.yaml", "c.yaml", "d.yaml", "e.yaml", "f.yaml", "images.yml"):
        (tmp_path / name).write_text("table: x/y")
    _, hint = refused(capsys, "plan", str(tmp_path / "images.yaml"))
    assert hint.startswith(f"hint: job files there: {tmp_path}/images.yml")


def test_what_is_no_job_file_is_no_neighbour(capsys, tmp_path):
    (tmp_path / "labels.yaml").write_text("labels: [a table, a chair]")
    (tmp_path / "night.yaml").write_text('# a job\n"table": x/y\n')
    _, hint = refused(capsys, "plan", str(tmp_path / "labelz.yaml"))
    assert hint == f"hint: job files there: {tmp_path}/night.yaml"
