"""FLOPs as torch counts them, on kernels that it knows: those that multiply matrices one by one."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def flops_by_torch(way: Callable[[], Any]) -> int:
    """Return the FLOPs of whatever `way` computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oneDNN's other switches
        plain = torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH)
        with plain[0], plain[1], torch.no_grad(), FlopCounterMode(display=False) as counter:
            way()
    return int(counter.get_total_flops())
