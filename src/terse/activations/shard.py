"""One job: run the contexts of one shard through the model and write the results to disk."""

import json
import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import terse
from terse.activations.capture import Capture
from terse.activations.layout import (
    Dataset,
    array_at,
    arrays_in,
    read_column,
    row_range,
    size_text,
    total_bytes,
)
from terse.activations.pipeline import Pipeline
from terse.activations.progress import ContextProgress
from terse.activations.reduction import (
    Estimator,
    fused_estimators,
    keeps_last_tokens,
    needs_logits,
    planned,
    reduced,
)
from terse.activations.writer import ShardWriter
from terse.dimension import estimate
from terse.errors import TerseError
from terse.machine.memory import keep_freed_memory
from terse.models.loading import dtype_of, max_context
from terse.models.modules import ModuleRef, select_modules
from terse.settings import activations as keys
from terse.settings.activations import Activations

log = logging.getLogger(__name__)

FROM_CHUNKS = ("bos", "bos_id", "fingerprint", "tokenizer_digest")
PROBE_TOKENS = 2
CHECKED_TOKENS = 32  # of a context, on which the sums of each block are checked
ESTIMATION = {
    "save_IDs_list", "skip_first", "max_norm_multiple", "theiler_window", "slow_max_points",
}  # fmt: skip


def cache_shard(
    model: PreTrainedModel,
    chunks_path: str | Path,
    out_path: str | Path,
    *,
    settings: Activations,
    shard: int,
    n_shards: int,
    attributes: Mapping[str, Any],
    estimator: Estimator | None = None,
    confirm: Callable[[], None] = lambda: None,
) -> None:
    """Write the activations of the shard's contexts to one HDF5 file, completely or not at all.

    Args:
        model: in eval mode, on its device or devices.
        chunks_path: HDF5 file with `tokens` (n, ctx_len) and the group `rows`.
        out_path: the file to write.
        settings: what to capture and keep.
        shard: 0 to n_shards - 1; it owns the rows from shard*n//n_shards to the next one's first.
        n_shards: number of shards.
        attributes: stored with the file: the model's id and revision, the corpus, ...
        estimator: replaces `terse.dimension.estimate`, same signature.
        confirm: raises if the shard has another owner by now; called before it is published.

    Raises:
        TerseError: the settings do not fit the model or the chunks, or the disk is full.
    """
    _check_settings(settings)
    with ExitStack() as stack:
        chunks = stack.enter_context(_read_chunks(Path(chunks_path), settings, shard, n_shards))
        _check_model(model, chunks)
        device = _embedding(model).device
        if device.type == "cpu":
            keep_freed_memory()
        modules = _selected(model, settings, chunks, device)
        capture = stack.enter_context(Capture(model, modules, stop=not needs_logits(settings)))
        outputs = _probe(capture, settings, device)
        about = {
            **_about(model, modules, outputs, settings),
            **chunks.attributes,
            **{"shard": shard, "n_shards": n_shards, **attributes},
        }
        plan = planned(settings, modules, outputs)
        writer = _writer(Path(out_path), plan, chunks, about, confirm)
        with writer:
            _run(model, capture, chunks, writer, settings, estimator or estimate)
            writer.publish()
    _report_nonfinite(Path(out_path))


def _selected(
    model: PreTrainedModel, settings: Activations, chunks: "Chunks", device: torch.device
) -> dict[str, ModuleRef]:
    """Return the modules by key; sums of the residual stream are checked on a context."""
    return select_modules(
        model,
        settings.layer_idx_list,
        settings.module_inblock_keys,
        settings.module_outblock_keys,
        settings.module_name_mapping,
        tokens=chunks.first_tokens(CHECKED_TOKENS).to(device),
    )


def _writer(
    path: Path,
    datasets: list[Dataset],
    chunks: "Chunks",
    attributes: dict[str, Any],
    confirm: Callable[[], None],
) -> ShardWriter:
    n = chunks.stop - chunks.start
    log.info("%s will take %s", path, size_text(total_bytes(datasets, n)))
    compression = attributes["settings"]["compression"]
    return ShardWriter(
        path, datasets, n, attributes=attributes, rows=chunks.rows(), compression=compression,
        confirm=confirm,
    )  # fmt: skip


def _run(
    model: PreTrainedModel,
    capture: Capture,
    chunks: "Chunks",
    writer: ShardWriter,
    settings: Activations,
    estimator: Estimator,
) -> None:
    device = _embedding(model).device
    n = chunks.stop - chunks.start
    on_gpu = device.type == "cuda"
    with ContextProgress(writer.path.name, n, chunks.ctx_len) as progress:
        with Pipeline(writer, min(settings.batch_size, n), on_gpu=on_gpu) as pipeline:
            for start, tokens in chunks.batches(settings.batch_size):
                outputs, logits = capture.run(tokens.to(device))
                with pipeline.slot(start, len(tokens)) as slot:
                    for path, values in reduced(outputs, logits, tokens, settings, estimator):
                        slot.put(path, values)
                progress.add(len(tokens), writer.bytes_written)
        progress.add(0, writer.bytes_written)  # the writers are done


@dataclass(frozen=True)
class Chunks:
    """The rows [start, stop) of a file of chunks."""

    file: h5py.File
    start: int
    stop: int

    @property
    def ctx_len(self) -> int:
        """Tokens per context."""
        return int(array_at(self.file, "tokens").shape[1])

    @property
    def attributes(self) -> dict[str, Any]:
        """What a shard records about the corpus and its own rows in it."""
        found = {name: self.file.attrs[name] for name in FROM_CHUNKS if name in self.file.attrs}
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in found.items()}
        if "settings" in self.file.attrs:
            plain["chunk_settings"] = json.loads(str(self.file.attrs["settings"]))
        n_rows = int(array_at(self.file, "tokens").shape[0])
        return {**plain, "n_rows": n_rows, "row_start": self.start, "row_stop": self.stop}

    def rows(self) -> dict[str, np.ndarray]:
        """Return the contexts' description: field -> (stop - start,)."""
        part = slice(self.start, self.stop)
        columns = arrays_in(self.file, "rows")
        return {name: read_column(array, part) for name, array in columns.items()}

    def batches(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row in the shard, from 0, and the tokens (b, T) of each batch."""
        for start in range(self.start, self.stop, size):
            part = array_at(self.file, "tokens")[start : min(start + size, self.stop)]
            yield start - self.start, torch.from_numpy(part.astype(np.int64))

    def first_tokens(self, n: int) -> Tensor:
        """Return the first tokens of the first context, (1, n) or fewer."""
        tokens = array_at(self.file, "tokens")[self.start : self.start + 1, :n]
        return torch.from_numpy(tokens.astype(np.int64))

    def highest_token(self) -> int:
        """Return the highest token id in the range, read in blocks."""
        return max((int(tokens.max()) for _, tokens in self.batches(4096)), default=-1)


@contextmanager
def _read_chunks(path: Path, settings: Activations, shard: int, n_shards: int) -> Iterator[Chunks]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise TerseError(f"cannot read the chunks {path}: {error}") from error
    with file:
        n, width = array_at(file, "tokens").shape
        if width != settings.ctx_len:
            raise TerseError(f"{path} has contexts of {width}, not of {settings.ctx_len}, tokens")
        yield Chunks(file, *row_range(n, shard, n_shards))


def _check_settings(settings: Activations) -> None:
    keeps = (
        settings.save_cache_tensors
        or settings.save_mean_tensors
        or needs_logits(settings)
        or fused_estimators(settings)
        or keeps_last_tokens(settings)
    )
    if not keeps:
        raise TerseError(
            "nothing would be saved: set one of save_cache_tensors, save_mean_tensors, save_IDs, "
            "save_loss, save_entropy"
        )


def _check_model(model: PreTrainedModel, chunks: Chunks) -> None:
    limit = max_context(model)
    if limit is not None and chunks.ctx_len > limit:
        raise TerseError(f"ctx_len {chunks.ctx_len} exceeds the {limit} positions of the model")
    known = _embedding(model).shape[0]
    if (highest := chunks.highest_token()) >= known:
        raise TerseError(
            f"the chunks contain token {highest}, but the model has {known} embeddings: "
            "they were made with another tokenizer"
        )


def _embedding(model: PreTrainedModel) -> Tensor:
    """Return the embedding's weights (V, D); the token ids go to their device."""
    return next(model.get_input_embeddings().parameters())


def _probe(capture: Capture, settings: Activations, device: torch.device) -> dict[str, Tensor]:
    """Return each module's output (1, 2, D) for two tokens, to learn its width and dtype."""
    tokens = torch.zeros((1, PROBE_TOKENS), dtype=torch.int64, device=device)
    outputs, logits = capture.run(tokens)
    if needs_logits(settings) and logits is None:
        raise TerseError(
            f"{type(capture.model).__name__} has no logits: set save_loss and save_entropy to false"
        )
    return outputs


def _about(
    model: PreTrainedModel,
    modules: Mapping[str, ModuleRef],
    outputs: Mapping[str, Tensor],
    settings: Activations,
) -> dict[str, Any]:
    return {
        "modules": {
            key: {
                "path": ref.path,
                "layer": ref.layer,
                "width": outputs[key].shape[2],
                **_terms(ref),
            }
            for key, ref in modules.items()
        },
        "residual_errors": {key: ref.error for key, ref in modules.items() if ref.parts},
        "architecture": type(model).__name__,
        "dtype": dtype_of(model),
        "device": model.device.type,
        "attn_implementation": str(getattr(model.config, "_attn_implementation", "")),
        "ctx_len": settings.ctx_len,
        "settings": {name: getattr(settings, name) for name in _recorded(settings)},
        "versions": {
            "terse": terse.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "h5py": h5py.__version__,
            "python": platform.python_version(),
        },
    }


def _terms(ref: ModuleRef) -> dict[str, Any]:
    """Return the summands of a key of the residual stream."""
    if not ref.parts:
        return {}
    terms = [
        {"path": part.term.path, "call": part.term.call, "factor": _number(part.term.factor)}
        for part in ref.parts
    ]
    scaled = ref.carried is not None and not ref.carried.is_plain
    block_in = {"block_in": _number(ref.carried.factor)} if scaled and ref.carried else {}
    return {"terms": terms, **block_in}


def _number(value: float | Tensor) -> float | str:
    return f"one per channel ({value.numel()})" if isinstance(value, Tensor) else value


def _recorded(settings: Activations) -> list[str]:
    """Return the settings that determined the shard; those of later estimators did not."""
    unused = set() if fused_estimators(settings) else ESTIMATION
    shaping = ["ctx_len", *keys.Capture.model_fields, *keys.Estimation.model_fields]
    return [name for name in shaping if name not in unused]


def _report_nonfinite(path: Path) -> None:
    with h5py.File(path, "r") as file:
        for key, array in arrays_in(file, "n_nonfinite").items():
            counts = array[:]
            if (total := int(counts.sum())) > 0:
                log.warning(
                    "%s: %s holds %d values that are NaN or inf, in %d of %d contexts",
                    path.name,
                    key,
                    total,
                    int((counts > 0).sum()),
                    len(counts),
                )
