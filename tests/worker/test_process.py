"""What a worker does to its own process; each in a process of its own, as it lasts."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_numpy_multiplies_on_one_thread() -> None:
    told = run(
        "import numpy, threadpoolctl\n"
        "from clipmill.workers.process import one_blas_thread\n"
        "one_blas_thread()\n"
        "print([x['num_threads'] for x in threadpoolctl.threadpool_info() if x['user_api'] == 'blas'])"
    )
    assert told.strip() == "[1]"


def test_threads_hand_over_the_interpreter_soon() -> None:
    told = run(
        "import sys\nfrom clipmill.workers.process import short_turns\nshort_turns()\nprint(sys.getswitchinterval())"
    )
    assert float(told) == 0.0005


def test_what_is_there_is_frozen_and_what_comes_later_is_collected() -> None:
    told = run(
        "import gc, weakref\n"
        "from clipmill.workers.process import freeze_garbage\n"
        "freeze_garbage()\n"
        "class Cycle: pass\n"
        "one = Cycle(); one.me = one; gone = weakref.ref(one); del one\n"
        "gc.collect()\n"
        "print(gc.get_freeze_count() > 1000, gone() is None)"
    )
    assert told.split() == ["True", "True"]


def test_the_collector_is_left_as_it_was_found() -> None:
    told = run(
        "import gc\n"
        "from clipmill.workers.process import without_collector\n"
        "for turn in (gc.enable, gc.disable):\n"
        "    turn()\n"
        "    with without_collector(): print(gc.isenabled())\n"
        "    print(gc.isenabled())"
    )
    assert told.split() == ["False", "True", "False", "False"]
