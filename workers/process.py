"""How a worker's process treats threads and garbage, beyond what the model does itself.

Measured with ViT-B-32 on two cores. In a profile of the whole job, threads of OpenBLAS that spin while they wait for
numpy's next product took 8 % of the worker's time, and are gone; the collector, which looks at every object of torch's
modules, took 1 %, and takes half of that. What short turns bring is in docs/speed.md.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TURN_S = 0.0005


def one_blas_thread() -> None:
    """For numpy, whose products are small here; torch has threads of its own."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")


def short_turns() -> None:
    """A thread that starts the model's operators gets the interpreter back after half a millisecond, not five."""
    sys.setswitchinterval(_TURN_S)


@contextmanager
def without_collector() -> Iterator[None]:
    """While modules are imported and a model is built, which leave no garbage worth looking for: the collector goes
    through their millions of objects again and again. Whoever had turned it off, finds it off."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def freeze_imports() -> None:
    """Nothing of what has been imported is garbage: the collection after the model is there leaves it out."""
    gc.freeze()


def freeze_garbage() -> None:
    """What is there now, modules and model, lives as long as the process: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
