"""The peers of `bench_capture.py`: three other ways to write the same files."""

import copy
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from terse.models.modules import select_modules

LENS_HOOKS = ("attn.hook_out", "mlp.hook_out", "hook_out")


class Peers:
    """Each peer writes float16 tensors, their means, loss and entropy, appending batch by batch.

    Their set-up (processes, a wrapped model) is made once and not timed.
    """

    def __init__(
        self, model: LlamaForCausalLM, layers: list[int], batches: Sequence[Tensor], folder: Path
    ) -> None:
        self.model, self.layers, self.batches, self.folder = model, layers, batches, folder

    @torch.no_grad()
    def id_scaling(self) -> None:
        """Copy within each hook, append through a pool that opens each file for each batch."""
        found: dict[str, np.ndarray] = {}
        refs = select_modules(self.model, self.layers, ["mlp", "attn", "block"], ["norm"])

        def hook(key: str) -> Callable[..., None]:
            def copied(module: Any, inputs: Any, output: Any) -> None:
                output = output[0] if isinstance(output, tuple) else output
                found[key] = output.detach().cpu().to(torch.float16).numpy()

            return copied

        handles = [ref.module.register_forward_hook(hook(key)) for key, ref in refs.items()]
        with fresh_folder(self.folder / "id_scaling") as out:
            for tokens in self.batches:
                result = self.model(tokens.to(self.model.device), use_cache=False)
                found.update(plain_loss_and_entropy(result.logits, tokens))
                self.pool.starmap(append, [(out / f"{key}.h5", found[key]) for key in found])
        for handle in handles:
            handle.remove()

    @torch.no_grad()
    def nnsight(self) -> None:
        """Save the outputs in a trace of nnsight, append them with h5py."""
        import nnsight  # pyright: ignore[reportMissingImports]

        wrapped = nnsight.NNsight(self.model)
        with fresh_folder(self.folder / "nnsight") as out:
            for tokens in self.batches:
                with wrapped.trace(tokens.to(self.model.device), use_cache=False):
                    outputs = {}.save()  # pyright: ignore[reportAttributeAccessIssue]
                    for layer in self.layers:
                        block = wrapped.model.layers[layer]
                        outputs[f"attn-l{layer}"] = block.self_attn.output[0]
                        outputs[f"mlp-l{layer}"] = block.mlp.output
                        outputs[f"block-l{layer}"] = block.output
                    outputs["norm"] = wrapped.model.norm.output
                    logits = wrapped.lm_head.output.save()
                write_batch(out, outputs, logits, tokens)

    @torch.no_grad()
    def lens(self) -> None:
        """Cache the outputs with TransformerLens, append them with h5py."""
        inner = [f"blocks.{layer}.{hook}" for layer in self.layers for hook in LENS_HOOKS]
        names = [*inner, "ln_final.hook_out"]
        with fresh_folder(self.folder / "lens") as out:
            for tokens in self.batches:
                logits, kept = self.bridge.run_with_cache(
                    tokens.to(self.model.device), names_filter=names, return_cache_object=False
                )
                write_batch(out, {name: kept[name] for name in names}, logits, tokens)

    @cached_property
    def pool(self) -> Any:
        """Two processes that write."""
        return multiprocessing.get_context("spawn").Pool(2)

    @cached_property
    def bridge(self) -> Any:
        """A copy of the model in TransformerLens' bridge, which requires a tokenizer."""
        from tokenizers import Tokenizer, models
        from transformer_lens.model_bridge import (  # pyright: ignore[reportMissingImports]
            TransformerBridge,
        )
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        marks = {"bos_token": "a", "eos_token": "b", "pad_token": "b", "unk_token": "a"}
        folder = self.folder / "words"
        PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
        return TransformerBridge.boot_transformers(
            "bench",
            hf_model=copy.deepcopy(self.model),
            tokenizer=PreTrainedTokenizerFast.from_pretrained(folder),
        )


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder, emptied again afterwards; its bytes are synced like ours."""
    path.mkdir(exist_ok=True)
    yield path
    for item in path.iterdir():
        descriptor = os.open(item, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        item.unlink()


def write_batch(out: Path, outputs: Mapping[str, Tensor], logits: Tensor, tokens: Tensor) -> None:
    """Append one batch of everything, each array to its file."""
    found = {key: value.to(torch.float16).cpu().numpy() for key, value in outputs.items()}
    found.update(plain_loss_and_entropy(logits, tokens))
    for key, value in found.items():
        append(out / f"{key}.h5", value)


def append(path: Path, values: np.ndarray) -> None:
    """Open a file, append rows and, for tensors, their means, and close it."""
    with h5py.File(path, "a") as file:
        grow(file, "activations", values)
        if values.ndim == 3:
            grow(file, "mean_activations", values.astype(np.float32).mean(axis=1))


def grow(file: h5py.File, name: str, values: np.ndarray) -> None:
    """Append rows to a growing dataset."""
    if name not in file:
        file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]))
        return
    dataset: Any = file[name]
    dataset.resize(len(dataset) + len(values), axis=0)
    dataset[-len(values) :] = values


def plain_loss_and_entropy(logits: Tensor, tokens: Tensor) -> dict[str, np.ndarray]:
    """Compute both from one log-softmax over all logits in float32."""
    log_p = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    targets = tokens[:, 1:, None].to(logits.device)
    loss = -log_p.gather(2, targets)[..., 0]
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return {"creloss": loss.cpu().numpy(), "entropy": entropy.cpu().numpy()}
