"""What is installed here: which of the two distributions, and a package that is not there told as one sentence.

`clipmill` is the whole job. `clipmill-client` is the same code with only what a reader of tables needs
(docs/decisions/client.md), so there a module may ask for a package that is missing on purpose.
"""

import importlib.util
import os
from importlib import metadata
from pathlib import Path

from clipmill.schemas.errors import UserError

NAMES = ("clipmill", "clipmill-client")
_DEVICES = Path("/dev")

_MODEL = ("words", "torch and open_clip, which make vectors of words and pictures,")
_SERVE = ("serve", "FastAPI and uvicorn, which serve the page,")
_JOB = ("", "Ray, which runs jobs,")
# The name that is imported -> the extra that brings it, and what it is there for. An extra of "": plain `clipmill`.
_BRINGS = {
    **dict.fromkeys(("torch", "torchvision", "open_clip", "safetensors", "simplejpeg", "PIL"), _MODEL),
    **dict.fromkeys(("fastapi", "uvicorn", "multipart", "python_multipart", "prometheus_client"), _SERVE),
    "huggingface_hub": ("words", "huggingface_hub, which talks to the Hub,"),
    "ray": _JOB,
    "rich": ("", "rich, which draws the progress of a job,"),
    "numkong": ("", "numkong, which compares vectors by their bytes,"),
    "jinja2": ("words", "jinja2, which fills in pages and plots,"),
    "threadpoolctl": ("words", "threadpoolctl, which keeps products of numbers to one thread,"),
    "moto": ("demo", "moto, the demo's local S3 server,"),
    "flask": ("demo", "moto, the demo's local S3 server,"),
    "pillow_heif": ("heic", "pillow-heif, which decodes HEIC,"),
    "transformers": ("hf", "transformers, which some models are built of,"),
    "py3langid": ("languages", "py3langid, which tells languages apart,"),
}


def distribution() -> str:
    """`clipmill`, `clipmill-client`, or "" where the code runs from a folder that nobody installed."""
    for name in NAMES:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return name
    return ""


def version() -> str:
    name = distribution()
    return metadata.version(name) if name else "unknown"


def has_gpu() -> bool:
    """Whether there is a GPU of NVIDIA's that is not hidden, by its device file: asking torch would import it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(_DEVICES.glob("nvidia[0-9]*"))


def require(doing: str, *modules: str) -> None:
    """Raises UserError where a module is not installed; nothing is imported. `doing` begins the sentence."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            told = not_installed(ModuleNotFoundError(f"No module named '{module}'", name=module), doing)
            assert told is not None, f"nobody said what brings {module}"
            raise told


def not_installed(error: ModuleNotFoundError, doing: str = "this command") -> UserError | None:
    """The sentence for a package that an extra, or the whole of clipmill, would bring; None for any other module,
    whose absence is a defect."""
    module = (error.name or "").partition(".")[0]
    if module not in _BRINGS:
        return None
    extra, what = _BRINGS[module]
    hint = f"pip install {_what_to_install(extra)}"
    if distribution() == "clipmill-client" and "clipmill-client" not in hint:
        hint += " in another environment: it holds the files of clipmill-client, which is in this one"
    return UserError(f"{doing} needs {what} and {module} is not installed", hint)


def _what_to_install(extra: str) -> str:
    """As one types it in a shell, where brackets want quotes."""
    if extra in ("words", "serve", "languages") and distribution() == "clipmill-client":
        return f"'clipmill-client[{extra}]'"
    return f"'clipmill[{extra}]'" if extra not in ("", "words") else "clipmill"
