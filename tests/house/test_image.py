"""The image: what it holds, that its health check tells well from ill, and how digests are filled in."""

import http.server
import importlib.util
import re
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import s3fs
import yaml

from tests.conftest import S3

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "Dockerfile").read_text()


def stages() -> dict[str, list[str]]:
    """The instructions of each target, those of the stage it begins with first."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in TEXT.replace("\\\n", " ").splitlines():
        if begun := re.fullmatch(r"FROM (\S+) AS (\w+)", line):
            name = begun[2]
            found[name] = list(found.get(begun[1], []))
        elif line and not line.startswith("#"):
            found[name].append(" ".join(line.split()))
    return found


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_holds_every_package_of_the_project() -> None:
    copied = {word for line in stages()["code"] if line.startswith("COPY") for word in line.split()[1:-1]}
    links = {link.name for link in (ROOT / "clipmill").iterdir() if link.is_symlink()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert links == {"schemas", "workers", "jobs"}
    assert {"clipmill", *links, "pyproject.toml", project["project"]["readme"]} <= copied
    everything = {
        w for lines in stages().values() for line in lines if line.startswith("COPY") for w in line.split()[1:-1]
    }
    assert all((ROOT / name).exists() for name in everything)
    sent = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == everything, "what the build is sent is what it copies"


@pytest.mark.parametrize("target", ["cuda", "cpu"])
def test_both_targets_end_as_a_user_without_rights_in_an_empty_folder(target: str) -> None:
    lines = stages()[target]
    assert lines[-3:] == ["USER 1000:1000", "WORKDIR /run/clipmill", 'CMD ["clipmill", "--help"]']
    assert any("--uid 1000" in line and "install -d -o clipmill" in line for line in lines)
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert any(line.startswith("COPY deploy/requirements.lock") for line in lines)


def test_what_the_target_without_cuda_leaves_out_is_cudas_alone() -> None:
    (line,) = (one for one in stages()["cpu"] if "grep -vE" in one)
    pattern = re.search(r"grep -vE '([^']+)'", line)
    assert pattern is not None
    lines = (DEPLOY / "requirements.lock").read_text().splitlines()
    left_out = [one for one in lines if re.search(pattern[1], one)]
    assert 15 < len(left_out) < 30
    wanted_by = {one: "".join(rest) for one, rest in comments(lines).items()}
    names = {one.split("==")[0] for one in left_out}
    for one in left_out:
        users = set(re.findall(r"#\s+(?:via )?([a-z][\w.-]+)", wanted_by[one])) - {"via"}
        assert users <= names | {"torch"}, f"{one} is used by {users}"


def comments(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    last = ""
    for line in lines:
        if line.startswith(" "):
            found[last].append(line if "-c " not in line else "")
        elif line:
            last = line
            found[last] = []
    return found


def test_base_images_have_exact_tags() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    bases = re.findall(r"^FROM (\S+:\S+) AS", TEXT, re.M)
    store = compose["services"]["store"]["image"]
    for image in (*bases, store):
        assert re.fullmatch(r"[a-z/]+:\S*\d+[.-]\d+[.-]\d+\S*", image), image
    assert len(bases) == 1


HEALTH = script("health")


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("ray start --head --num-cpus=0 --port=6379 --block", "http://127.0.0.1:52365/api/healthz"),
        ("/usr/local/bin/ray start --address=head:6379", "http://127.0.0.1:52365/api/healthz"),
        ("ray start --dashboard-agent-listen-port 1234", "http://127.0.0.1:1234/api/healthz"),
        ("/usr/local/bin/python /usr/local/bin/clipmill serve t --port=9", "http://127.0.0.1:9/health"),
        ("clipmill serve s3://lake/db/images --host 0.0.0.0", "http://127.0.0.1:8000/health"),
        ("clipmill embed job.yaml", None),
        ("bash", None),
        ("clipmill jobs --address http://start", None),
    ],
)
def test_the_health_check_asks_whom_it_has_to(line: str, url: str | None) -> None:
    assert HEALTH.url_of(line.split()) == url


@pytest.fixture
def answers() -> Iterator[tuple[int, list[int]]]:
    """A server's port, and the statuses that it answers with, one after the other."""
    statuses: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.pop(0) if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], statuses
    server.shutdown()
    server.server_close()


def test_the_health_check_tells_well_from_ill(
    tmp_path: Path, answers: tuple[int, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    port, statuses = answers
    line = tmp_path / "cmdline"
    line.write_bytes("\0".join(["clipmill", "serve", "t", "--port", str(port), ""]).encode())
    statuses += [200, 503]
    assert HEALTH.main(line) == 0
    assert HEALTH.main(line) == 1
    line.write_bytes(b"sh\0-c\0clipmill serve t --port 1\0")  # a shell in front, and nobody at that port
    assert HEALTH.main(line) == 1
    assert "127.0.0.1:1/health" in capsys.readouterr().err
    line.write_bytes(b"clipmill\0embed\0job.yaml\0")
    assert HEALTH.main(line) == 0


def test_digests_are_filled_in_behind_tags_and_moved_by_a_second_call(tmp_path: Path) -> None:
    pin = script("pin")
    for name in (*pin.TAGGED, *pin.OURS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((DEPLOY / name).read_text())
    asked: list[str] = []

    def ask(image: str) -> str:
        asked.append(image)
        return "sha256:" + f"{len(asked):x}" * 64

    for _ in range(2):
        for path, text in pin.pinned(tmp_path, "example.test:5000/ml/clipmill:0.1", ask).items():
            path.write_text(text)
    base = re.search(r"FROM (\S+) AS base", TEXT)
    assert base is not None
    base_tag = base[1].partition("@")[0]
    store = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["store"]["image"].partition("@")[0]
    assert asked == [base_tag, store, "example.test:5000/ml/clipmill:0.1"] * 2, "with what is pinned already"
    assert f"FROM {base_tag}@sha256:{'4' * 64} AS base" in (tmp_path / "Dockerfile").read_text()
    compose = yaml.safe_load((tmp_path / "compose.yaml").read_text())
    assert compose["services"]["store"]["image"] == f"{store}@sha256:{'5' * 64}"
    assert compose["services"]["head"]["image"] == "clipmill:${CLIPMILL_TARGET:-cpu}", "made here, so without a digest"
    (image,) = yaml.safe_load((tmp_path / "kubernetes/image/kustomization.yaml").read_text())["images"]
    assert image == {"name": "clipmill", "newName": "example.test:5000/ml/clipmill", "digest": f"sha256:{'6' * 64}"}
    up = yaml.safe_load((tmp_path / "ray-cluster.yaml").read_text())
    assert up["docker"]["image"] == f"example.test:5000/ml/clipmill@sha256:{'6' * 64}"
    assert (tmp_path / "compose.yaml").read_text().count("@sha256") == 1


def test_nothing_is_written_where_an_image_cannot_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = script("pin")
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho no route to the registry >&2\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SystemExit, match=r"no digest for .*: no route to the registry"):
        pin.pinned(DEPLOY, None)
    docker.write_text(f"#!/bin/sh\necho sha256:{'a' * 64}\n")
    assert any(f"@sha256:{'a' * 64}" in text for text in pin.pinned(DEPLOY, None).values())


@pytest.mark.s3
def test_what_compose_makes_the_bucket_with_makes_one_and_leaves_one_alone(s3: S3) -> None:
    command = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["bucket"]["command"]
    name = f"{s3.bucket}-lake"
    for _ in range(2):
        s3fs.S3FileSystem.clear_instance_cache()
        exec(command[2].replace("'lake'", repr(name)), {})
    assert name in [one["Name"] for one in s3.client.list_buckets()["Buckets"]]
    s3.client.delete_bucket(Bucket=name)
