"""The outputs of a model's modules in one forward pass, captured at no cost to the pass.

The hooks only keep references: casts, means and copies are made once per batch, after the pass. A
tensor that the model later changes in place (Falcon adds its attention into the output of its mlp)
would be wrong by then. The tensor's version counter reveals this: the pass is repeated once, and
from then on the hook of that module keeps a copy.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from terse.errors import TerseError
from terse.models.modules import LAST, ModuleRef, Part

log = logging.getLogger(__name__)

Slot = tuple[str, int]  # a key, and which of its summands
BLOCK_LOGITS = 2**18  # logits per block of the loss: 1 MiB in float32, two of which fit an L2 cache


class StopForward(Exception):  # noqa: N818  (a signal, not an error)
    """Ends a forward pass after the last requested output."""


class Capture:
    """Context manager: hooks on modules, `run` for a pass, removed at the end.

    Args:
        model: a transformer that takes `input_ids` (B, T).
        modules: the modules to capture, by key.
        stop: end the pass after the last of them, so that nothing unused is computed.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, ModuleRef], *, stop: bool) -> None:
        self.model = model
        self.modules = dict(modules)
        self.stop = stop
        self._outputs: dict[Slot, Tensor] = {}
        self._versions: dict[Slot, int] = {}
        self._copied: set[Slot] = set()
        self._block: nn.Module | None = None  # the one that runs
        self._calls: Counter[Slot] = Counter()  # since the block began
        self._to_come: Counter[Slot] = Counter()  # runs until the pass may end
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "Capture":
        for key, ref in self.modules.items():
            for i, part in enumerate(ref.summands):
                hook = self._hook((key, i), ref, part)
                self._handles.append(part.module.register_forward_hook(hook))
        for block in {ref.block for ref in self.modules.values()} - {None}:
            assert block is not None
            self._handles.append(block.register_forward_pre_hook(self._begins))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._outputs.clear()

    def run(self, input_ids: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Run one pass without gradients.

        Args:
            input_ids: (B, T) on the device of the model's embedding.

        Returns:
            The outputs by key, each (B, T, D), and the logits (B, T, V); None if the pass was
            stopped or the model has none. A model with the attribute `places_out` puts out that
            many positions whatever T is.

        Raises:
            TerseError: a module did not run, or put out something other than (B, T, D).
        """
        logits = self._forward(input_ids)
        if changed := self._changed():
            names = [key for key, _ in changed]
            log.info("copied, since the model changes them in place: %s", names)
            self._copied.update(changed)
            logits = self._forward(input_ids)
        B, T = input_ids.shape
        T = getattr(self.model, "places_out", T)  # a model that turns a context into vectors
        outputs = {key: self._summed(ref, B, T) for key, ref in self.modules.items()}
        self._outputs = {}
        return outputs, logits

    @torch.no_grad()
    def _forward(self, input_ids: Tensor) -> Tensor | None:
        self._outputs, self._versions, self._block = {}, {}, None
        self._calls.clear()
        for key, ref in self.modules.items():
            for i, part in enumerate(ref.summands):
                self._to_come[key, i] = part.runs
        options: dict[str, Any] = {}
        if getattr(getattr(self.model, "config", None), "use_cache", None) is not None:
            options["use_cache"] = False
        try:
            result = self.model(input_ids=input_ids, **options)
        except StopForward:
            return None
        return getattr(result, "logits", None)

    def _begins(self, block: nn.Module, inputs: Any) -> None:
        self._block = block
        self._calls.clear()

    def _hook(self, slot: Slot, ref: ModuleRef, part: Part) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if ref.block is not None and self._block is not ref.block:
                return  # a module that several blocks share
            call, self._calls[slot] = self._calls[slot], self._calls[slot] + 1
            if part.term.call not in (LAST, call):
                return
            tensor = output[0] if isinstance(output, (tuple, list)) else output
            if not isinstance(tensor, Tensor):
                raise TerseError(f"module {ref.key} puts out {type(tensor).__name__}, not a tensor")
            self._outputs[slot] = tensor.clone() if slot in self._copied else tensor
            self._versions[slot] = self._outputs[slot]._version
            self._to_come[slot] -= 1
            if self.stop and not any(n > 0 for n in self._to_come.values()):
                raise StopForward

        return keep

    def _changed(self) -> list[Slot]:
        return [slot for slot, out in self._outputs.items() if out._version != self._versions[slot]]

    def _summed(self, ref: ModuleRef, B: int, T: int) -> Tensor:
        """Return the tensor (B, T, D) of a key: an output, or a sum of outputs."""
        total = None
        for i, part in enumerate(ref.summands):
            added = part.term.of(self._shaped((ref.key, i), ref, B, T))
            total = added if total is None else total + added
        assert total is not None
        return total

    def _shaped(self, slot: Slot, ref: ModuleRef, B: int, T: int) -> Tensor:
        if slot not in self._outputs:
            raise TerseError(f"module {ref.key} did not run in the forward pass")
        output = self._outputs[slot]
        if ref.stream is not None and output.ndim == 4:
            index, axis = ref.stream
            output = output.select(axis, index)
        if ref.rows is not None:
            output = ref.rows.of(output, B, T, in_block=ref.layer is not None)
        if output.ndim == 2 and len(output) == B * T:  # OPT's mlp sees one list of tokens
            output = output.reshape(B, T, -1)  # (B, T, D)
        if output.ndim != 3 or output.shape[:2] != (B, T):
            shape = tuple(output.shape)
            raise TerseError(f"module {ref.key} puts out shape {shape}, not ({B}, {T}, width)")
        return output


@torch.no_grad()
def loss_and_entropy(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the next-token loss and the entropy of the predictions, in nats.

    Both use the same exponential of each logit. The only copies of logits are two blocks of a few
    rows, which are reused: on a CPU the page faults of new memory cost more than the sums.

    Args:
        logits: (B, T, V), any floating dtype; they are left unchanged.
        tokens: (B, T) integers below V.

    Returns:
        loss, -log p(token t+1 | tokens 0..t), and the entropy of p(. | tokens 0..t): each
        (B, T-1) float32. A token of probability 0 has loss inf; NaN logits give NaN.
    """
    B, T, V = logits.shape
    targets = tokens[:, 1:].to(logits.device, torch.int64)  # (B, T-1)
    loss = torch.empty((B, T - 1), dtype=torch.float32, device=logits.device)
    entropy = torch.empty_like(loss)
    rows = min(T - 1, _rows_per_block(logits))
    centred = torch.empty((rows, V), dtype=torch.float32, device=logits.device)
    weights = torch.empty_like(centred)
    for b in range(B):
        for start in range(0, T - 1, rows):
            part = slice(start, min(start + rows, T - 1))
            n = part.stop - start
            loss[b, part], entropy[b, part] = _block_loss_and_entropy(
                logits[b, part], targets[b, part], centred[:n], weights[:n]
            )
    return loss, entropy


def _block_loss_and_entropy(
    logits: Tensor, targets: Tensor, centred: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute both for logits (R, V) and targets (R,), in (R, V) float32 buffers."""
    centred.copy_(logits).sub_(centred.amax(dim=1, keepdim=True))  # (R, V), at most 0
    picked = centred.gather(1, targets[:, None])[:, 0]  # (R,)
    torch.exp(centred, out=weights)
    total = weights.sum(dim=1)  # (R,)
    log_total = total.log()
    centred.clamp_min_(-1e4)  # so that a logit of -inf contributes 0, not NaN
    mean = weights.mul_(centred).sum(dim=1) / total  # (R,)
    return log_total - picked, log_total - mean


def _rows_per_block(logits: Tensor) -> int:
    # a GPU needs blocks large enough to fill it, a CPU blocks that stay in its cache
    per_block = BLOCK_LOGITS if logits.device.type == "cpu" else 256 * BLOCK_LOGITS
    return max(1, per_block // logits.shape[-1])
