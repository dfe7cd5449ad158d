"""clipmill's main job as `clipmill embed` runs it, into a Lance table on the local disk; without tags, as no peer has
any."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peers.clock import Clock, given


def main() -> None:
    from clipmill.jobs.running import embed
    from clipmill.jobs.running.options import Options
    from clipmill.schemas.job.config import JobFile

    given_ = given()
    job = JobFile.model_validate(
        {
            "table": f"{given_.out}/db/images",
            "source": {"format": "webdataset", "uri": given_.tars, "caption": "txt"},
            # The checkpoint is random: any activation is right, and the peers take the name's.
            "model": {"name": given_.model, "pretrained": given_.checkpoint, "activation": "gelu"},
        }
    )
    clock, began = Clock(), time.time()
    summary = embed.run(job, Options(num_cpus=given_.threads))
    clock.ready_at = began + summary.startup_s
    clock.done_at = began + summary.seconds
    print(summary, file=sys.stderr)

    import lance
    import numpy as np

    rows = lance.dataset(f"{given_.out}/db/images.lance").to_table(columns=["id", "vector", "caption_vector"])

    def matrix(name: str) -> np.ndarray:
        return np.stack(rows[name].to_numpy(zero_copy_only=False))

    keys = [name.rpartition("#")[2] for name in rows["id"].to_pylist()]
    clock.report(keys, matrix("vector"), matrix("caption_vector"), given_)


if __name__ == "__main__":
    main()
