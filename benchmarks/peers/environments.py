"""The environments of the peers: made with uv in a folder the user names, versions pinned, made once."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# torch and open_clip as clipmill's own lock has them, so that the library under all tools is the same.
_COMMON = ("torch==2.15.0", "torchvision==0.29.2", "open_clip_torch==3.3.0", "timm==1.0.31", "pillow==13.0.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`packages` None: clipmill's own interpreter."""

    name: str
    packages: tuple[str, ...] | None
    shown: tuple[str, ...]  # distributions whose versions go into the result


ENVIRONMENTS = {
    e.name: e
    for e in (
        Environment(name="clipmill", packages=None, shown=("clipmill", "torch", "open_clip_torch", "pylance", "ray")),
        # It pins its own, older open_clip and pyarrow and allows torch < 2.13; pkg_resources needs the old setuptools.
        Environment(
            name="clip-retrieval",
            packages=("clip-retrieval==2.45.0", "setuptools<70", "torch==2.12.1", "torchvision==0.27.1"),
            shown=("clip-retrieval", "torch", "open_clip_torch", "webdataset"),
        ),
        Environment(name="dataloader", packages=(*_COMMON, "numpy==2.4.6"), shown=("torch", "open_clip_torch")),
        Environment(
            name="ray-data",
            packages=(*_COMMON, "ray[default,data]==2.60.0", "pylance==4.0.0"),
            shown=("ray", "pylance", "torch", "open_clip_torch"),
        ),
        Environment(
            name="daft",
            packages=(*_COMMON, "daft[lance]==0.7.26", "pylance==14.0.2"),
            shown=("daft", "pylance", "torch", "open_clip_torch"),
        ),
        Environment(
            name="lancedb",
            packages=(*_COMMON, "lancedb==0.40.0", "pylance==13.0.0"),
            shown=("lancedb", "pylance", "torch", "open_clip_torch"),
        ),
    )
}


class CannotInstall(Exception):
    """The environment could not be made; its text says why."""


def python_of(name: str, folder: Path) -> str:
    """The interpreter of an environment, made first where it is missing. Raises CannotInstall."""
    environment = ENVIRONMENTS[name]
    if environment.packages is None:
        return sys.executable
    home = folder / name
    python = home / "bin" / "python"
    if not (home / ".made").exists():
        uv = Path(sys.executable).with_name("uv")
        _run([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(home)])
        _run([str(uv), "pip", "install", "--quiet", "--python", str(python), *environment.packages])
        (home / ".made").touch()
    return str(python)


def versions(name: str, python: str) -> dict[str, str]:
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]), sep='\\n')"
    shown = ENVIRONMENTS[name].shown
    answer = subprocess.run([python, "-c", code, *shown], capture_output=True, text=True, check=True)
    return dict(zip(shown, answer.stdout.split(), strict=True))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotInstall(done.stderr.strip()[-500:])
