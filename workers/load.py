"""The one door to a model: `load_engine`. Imports torch only for a real model, never for the stub."""

import importlib
from typing import Literal

from clipmill.schemas.errors import UserError
from clipmill.schemas.model import Fingerprint, ModelSpec
from clipmill.workers.engine import Engine
from clipmill.workers.heap import large_blocks_apart
from clipmill.workers.naming import names


def load_engine(
    spec: ModelSpec,
    *,
    device: str = "auto",
    threads: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    tune: bool = False,
) -> Engine:
    """A loaded model. `name: stub` or `stub:D` gives the deterministic stand-in of `workers.stub`.

    device: auto (the GPU that is visible, else the CPU), cpu, cuda, cuda:N.
    threads: torch's intra-op threads on a CPU; 0 leaves them as they are (one under Ray).
    tune: find the batch size by trying, where it is auto (`Engine.tune`).
    Raises UserError for an unknown name or tag, missing or damaged weights, weights of another shape, no such device.
    """
    if threads < 0 or (batch_size != "auto" and batch_size < 1):
        raise UserError(f"threads {threads}, batch_size {batch_size}", "both are positive, or 0 threads and auto")
    if _is_stub(spec):
        from clipmill.workers.stub import StubEngine

        return StubEngine.from_name(spec.name)
    names.check(spec)  # what is not there is said before torch is loaded, which takes 0.65 GB of memory
    from clipmill.workers.clip.build import build_engine

    with large_blocks_apart():
        return build_engine(
            spec, device=device, threads=threads, batch_size=batch_size, tune=tune and batch_size == "auto"
        )


def load_text_engine(spec: ModelSpec) -> Engine:
    """An engine for texts alone, loaded in less than half of the time: it embeds no picture. The stub's is whole.

    `precision: auto` is decided by the texts. Where pictures decided against a low precision, the fingerprint says it
    (`precision_note`), and `spec` asks for fp32. Raises UserError as `load_engine` does.
    """
    if _is_stub(spec):
        return load_engine(spec)
    names.check(spec)
    from clipmill.workers.clip.build import build_engine

    return build_engine(spec, device="auto", threads=0, batch_size="auto", words=True)


def load_words(fingerprint: Fingerprint) -> Engine | None:
    """The text tower of a fingerprint without torch, which loads in a fraction of the time; None where torch is needed:
    then `load_text_engine` is to be asked. Never raises for a model that is not there: that one says it."""
    if _is_stub(fingerprint.spec()):
        return None
    from clipmill.workers.clip.words import plain_engine

    return plain_engine(fingerprint, pictures=False)


def load_few(fingerprint: Fingerprint) -> Engine | None:
    """Both towers in fp32 without torch, for a few pictures and texts, one after the other; None as `load_words`."""
    if _is_stub(fingerprint.spec()):
        return None
    from clipmill.workers.clip.words import plain_engine

    return plain_engine(fingerprint, pictures=True)


def import_code(spec: ModelSpec) -> None:
    """The modules that `load_engine` needs, before any work on the model itself: some three seconds of one core; seven
    in all for a model that is not open_clip's own, which imports the rest as it loads."""
    if _is_stub(spec):
        importlib.import_module("clipmill.workers.stub")
        return
    importlib.import_module("clipmill.workers.clip.build")
    importlib.import_module("clipmill.workers.clip.library").light().part("factory")


def _is_stub(spec: ModelSpec) -> bool:
    return spec.name == "stub" or spec.name.startswith("stub:")
