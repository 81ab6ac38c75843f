"""One rule's jobs, and the speed of the machine that they run on."""

from dataclasses import dataclass

CPU_TFLOPS, GPU_TFLOPS = 0.06, 100.0
"""What two cores, and a device, sustain in the passes of a model; `terse plan --tflops`."""

START_S = 8.0
"""Seconds to start a job that runs a model: Snakemake twice, the imports."""

LIGHT_START_S, TOKENIZER_START_S = 1.5, 4.0
"""The same of a job that imports neither torch nor transformers, or only tokenizers."""

DISK_B_PER_S = 200e6
PROCESS_MB = 500
"""Memory of a process that has imported torch, without any model."""


@dataclass(frozen=True)
class Work:
    """The jobs of one rule for one run or model; None where nothing tells.

    Attributes:
        seconds: of one job, on the device or the cores that it requests.
        needs_mb: memory that a job should take; requested_mb: that it asks for at first.
    """

    rule: str
    name: str
    jobs: int
    seconds: float | None
    needs_mb: int | None
    requested_mb: int


def flops_per_s(devices: int, tflops: float | None, threads: int = 2) -> float:
    """Return what the devices of a job sustain, or its cores."""
    own = GPU_TFLOPS if devices else CPU_TFLOPS * threads / 2
    return max(1, devices) * (own if tflops is None else tflops) * 1e12
