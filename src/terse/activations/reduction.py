"""What is kept of each batch: tensors, means, counts, intrinsic dimensions, loss, entropy."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from terse.activations.capture import loss_and_entropy
from terse.activations.layout import TORCH_DTYPES, Dataset, as_text
from terse.dimension.names import expand_estimators
from terse.dimension.sinks import heavy_points
from terse.models.modules import ModuleRef
from terse.settings.activations import Activations

Estimator = Callable[..., Any]
_COUNTS = ("n_eff", "n_dup", "n_heavy")
_SHARES = ("heaviest", "first_share")


def needs_logits(settings: Activations) -> bool:
    """Whether the pass must run to the logits."""
    return settings.save_loss or settings.save_entropy


def fused_estimators(settings: Activations) -> list[str]:
    """Return the estimators that run during the capture: none if tensors are saved."""
    if not settings.save_IDs or settings.save_cache_tensors or settings.cloud != "context":
        return []
    return list(expand_estimators(settings.save_IDs_list))


def keeps_last_tokens(settings: Activations) -> bool:
    """Whether only each context's last token is kept, as a point of a cloud of contexts."""
    return settings.save_IDs and not settings.save_cache_tensors and settings.cloud == "last_token"


def keeps_norms(settings: Activations) -> bool:
    """Whether each token's norm is kept: where what is measured are the tokens of a context."""
    return settings.save_cache_tensors or settings.cloud == "context"


def planned(
    settings: Activations, modules: Mapping[str, ModuleRef], outputs: Mapping[str, Tensor]
) -> list[Dataset]:
    """Return the arrays of a shard, given an output (1, t, D) of each module."""
    T = settings.ctx_len
    plan = [Dataset("tokens", (T,), "int32")]
    plan += [
        Dataset(name, (T - 1,), "float32", {"unit": "nats"})
        for name, wanted in (("loss", settings.save_loss), ("entropy", settings.save_entropy))
        if wanted
    ]
    for key, ref in modules.items():
        plan += _planned_for(settings, ref, outputs[key])
    return plan


def _planned_for(settings: Activations, ref: ModuleRef, output: Tensor) -> list[Dataset]:
    width = output.shape[2]
    about = {"module_path": ref.path, "layer": -1 if ref.layer is None else ref.layer}
    plan = [Dataset(f"n_nonfinite/{ref.key}", (), "int32", about)]
    if keeps_norms(settings):
        plan.append(Dataset(f"norms/{ref.key}", (settings.ctx_len,), "float32", about))
    if settings.save_cache_tensors:
        shape = (settings.ctx_len, width)
        about_tensor = {**about, "dtype": settings.save_fp}
        plan.append(Dataset(f"activations/{ref.key}", shape, settings.save_fp, about_tensor))
    if settings.save_mean_tensors:
        names = ("means", "means_without_sinks")
        plan += [Dataset(f"{name}/{ref.key}", (width,), "float32", about) for name in names]
    if keeps_last_tokens(settings):
        dtype = str(_used_dtype(output, settings)).removeprefix("torch.")
        plan.append(Dataset(f"last_tokens/{ref.key}", (width,), dtype, {**about, "dtype": dtype}))
    names = fused_estimators(settings)
    for name in names:
        plan.append(Dataset(f"ids/{name}/{ref.key}", (), "float64", about))
        plan.append(Dataset(f"ids_without_sinks/{name}/{ref.key}", (), "float64", about))
        plan.append(Dataset(f"reasons/{name}/{ref.key}", (), "text", about))
    if names:
        plan += [Dataset(f"{name}/{ref.key}", (), "int32", about) for name in _COUNTS]
        plan += [Dataset(f"{name}/{ref.key}", (), "float64", about) for name in _SHARES]
        plan.append(Dataset(f"flags/{ref.key}", (), "text", about))
    return plan


@torch.no_grad()
def reduced(
    outputs: Mapping[str, Tensor],
    logits: Tensor | None,
    tokens: Tensor,
    settings: Activations,
    estimator: Estimator,
) -> Iterator[tuple[str, Tensor | np.ndarray]]:
    """Yield the path and the rows of every planned array of one batch.

    Args:
        outputs: module -> (B, T, D), on the model's device.
        logits: (B, T, V), or None if neither loss nor entropy is kept.
        tokens: (B, T) on the CPU.
        settings: what is kept.
        estimator: `terse.dimension.estimate` or one like it.
    """
    yield "tokens", tokens
    if logits is not None and needs_logits(settings):
        loss, entropy = loss_and_entropy(logits, tokens)
        if settings.save_loss:
            yield "loss", loss
        if settings.save_entropy:
            yield "entropy", entropy
    for key, output in outputs.items():
        yield from _reduced_module(key, output, settings, estimator)


def _reduced_module(
    key: str, output: Tensor, settings: Activations, estimator: Estimator
) -> Iterator[tuple[str, Tensor | np.ndarray]]:
    mean = output.mean(dim=1, dtype=torch.float32) if settings.save_mean_tensors else None  # (B, D)
    if mean is not None:
        yield f"means/{key}", mean
    if keeps_norms(settings) or settings.save_mean_tensors:
        norms, centres = without_sinks(output)
        if keeps_norms(settings):
            yield f"norms/{key}", norms
        if settings.save_mean_tensors:
            yield f"means_without_sinks/{key}", centres
    used = _used_dtype(output, settings)
    if output.is_cuda:
        output = output.to(used)  # once, for the count and for the copy
    yield f"n_nonfinite/{key}", count_nonfinite(output, used, mean)
    if settings.save_cache_tensors:
        yield f"activations/{key}", output
    elif keeps_last_tokens(settings):
        yield f"last_tokens/{key}", output[:, -1].contiguous()
    elif names := fused_estimators(settings):
        yield from _estimated(key, output.to(used), names, settings, estimator)


def without_sinks(output: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the tokens of each context lie that are not heavy, and how far out all lie.

    Args:
        output: (B, T, D) of a module.

    Returns:
        Norms (B, T) float32 about the mean of the tokens that are not heavy, over their median, and
        that mean (B, D) float32; see `terse.dimension.sinks`. NaN where a value is not finite.
    """
    found = [heavy_points(cloud.float().contiguous()) for cloud in output]
    arrays = np.stack([one.norms for one in found]), np.stack([one.centre for one in found])
    norms, centres = (torch.from_numpy(array).float().to(output.device) for array in arrays)
    return norms, centres


def _used_dtype(output: Tensor, settings: Activations) -> torch.dtype:
    """Return the number format in which a module's output is stored or measured."""
    if settings.save_cache_tensors:
        return TORCH_DTYPES[settings.save_fp]
    if settings.save_IDs and settings.id_input != "model":
        return TORCH_DTYPES[settings.id_input]
    return output.dtype


def count_nonfinite(output: Tensor, used: torch.dtype, mean: Tensor | None) -> Tensor:
    """Count NaN and inf per row after casting the values to `used`.

    On a CPU a row is counted only if its mean or its extremes show that there is something to
    count: one cheap pass instead of several.

    Args:
        output: (B, T, D).
        used: dtype of the saved or measured values; a narrow one overflows.
        mean: (B, D), the means over T, or None.

    Returns:
        (B,) int32.
    """
    if output.is_cuda:
        return _exact_count(output.to(used))
    counts = torch.zeros(len(output), dtype=torch.int32)
    if mean is not None and torch.finfo(used).max >= torch.finfo(output.dtype).max:
        doubtful = ~mean.isfinite().all(dim=1)  # a NaN or inf in a sum stays there
    else:
        doubtful = torch.stack([_exceeds(row, torch.finfo(used).max) for row in output])
    for row in doubtful.nonzero()[:, 0].tolist():
        counts[row] = _exact_count(output[row : row + 1].to(used))[0]
    return counts


def _exceeds(row: Tensor, limit: float) -> Tensor:
    low, high = row.aminmax()  # NaN if the row has one
    return ~((low >= -limit) & (high <= limit))


def _exact_count(values: Tensor) -> Tensor:
    return (~values.isfinite()).flatten(1).sum(dim=1, dtype=torch.int32)


def _estimated(
    key: str, points: Tensor, names: list[str], settings: Activations, estimator: Estimator
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the intrinsic dimensions of the clouds (B, T, D), with counts, reasons and flags."""
    found = estimator(
        points,
        names,
        skip_first=settings.skip_first,
        max_norm_multiple=settings.max_norm_multiple,
        theiler_window=settings.theiler_window,
        slow_max_points=settings.slow_max_points,
    )
    for name in names:
        yield f"ids/{name}/{key}", np.asarray(found[name], dtype=np.float64)
        without = np.asarray(found.without_sinks[name], dtype=np.float64)
        yield f"ids_without_sinks/{name}/{key}", without
        yield f"reasons/{name}/{key}", as_text(found.reasons[name])
    for name in _COUNTS:
        yield f"{name}/{key}", np.asarray(getattr(found, name), dtype=np.int32)
    for name in _SHARES:
        yield f"{name}/{key}", np.asarray(getattr(found, name), dtype=np.float64)
    yield f"flags/{key}", as_text(found.flags)
