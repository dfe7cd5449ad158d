"""How a worker's process treats threads and garbage, beyond what the model does itself.

Both were seen in a profile of the whole job (two cores, ViT-B-32, tags): threads of OpenBLAS that spin while they wait
for numpy's next product took 8 % of the worker's time, and are gone; the collector, which looks at every object of
torch's modules, took 1 %, and takes half of that.
"""

import gc


def one_blas_thread() -> None:
    """For numpy, whose products are small here; torch has threads of its own."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")


def freeze_garbage() -> None:
    """What is there now, modules and model, lives as long as the process: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
