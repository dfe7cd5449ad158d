"""The wheels hold everything, and each environment that one can install does what is promised of it."""

import json
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.install.conftest import ROOT, called, strangers_folder
from tests.tables import TableOptions, make_table

pytestmark = pytest.mark.slow
Install = Callable[[str], Path]
HEAVY = ("ray", "torch", "torchvision", "open_clip", "lancedb", "fastapi", "moto", "PIL", "rich", "pandas")


def project(path: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / path).read_text())
    return found


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "jobs", "workers", "schemas"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {f"clipmill/{name}" for name in listed.stdout.splitlines()}


def test_wheels_and_sdist_hold_every_file_under_one_name(wheels: Path) -> None:
    wanted = {name for name in tracked() if "selfcheck_pictures/make" not in name}
    for wheel in wheels.glob("*.whl"):
        held = set(zipfile.ZipFile(wheel).namelist())
        assert wanted <= held, f"{wheel.name} lacks {sorted(wanted - held)}"
        assert {name.split("/")[0].split("-")[0] for name in held} <= {"clipmill", "clipmill_client"}
    (sdist,) = wheels.glob("*.tar.gz")
    with tarfile.open(sdist) as held_in:
        files = {member.name.partition("/")[2] for member in held_in if member.isfile()}
    assert wanted <= files
    assert {"pyproject.toml", "README.md", "LICENSE"} <= files


def test_the_whole_job_from_a_folder_with_packages_of_the_same_names(install: Install, tmp_path: Path) -> None:
    """The demo's drivers and Ray workers start in that folder."""
    env, folder = install("clipmill[demo]"), strangers_folder(tmp_path / "theirs")
    version = project("pyproject.toml")["project"]["version"]
    assert called(env / "clipmill", "--version", cwd=folder).stdout == f"clipmill {version}\n"
    assert "No module named 'jobs'" in called(env / "python", "-c", "import jobs", cwd=tmp_path).stderr
    demo = called(env / "clipmill", "demo", "--scenes", "200", "--json", cwd=folder)
    assert demo.returncode == 0, demo.stderr
    assert json.loads(demo.stdout)["rows"] == 200
    code = (
        "import clipmill\n"
        "table = clipmill.open_table('demo-out/db/scenes')\n"
        "print(table.search('a green car', limit=1)['caption'][0].as_py())"
    )
    python = called(env / "python", "-c", code, cwd=folder)
    assert python.returncode == 0, python.stderr
    assert "car" in python.stdout
    served = called(env / "clipmill", "serve", "demo-out/db/scenes", cwd=folder)
    assert served.returncode == 2
    assert "pip install 'clipmill[serve]'" in served.stderr


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_table(tmp_path_factory.mktemp("client"), TableOptions(rows=300))


def test_the_client_alone_queries_without_torch_and_ray(install: Install, table: str, tmp_path: Path) -> None:
    env, folder = install("clipmill-client"), strangers_folder(tmp_path / "theirs")
    code = f"""
import importlib.util as u
import clipmill, numpy
print(*[name for name in {HEAVY!r} if u.find_spec(name)])
table = clipmill.open_table({table!r})
print(table.search(vector=numpy.ones(64), limit=3).num_rows, table.search(like="row-000001", limit=4).num_rows,
      table.search(where="views >= 0", limit=5).num_rows)
try:
    table.search("a red shoe")
except clipmill.UserError as error:
    print(error)
try:
    clipmill.embed(clipmill.JobFile.model_validate({{"table": "db/x", "source": {{"format": "files", "uri": "."}}}}))
except clipmill.UserError as error:
    print(error)
"""
    done = called(env / "python", "-c", code, cwd=folder)
    assert done.returncode == 0, done.stderr
    heavy, counts, words, job = done.stdout.splitlines()
    assert heavy == ""
    assert counts == "3 4 5"
    assert words.startswith("a search by words or pictures needs torch and open_clip")
    assert "pip install 'clipmill-client[words]'" in words
    assert "a job needs Ray" in job
    assert "(hint: pip install clipmill in another environment" in job


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (["search", "TABLE", "--like", "row-000001", "-k", "1"], 0, "row-"),
        (["search", "TABLE", "a red shoe"], 2, "pip install 'clipmill-client[words]'"),
        (["tags", "TABLE"], 0, "shoe"),
        (["status", "TABLE"], 0, "rows"),
        (["export", "TABLE", "--to", "out"], 0, "300"),
        (["dedup", "TABLE"], 0, "300"),
        (["serve", "TABLE"], 2, "pip install 'clipmill-client[serve]'"),
        (["demo"], 2, "pip install 'clipmill[demo]'"),
        (["reembed", "TABLE", "--model", "ViT-B-32", "--pretrained", "x"], 2, "pip install 'clipmill-client[words]'"),
        (["--help"], 0, "search"),
    ],
)
def test_every_command_of_the_client_works_or_says_what_to_add(
    typed: list[str], code: int, said: str, install: Install, table: str, tmp_path: Path
) -> None:
    words = [table if word == "TABLE" else word for word in typed]
    done = called(install("clipmill-client") / "clipmill", *words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_with_words_searches_by_words(install: Install, tmp_path: Path) -> None:
    """The model loads, which is all that was missing: clipmill-tiny's text tower makes a vector."""
    code = (
        "from clipmill.jobs.querying.encoder import encode_texts\n"
        "from clipmill.workers.load import load_engine\n"
        "from clipmill.schemas.model import ModelSpec\n"
        "print(encode_texts(load_engine(ModelSpec(name='clipmill-tiny')), ('a house',)).shape)"
    )
    done = called(install("clipmill-client[words]") / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, ")


@pytest.mark.parametrize("name", ["clipmill[serve]", "clipmill-client[serve]"])
def test_serve_brings_what_the_server_imports(name: str, install: Install, table: str, tmp_path: Path) -> None:
    code = (
        "import clipmill\nfrom clipmill.jobs.serving.app import create_app\n"
        "from clipmill.jobs.serving.settings import Settings\n"
        "import clipmill.workers.decode.picture, uvicorn\n"
        f"print(create_app(clipmill.open_table({table!r}), Settings()).title)"
    )
    done = called(install(name) / "python", "-c", code, cwd=tmp_path)
    assert done.stdout == "clipmill\n", done.stderr
