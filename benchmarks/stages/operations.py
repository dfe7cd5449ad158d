"""How many operations a tower does as it runs: counted in its calls, so that what it leaves out is not counted."""

from collections.abc import Callable
from typing import Any


def counted(call: Callable[[], Any]) -> float:
    """Two for each multiply-add of the matrix products in one `call`, oneDNN's packed ones too. Norms, activations and
    softmaxes are left out, which is under 2 %."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def packed_linear(x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        rows = 1
        for n in out_shape:
            rows *= n
        return 2 * rows * int(x[-1])

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator that the counter does not know
    try:
        with FlopCounterMode(
            display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: packed_linear}
        ) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())
