"""A command that is killed with SIGKILL inside a named step, by itself: nothing of Python runs after that.

python -m tests.migrating.killed fill|promote|back|drop TABLE SLUG STEP [TIMES]
python -m tests.migrating.killed score|retag TABLE FILE STEP [TIMES]
"""

import os
import signal
import sys
from collections.abc import Callable

from clipmill.schemas.job.config import Model, Storage


def killer(step: str, times: int) -> Callable[[str], None]:
    """Dies when it hears of `step` for the last of so many times."""
    left = times

    def hook(at: str) -> None:
        nonlocal left
        left -= at == step
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def main(what: str, table: str, slug: str, step: str, times: str = "1") -> None:
    hook = killer(step, int(times))
    if what == "fill":
        from clipmill.jobs.migrating.reembed import reembed
        from clipmill.jobs.migrating.reembed_plan import ReembedOptions

        reembed(table, Storage(), ReembedOptions(model=Model(name=slug.replace("_", ":")), num_cpus=2, hook=hook))
    elif what == "drop":
        from clipmill.jobs.migrating.drop import drop

        drop(table, slug, Storage(), say=print, hook=hook)
    elif what == "score":
        from clipmill.jobs.migrating.score import read_head, score

        score(table, read_head("aesthetic", slug, Storage()), step=hook)
    elif what == "retag":
        from clipmill.jobs.migrating.retag import RetagOptions, retag

        vectors = slug.replace(".yaml", ".npy")
        retag(table, RetagOptions(vocabulary=slug, label_vectors=vectors, beside="side"), Storage(), step=hook)
    else:
        from clipmill.jobs.migrating.promote import How, back, promote
        from clipmill.jobs.migrating.promote_gates import GateOptions

        how = How(say=print, hook=hook, settle_s=0.0)
        if what == "promote":
            promote(table, slug, Storage(), GateOptions(min_overlap=0.0, min_coverage=0.5), how)
        else:
            back(table, Storage(), how)


if __name__ == "__main__":
    main(*sys.argv[1:])
