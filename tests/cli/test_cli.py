"""The command line: what starts fast, what goes where, and which exit code means what."""

import errno
import importlib
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pytest

from clipmill.jobs.cli import job as cli_job
from clipmill.jobs.cli import main as cli
from clipmill.jobs.terminal import output
from clipmill.jobs.terminal.progress import Progress
from clipmill.jobs.terminal.signals import handled
from clipmill.schemas import errors
from clipmill.schemas.errors import EXIT_USER
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import Outcome, Receipt
from tests.conftest import heeding

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "ray", "lance", "lancedb", "pandas", "pyarrow", "open_clip", "s3fs", "fastapi", "numpy", "pydantic"}


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.run(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_is_there_within_a_second_and_loads_nothing_heavy():
    code = "import sys; from clipmill.jobs.cli.main import run\n"
    # Seconds of the processor: the machine may be busy.
    code += "code = run(['--help']); import time; print(time.process_time(), code, *sys.modules, file=sys.stderr)"
    best_s = 9.0
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        took_s, exit_code, *modules = done.stderr.split()
        best_s = min(best_s, float(took_s))
    assert exit_code == "0"
    assert "embed" in done.stdout
    assert not HEAVY & set(modules)
    assert best_s < 1


def test_help_shows_each_command_once_by_what_it_is_for(capsys):
    modules = [importlib.import_module(f"clipmill.jobs.cli.{module}") for module in cli.COMMAND_MODULES]
    there = sorted(command.name for module in modules for command in module.commands)
    assert sorted(name for names in cli.SECTIONS.values() for name in names) == there
    _, out, _ = call(capsys, "--help")
    assert [line[:-1] for line in out.splitlines() if line.endswith(":")] == ["Options", *cli.SECTIONS]
    assert all(out.count(f"\n  {name} ") == 1 for name in there)


def test_the_bare_command_shows_the_help_as_it_is(capsys):
    code, out, err = call(capsys)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: clipmill")
    assert "\n  embed " in err


@pytest.mark.parametrize("command", sorted(cli.build().commands))
def test_every_command_explains_itself(capsys, command):
    code, out, err = call(capsys, command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: clipmill {command}")
    assert cli.build().commands[command].short_help or len(out.splitlines()) > 3


@pytest.mark.parametrize("command", sorted(cli.build().commands))
def test_what_prints_data_prints_json_too(command):
    prints_no_data = {"serve"}
    names = {name for param in cli.build().commands[command].params for name in param.opts}
    assert "--json" in names or command in prints_no_data


ONCE = ("--where", "--tag", "--version", "--float32", "--allow-source", "--endpoint-url", "--region", "--json")
OTHERWISE = {"delete --where", "select --tag", "schedule --image"}  # another thing by the same name
LISTS = ("--column", "--columns", "--keep")
READ = ("--ids", "--labels", "--captions", "--calibrate", "--golden", "--image")


def options_of(*names: str) -> dict[str, click.Option]:
    """`COMMAND --NAME` -> the option, of every command that has one so called and shows it."""
    commands = cli.build().commands
    options = ((f"{c} {o.opts[0]}", o) for c in commands for o in commands[c].params if isinstance(o, click.Option))
    found = {called: one for called, one in options if one.opts[0] in names and not one.hidden}
    return {called: one for called, one in found.items() if called not in OTHERWISE}


@pytest.mark.parametrize("name", ONCE)
def test_an_option_of_several_commands_says_the_same_in_each(name: str) -> None:
    found = options_of(name).values()
    assert len(found) > 1
    assert len({(one.help, one.metavar, one.type.name, one.multiple) for one in found}) == 1


def test_several_names_take_commas_and_a_file_to_read_may_lie_in_a_store() -> None:
    lists = {called: one for called, one in options_of(*LISTS).items() if one.multiple}
    assert {"export --column", "push --column", "index --column", "tags --column", "search --columns"} < lists.keys()
    for called, one in lists.items():
        assert one.process_value(click.Context(cli.build()), ["a, b", "c", "a"]) == ("a", "b", "c"), called
    for called, one in options_of(*READ).items():
        assert one.type.convert("s3://bucket/file", one, None) == "s3://bucket/file", called
        with pytest.raises(click.BadParameter, match="does not exist"):
            one.type.convert("absent.csv", one, None)


@pytest.mark.parametrize(
    ("typed", "needed"),
    [
        ("tags db/t --hits 5", "--hits does nothing without --near"),
        ("search db/t shoe --text-weight 0.3", "--text-weight does nothing without --hybrid"),
        ("search db/t --where true --min-score 0.2", "--min-score does nothing without words, --image or --like"),
        ("dedup db/t --exact --threshold 0.9", "--threshold does nothing without vectors"),
        ("dedup db/t --phash 4 --threshold 0.9", "--threshold does nothing without vectors"),
        ("export db/t --to out --format coco --column id", "--column does nothing without --format parquet"),
        ("push db/t out --private", "--private does nothing without hf://OWNER/NAME"),
        ("evaluate db/t --template {label}", "--template does nothing without --labels"),
        ("evaluate db/t --label-column tags --captions s3://b/c.csv", "exclude each other"),
        ("verify db/t --seed 3", "--seed does nothing without --sample N"),
        ("plan job.yaml --reembed a,b --measure 9", "exclude each other"),
        ("status db/t --every 2", "--every does nothing without --watch"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], typed: str, needed: str
) -> None:
    code, out, err = call(capsys, *typed.split())
    assert (code, out) == (EXIT_USER, "")
    assert f"error: {needed}" in err or needed in err
    assert "hint: `clipmill" in err


@pytest.mark.parametrize(
    "typed",
    [
        ["export", "db/t", "--to", ""],
        ["export", "db/t", "--to", "out", "--near", ""],
        ["export", "db/t", "--to", "out", "--near="],
        ["retag", "db/t", "--vocabulary", "coco", "--as", ""],
        ["dedup", "db/t", "--keep-list", ""],
        ["push", "db/t", "hf://me/mine", "--dry-run", ""],
        ["push", "db/t", "out", "--column", " , "],
        ["search", "db/t", "", "--where", "true"],
    ],
)
def test_an_empty_value_is_told_and_not_taken_for_none(capsys: pytest.CaptureFixture[str], typed: list[str]) -> None:
    code, out, err = call(capsys, *typed)
    assert (code, out) == (EXIT_USER, "")
    assert "was given nothing" in err or "it names nothing" in err or "a text to look for is empty" in err
    assert err.count("\n") == 2


def test_a_flag_is_given_no_value_and_a_dash_ends_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (["search", "db/t", "--exact", ""], ["search", "db/t", "--", "--where", ""]):
        assert "was given nothing" not in call(capsys, *typed)[2]


def test_the_reference_page_is_what_help_says():
    made = subprocess.run([sys.executable, "docs/make_cli.py"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (ROOT / "docs" / "cli.md").read_text() == made.stdout, "run `make docs`"


@pytest.mark.parametrize(
    ("argv", "sentence", "hint"),
    [
        (["serach"], "there is no command 'serach'", "did you mean `clipmill search`?"),
        (["frobnicate"], "there is no command 'frobnicate'", "`clipmill --help` lists the commands"),
        (["search", "db/t", "x", "--k"], "no such option '--k'", "--help` shows how"),
        (["search"], "missing argument 'TABLE'", "`clipmill search --help` shows how it is used"),
        (["search", "db/t"], "nothing to search for", "--image FILE or --like ID"),
        (["search", "db/t", "x", "-k", "0"], "invalid value for '-k': 0 is not in the range", "--help"),
        (["search", "db/t", "--image", "absent.jpg"], "File 'absent.jpg' does not exist", "--help"),
        (["rejects", "db/t", "--limit", "many"], "'many' is not a valid integer range", "--help"),
        (["plan"], "missing argument 'JOB'", "`clipmill plan --help`"),
        (["embed", "absent.yaml"], "the job file absent.yaml does not exist", "examples are in deploy/jobs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_one_sentence_and_a_hint(capsys, monkeypatch, tmp_path, argv, sentence, hint):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *argv)
    lines = err.splitlines()
    assert (code, out, len(lines)) == (2, "", 2)
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert sentence in lines[0]
    assert hint in lines[1]


class _Raises(click.Group):
    def __init__(self, error: BaseException) -> None:
        super().__init__("x", invoke_without_command=True)
        self.error = error

    def invoke(self, ctx: click.Context) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (
            errors.UserError("The table is gone.", "look elsewhere"),
            2,
            "error: The table is gone.\nhint: look elsewhere\n",
        ),
        (errors.UserError("two\nlines"), 2, "error: two lines\n"),
        (errors.UnitsFailed("2 units failed: a, b"), 3, "error: 2 units failed: a, b\n"),
        (errors.GateRefused("recall fell", "look"), 4, "error: recall fell\nhint: look\n"),
        (errors.LeaseHeld("run r1 holds it", "wait"), 5, "error: run r1 holds it\nhint: wait\n"),
        (errors.LeaseLost("taken over"), 1, "error: taken over\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\nhint: run the same command again to go on from there\n"),
        (SystemExit(3), 3, ""),
        (BrokenPipeError(), 1, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_error_has_its_exit_code(capfd, monkeypatch, error, code, stderr):
    monkeypatch.setattr(cli, "build", lambda: _Raises(error))
    assert cli.run([]) == code
    # Click ends the terminal's line with the ^C first.
    assert capfd.readouterr().err.removeprefix("\n") == stderr


def test_a_defect_shows_its_traceback(capsys, monkeypatch):
    monkeypatch.setattr(cli, "build", lambda: _Raises(ZeroDivisionError("here")))
    assert cli.run([]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_every_error_crosses_a_process():
    import pickle

    error = pickle.loads(pickle.dumps(errors.UserError("a", "b")))
    assert (error.message, error.hint, error.exit_code) == ("a", "b", 2)


def test_the_reader_of_our_output_may_leave():
    code = (
        "from clipmill.jobs.terminal.output import print_rows; print_rows([{'a': 'x' * 50}] * 100_000, as_json=False)"
    )
    program = f"import sys; from clipmill.jobs.cli import main as cli; import click\ndef f(): {code}\n"
    program += "cli.build = lambda: click.Command('x', callback=f)\ncli.main()"
    pipe = f'{sys.executable} -c "$PROGRAM" | head -1'
    done = subprocess.run(
        ["bash", "-c", pipe],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PROGRAM": program, "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout == "a\n"
    assert done.stderr == ""


def test_json_holds_whatever_a_command_has(capsys):
    receipt = Receipt(unit_id="u", run="r", attempt=1, outcome=Outcome.DONE, rejected={"corrupt": 1})
    output.print_record(
        {"receipt": receipt, "nan": float("nan"), "array": np.arange(2), "float": np.float32(0.5), "bytes": b"ab"},
        as_json=True,
    )
    out = json.loads(capsys.readouterr().out)
    assert out["receipt"]["outcome"] == "done"
    assert out["receipt"]["rejected"] == {"corrupt": 1}
    assert (out["nan"], out["array"], out["float"], out["bytes"]) == (None, [0, 1], 0.5, "<2 bytes>")


def test_json_cannot_drive_a_terminal_and_is_the_same_value(capsys):
    """C1 control characters are commands to some terminals, and JSON lets them stand as they are."""
    record = {"caption": "a\x9b31m\x85\x7f\u202eb\u2028\udc80 \U000e0001 é 日本", "na\x9bme": ["\x1b"]}
    output.print_json(record)
    printed = capsys.readouterr().out
    assert json.loads(printed) == record
    assert printed.rstrip("\n").isprintable()
    assert "é 日本" in printed
    assert "\\u009b31m" in printed


def test_rows_are_a_json_array_or_a_table(capsys):
    rows = pa.table({"id": ["a", "b"], "score": pa.array([0.25, None], pa.float32()), "tags": [["x", "y"], []]})
    output.print_rows(rows, as_json=True)
    assert json.loads(capsys.readouterr().out)[0] == {"id": "a", "score": 0.25, "tags": ["x", "y"]}
    output.print_rows(rows, as_json=False, columns=["id", "score", "tags"])
    assert capsys.readouterr().out == "id  score  tags\na   0.25   x, y\nb   -      -\n"
    output.print_rows([], as_json=False)
    assert capsys.readouterr() == ("", "nothing found\n")
    output.print_rows([], as_json=True)
    assert capsys.readouterr().out == "[]\n"


def test_a_caption_cannot_drive_the_terminal():
    assert output.cell("a\x1b[2J\u202eb\nc") == "a [2J b c"
    assert len(output.cell("x" * 500)) == 60


def test_a_record_shows_sentences_whole(capsys):
    output.print_record({"gates": [{"name": "rows", "sentence": "x" * 200}]}, as_json=False)
    assert capsys.readouterr().out == f"gates\n  name=rows, sentence={'x' * 200}\n"


def test_a_name_in_an_error_cannot_drive_the_terminal(tmp_path, capsys):
    """Colours, a title, C1's one-byte CSI, and letters turned around, in a file's name and in a column's."""
    name = "a\x1b[31mred\x1b]0;title\x07\x9b2K\u202e.yaml"
    assert cli.run(["plan", str(tmp_path / name)]) == EXIT_USER
    (tmp_path / "l.csv").write_text("\x1b[2Jcaption\n", encoding="utf-8")
    job = f"table: {tmp_path}/db/t\nsource: {{format: manifest, uri: {tmp_path}/l.csv}}\nmodel: {{name: stub}}\n"
    (tmp_path / "job.yaml").write_text(job)
    assert cli.run(["plan", str(tmp_path / "job.yaml")]) == EXIT_USER
    first, second = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error:"))
    assert first.endswith("a\\x1b[31mred\\x1b]0;title\\x07\\x9b2K\\u202e.yaml does not exist")
    assert "has no column named one of" in second
    assert cli.run(["\x1b[31msearhc"]) == EXIT_USER
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in capsys.readouterr().err.replace("\n", ""))


def test_what_a_run_says_cannot_drive_the_terminal(capsys):
    output.note("a\x1b[2J.jpg \u200d\n猫\tb")
    Progress(stream=sys.stderr).say("b\x1b.jpg")
    assert capsys.readouterr().err == "a\\x1b[2J.jpg \u200d\n猫 b\nb\\x1b.jpg\n"


def test_wide_letters_keep_the_columns_straight(capsys):
    output.print_rows([{"a": "猫", "b": 1}, {"a": "dog", "b": 2}], as_json=False)
    assert capsys.readouterr().out == "a    b\n猫   1\ndog  2\n"


def test_a_record_is_readable(capsys):
    record = {"rows": 12345, "model": {"name": "m"}, "ok": True, "note": "", "runs": [{"run": "r"}], "sizes": [1, 2]}
    output.print_record(record, as_json=False)
    lines = ["rows   12,345", "model", "  name  m", "ok     yes", "note   -", "runs", "  run=r", "sizes  1, 2", ""]
    assert capsys.readouterr().out == "\n".join(lines)


def test_what_an_option_takes_is_shown_as_it_takes_it(capsys):
    output.print_record({"rows": 1234, "version": 1234, "seed": 2097000505, "table_version": None}, as_json=False)
    shown = ["rows           1,234", "version        1234", "seed           2097000505", "table_version  -", ""]
    assert capsys.readouterr().out == "\n".join(shown)


def test_an_id_can_be_copied_from_the_last_column(capsys):
    name = "s3://lake/" + "x" * 300
    output.print_rows([{"score": 1.0, "id": name}], as_json=False, columns=["score", "id"])
    assert name in capsys.readouterr().out


def test_what_embed_says_last_can_be_typed() -> None:
    storage = Storage(endpoint_url="http://127.0.0.1:9000", region="eu-central-1")
    lines = cli_job.what_next("./venv dir/clipmill", "s3://lake/db/images", storage).removeprefix("look at it: ")
    for line, name in zip(lines.splitlines(), ("search", "serve"), strict=True):
        called, command, *words = shlex.split(line)
        assert (called, command) == ("./venv dir/clipmill", name)
        context = cli.build().commands[name].make_context(name, words)
        assert context.params["table"] == "s3://lake/db/images"
        assert (context.params["endpoint_url"], context.params["region"]) == (storage.endpoint_url, storage.region)
        context.close()


SIGNATURE = "0123456789abcdef"


@pytest.mark.parametrize(
    "argv",
    [
        ("status", "s3://me:hunter2@lake/db/images"),
        ("search", "s3://me:hunter2@lake/db/images", "boats"),
        ("verify", "lake/db/images", "--endpoint-url", "https://me:hunter2@store.example"),
        ("serve", "s3://lake/db/images", "--endpoint-url", "http://me:hunter2@127.0.0.1:9"),
        ("rejects", f"https://store.example/db/images?X-Amz-Signature={SIGNATURE}"),
        ("export", "s3://me:hunter2@lake/db/images", "--to", "out"),
        ("index", "s3://AKIAIOSFODNN7EXAMPLE@lake/db/images"),
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *argv)
    assert code == EXIT_USER
    assert out == ""
    assert err.startswith("error: ")
    assert "carries a" in err
    assert "standard AWS chain" in err
    assert not [secret for secret in ("hunter2", SIGNATURE, "IOSFODNN7") if secret in err]


def test_a_secret_in_the_environments_endpoint_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://me:hunter2@store.example")
    code, _, err = call(capsys, "status", "s3://lake/db/images")
    assert code == EXIT_USER
    assert "hunter2" not in err


def test_whatever_is_said_has_its_credentials_masked(capsys: pytest.CaptureFixture[str]) -> None:
    output.note(f"GET https://me:hunter2@store.example/x?sig={SIGNATURE}&a=1 failed")
    assert capsys.readouterr().err == "GET https://***@store.example/x?sig=***&a=1 failed\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_any_command_as_ctrl_c_does(number: signal.Signals) -> None:
    code = "import os, sys; from clipmill.jobs.cli import job as cli_job, main as cli\n"
    code += f"run = lambda **_: os.kill(os.getpid(), {int(number)})\n"
    code += "cli_job.plan.callback = run; sys.argv[1:] = ['plan', 'job.yaml']; cli.main()"
    with heeding(number):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 130
    assert done.stderr.lstrip() == "error: interrupted\nhint: run the same command again to go on from there\n"


def test_what_nohup_asks_to_ignore_stays_ignored() -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in handled()
        assert signal.SIGTERM in handled()
    finally:
        signal.signal(signal.SIGHUP, old)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "sch"), "error: sch: Read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "sch"), "error: sch: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: no space left on device"),
        (
            OSError("LanceError(IO): No space left on device (os error 28)"),
            "error: there is no space left for the table",
        ),
        (
            ValueError("External error: LanceError(IO): Permission denied (os error 13), /src/local.rs:274:24"),
            "error: no permission to read a file of the table",
        ),
        (
            OSError("LanceError(IO): IO error for operation on /d/i.lance/_refs/tags: Permission denied (os error 13)"),
            "error: no permission to read /d/i.lance/_refs/tags",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), "Traceback"),  # of a socket, perhaps: a defect
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "sch"), "Traceback"),
    ],
)
def test_a_place_that_takes_no_file_is_one_sentence(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`schedule --to`, `evaluate --plot`, `train-head --out` on a disk that is read-only or full."""
    job = tmp_path / "job.yaml"
    job.write_text(f"table: {tmp_path}/db/images\nsource: {{format: files, uri: {tmp_path}/}}\n")

    def refused(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path, "mkdir", refused)
    code = cli.run(["schedule", str(job), "--kind", "crontab", "--to", "sch"])
    told = capsys.readouterr().err
    assert f"\n{said}" in f"\n{told}", told
    assert code == (1 if said == "Traceback" else 2)
