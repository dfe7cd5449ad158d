"""What a run on a cluster is asked for: every option of the commands reaches it, or is refused by its name."""

from pathlib import Path

import click
import pytest

from clipmill.jobs.cli.main import build
from clipmill.jobs.cli.main import run as clipmill
from clipmill.jobs.cluster.parcel import named_on_disk
from clipmill.jobs.cluster.sent import KEPT_BACK, PASSED_ON, line
from clipmill.jobs.cluster.submit import Order
from clipmill.jobs.planning.jobfile import load_job

HERE = {"--json", "--address", "--help"}  # mean the same, of `submit` itself
NOWHERE = ["--address", "http://127.0.0.1:9"]


@pytest.fixture
def job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("label\na dog\na cat\n")
    Path("job.yaml").write_text(
        'table: s3://lake/my db/images\nsource: {format: files, uri: "s3://lake/raw/"}\n'
        "tags: {vocabulary: mine.csv}\nstorage: {endpoint_url: http://store:9000}\n"
    )
    return "job.yaml"


def options(command: str) -> dict[str, click.Parameter]:
    found = build().commands[command].params
    return {param.opts[0]: param for param in found if isinstance(param, click.Option)}


@pytest.mark.parametrize("command", ["embed", "nightly", "reembed"])
def test_every_option_is_passed_on_or_refused_by_its_name(command: str, job_file: str, capsys):
    mine = options(command).keys() - HERE
    assert {o for o in mine if o not in KEPT_BACK} == {o for o, takers in PASSED_ON.items() if command in takers}
    known = options("submit")
    assert mine <= known.keys()
    for option in sorted(mine & KEPT_BACK.keys()):
        words = [option] if getattr(known[option], "is_flag", False) else [option, "x"]
        assert clipmill(["submit", job_file, *NOWHERE, "--command", command, *words]) == 2
        said = capsys.readouterr().err
        assert f"error: {option} is not passed on to the cluster: " in said
        assert "hint: " in said
        assert known[option].hidden  # type: ignore[attr-defined]


def test_what_is_asked_for_is_the_same_command_line_there(job_file: str, tmp_path: Path):
    Path("head.safetensors").write_bytes(b"h")
    Path("w.pt").write_bytes(b"w")
    asked = {
        "--model": "ViT-B-32",
        "--pretrained": "./w.pt",
        "--set": "new",
        "--head": ("nice=head.safetensors", "far=s3://lake/far.pt"),
        "--again": True,
        "--allow-source": ("s3://other/a", "s3://other/b"),
        "--log-format": "json",
    }
    made = line(load_job(job_file), "reembed", asked)
    given = build().commands["reembed"].make_context("reembed", list(made.words[1:]), resilient_parsing=False).params
    assert (given["table"], given["model"], given["slug"]) == ("s3://lake/my db/images", "ViT-B-32", "new")
    assert given["pretrained"] == made.paths[0] == str(tmp_path / "w.pt")
    assert (given["vocabulary"], given["endpoint_url"]) == ("vocabulary.csv", "http://store:9000")
    assert given["head_files"] == ("nice=given_head_nice.safetensors", "far=s3://lake/far.pt")
    assert made.files == {"given_head_nice.safetensors": str(tmp_path / "head.safetensors")}
    assert (given["again"], given["allow_sources"]) == (True, ("s3://other/a", "s3://other/b"))
    assert "--log-format json" in " ".join(made.words)
    for command, also in (("embed", {"--publish": True, "--leave-sets": True}), ("nightly", {})):
        words = line(load_job(job_file), command, {"--log-format": "json", **also}).words
        assert words == (command, "job.yaml", "--log-format", "json", *also, "--address", "auto")


def test_a_model_of_this_disk_is_named_by_its_whole_path_and_without_weights_nothing_is_said_of_them(
    job_file: str, tmp_path: Path
):
    Path("mine").mkdir()
    Path("w.pt").write_bytes(b"w")
    for asked, named in {"mine": f"{tmp_path}/mine", "local-dir:mine": f"local-dir:{tmp_path}/mine"}.items():
        made = line(load_job(job_file), "reembed", {"--model": asked})
        assert made.words[made.words.index("--model") + 1] == named
        assert made.paths == (f"{tmp_path}/mine",)
        assert "--pretrained" not in made.words
    for model, path in (("{name: 'local-dir:mine'}", "mine"), ("{name: ViT-B-32, pretrained: w.pt}", "w.pt")):
        Path("its.yaml").write_text(Path(job_file).read_text() + f"model: {model}\n")
        assert named_on_disk(load_job("its.yaml")) == [f"{tmp_path}/{path}"]


def test_another_file_is_another_order(job_file: str):
    """Or whoever submits it while the first runs would be told that it joins the same."""
    job, seen = load_job(job_file), []
    for file in ("mine.csv", "other.csv", "mine.csv"):
        Path(file).write_text("label\na dog\na cat\n")
        made = line(job, "reembed", {"--model": "ViT-B-32", "--vocabulary": file})
        seen.append(Order(job=job, address=NOWHERE[1], command="reembed", line=made, wait_s=1).digest)
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--command", "reembed"], "needs --model"),
        (["--model", "ViT-B-32"], "--model goes with --command reembed, not embed"),
        (["--command", "nightly", "--publish"], "--publish goes with --command embed, not nightly"),
        (["--command", "reembed", "--model", "m", "--head", "a=none.pt"], "--head: there is no file none.pt"),
    ],
)
def test_what_does_not_fit_the_command_is_told(words: list[str], said: str, job_file: str, capsys):
    assert clipmill(["submit", job_file, *NOWHERE, *words]) == 2
    assert said in capsys.readouterr().err
