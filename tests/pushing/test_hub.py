"""`clipmill push` to the Hub: the Hub's own client against a server that answers as the Hub does, by LFS."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.pushing import hub as hub_module
from tests.fake_hub import COMMIT, Hub, hub
from tests.pushing.tables import make_pushed

pytest.importorskip("huggingface_hub")
# The Hub's client uploads in a way that its own HTTP client calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table that nobody writes to."""
    return make_pushed(tmp_path_factory.mktemp("pushed"))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    with hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        # Its other protocol, Xet, speaks to a store of its own kind, of which there is no likeness here.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", found.token)
        found.exists = False
        yield found


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.run(["push", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_one_commit_makes_it_and_the_next_version_replaces_it(
    served: Hub, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, uri, "hf://o/n", "--private", "--shard-rows", "25", "--message", "first", "--json")
    assert code == 0, err
    assert json.loads(out)["commit"] == f"{served.url}/datasets/o/n/commit/{served.head}"
    assert served.private
    (commit,) = served.commits
    assert (commit["summary"], commit["branch"]) == ("first", "main")
    assert call(capsys, uri, "hf://o/n", "--dry-run", str(tmp_path / "dry"), "--shard-rows", "25")[0] == 0
    dry = {p.relative_to(tmp_path / "dry").as_posix(): p.read_bytes() for p in (tmp_path / "dry").rglob("*.*")}
    assert {name: data for name, data in served.files.items() if name != ".gitattributes"} == dry
    assert 'load_dataset("o/n", split="train")' in dry["README.md"].decode()

    code, _, err = call(capsys, uri, "hf://datasets/o/n", "--shard-rows", "25")
    assert (code, "had all of it already" in err, len(served.commits)) == (0, True, 1)

    assert call(capsys, uri, "hf://o/n", "--where", "license = 'cc0'")[0] == 0
    assert sorted(name for name in served.files if name.startswith("data/")) == ["data/train-00000-of-00001.parquet"]
    assert len(served.commits) == 2, "the three files of before went with the same commit"
    assert served.commits[1]["parentCommit"], "nobody else's commit is written over"


def test_a_branch_is_made(served: Hub, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, uri, "hf://o/n", "--revision", "v2")[0] == 0
    assert served.branches == {"main", "v2"}
    assert [one["branch"] for one in served.commits] == ["v2"]


def test_what_was_sent_before_an_interruption_is_not_sent_again(
    served: Hub, uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    served.exists, served.files = True, {}
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub._commit_api._send_commit", interrupted)
        code, _, err = call(capsys, uri, "hf://o/n")
    assert code == 130
    assert "Run the same command again" in err
    assert "not sent again" in err
    assert not served.files, "nothing is visible"
    sent = dict(served.stored)
    assert sent
    served.fail_uploads = 100  # should any come
    assert call(capsys, uri, "hf://o/n")[0] == 0
    assert served.stored == sent
    assert "README.md" in served.files


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        ({"token": "another"}, [], "does not know the token"),
        ({"role": "read"}, [], "may only read"),
        ({"exists": True, "files": {"mine.csv": b"1"}}, [], "the name is taken: o/n holds files"),
        ({"exists": True, "files": {}}, ["--private"], "everybody can read it"),
        ({"fail_uploads": 9}, [], "may not write to the data set o/n"),
        ({}, ["--license", "no-such"], "refuses o/n"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(
    served: Hub,
    uri: str,
    capsys: pytest.CaptureFixture[str],
    make: dict[str, object],
    options: list[str],
    said: str,
) -> None:
    for name, value in make.items():
        setattr(served, name, value)
    code, _, err = call(capsys, uri, "hf://o/n", *options)
    assert code == 2, err
    assert said in err
    assert "hint:" in err
    assert "Traceback" not in err
    assert served.token not in err
    assert not served.commits


def test_somebody_else_commits_meanwhile(
    served: Hub, uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(capsys, uri, "hf://o/n")[0] == 0
    real = hub_module.upload

    def late(*args: object) -> str:
        served.head = COMMIT
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(hub_module, "upload", late)
    code, _, err = call(capsys, uri, "hf://o/n", "--where", "license = 'cc0'")
    assert (code, "somebody else changed o/n meanwhile" in err) == (2, True)
    assert len(served.commits) == 1


def test_nobody_is_logged_in_and_no_network(
    served: Hub, uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        code, _, err = call(capsys, uri, "hf://o/n")
        assert (code, "nobody is logged in" in err, "HF_TOKEN" in err) == (2, True, True)
    code, _, err = call(capsys, uri, "hf://other/n")
    assert (code, "is of o, who may not write to other" in err) == (2, True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    code, _, err = call(capsys, uri, "hf://o/n")
    assert code == 1
    assert "does not answer at http://127.0.0.1:1" in err
    assert "Traceback" not in err
