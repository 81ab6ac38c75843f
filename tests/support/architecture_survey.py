"""Every causal LM architecture of transformers through the product's own way, against the model.

The truth comes from the model alone: `output_hidden_states`, hooks on the blocks, and a dispatch
trace of every addition. One process each, forked after the imports, with a time limit.
"""

import contextlib
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from terse.activations.capture import Capture, loss_and_entropy
from terse.errors import TerseError
from terse.models.loading import load_model
from terse.models.modules import select_modules
from tiny_architectures import WIDTH, tiny_config, tiny_model

TIME_LIMIT_S = 300  # of the clock: the machine may be shared
CLOSE = 1e-4
SOFTMAX_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention", "attention")


@dataclass
class Found:
    """What became of one architecture.

    outcome: "right", "refused", "not buildable", "wrong" or "crashed"; keys: what was captured;
    line: what terse said, or why it could not be built.
    """

    name: str
    outcome: str = "right"
    kind: str = "causal-lm"
    keys: list[str] = field(default_factory=list)
    line: str = ""
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def architectures() -> list[str]:
    """Return the model types that the installed transformers has a causal LM for."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def survey(names: list[str]) -> Iterator[Found]:
    """Yield the result for each architecture, each examined in its own process."""
    context = multiprocessing.get_context("fork")
    for name in names:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(theirs, name), daemon=True)
        process.start()
        theirs.close()
        yield _received(ours, process, name)


def _received(pipe: Any, process: Any, name: str) -> Found:
    try:
        if pipe.poll(TIME_LIMIT_S):
            return Found(**pipe.recv())
        return Found(name, "crashed", line=f"not done within {TIME_LIMIT_S} s")
    except EOFError:
        process.join()
        return Found(name, "crashed", line=f"its process ended with {process.exitcode}")
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def _send(pipe: Any, name: str) -> None:
    torch.set_num_threads(1)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        found = looked_at(name)
    found.seconds = time.process_time() - start
    pipe.send(asdict(found))
    pipe.close()
    os._exit(0)


def looked_at(name: str) -> Found:
    """Return what became of one architecture, in this process."""
    tokens = torch.randint(6, 80, (2, 12), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        try:
            built = tiny_model(name)
            _run(built, tokens)
            built.save_pretrained(folder)
            if type(whole := tiny_config(name)) is not type(built.config):
                whole.save_pretrained(folder)  # what a user has, where a part of it was built
        except Exception as error:  # whatever it is, the model alone failed
            return Found(name, "not buildable", line=f"{type(error).__name__}: {_line(error)}")
        try:
            return _through_terse(name, Path(folder), tokens)
        except TerseError as error:
            line = str(error).replace(folder, "(folder)")  # the same in every run
            return Found(name, "refused", line=line, faults=_faults_of_line(str(error)))
        except Exception as error:
            return Found(name, "crashed", line=f"{type(error).__name__}: {_line(error)}")


def _through_terse(name: str, folder: Path, tokens: Tensor) -> Found:
    found = Found(name)
    try:
        model = load_model(folder)
    except TerseError as error:
        if "kind: encoder" not in str(error):
            raise
        found.line, found.kind = str(error).replace(str(folder), "(folder)"), "encoder"
        found.faults += _faults_of_line(found.line)
        model = load_model(folder, kind="encoder")
    refs = _selected(model, found)
    with Capture(model, refs, stop=False) as capture:
        outputs, logits = capture.run(tokens)
    found.keys = list(dict.fromkeys(key.split("-l")[0] for key in outputs))
    single = {key for key, ref in refs.items() if len(ref.parts) == 1}
    found.faults += list(_faults(model, tokens, outputs, logits, single))
    if found.faults:
        found.outcome = "wrong"
    return found


def _selected(model: PreTrainedModel, found: Found) -> dict[str, Any]:
    """Return the modules of the default keys, or of those that each refusal's line leaves."""
    inblock, outblock, why = ["attn", "mlp", "block"], ["norm"], ""
    for _ in range(5):
        try:
            refs = select_modules(model, "all", inblock, outblock)
            break
        except TerseError as error:
            found.line = str(error)
            found.faults += _faults_of_line(found.line)
            if "leave 'attn' out" in found.line:
                why = found.line
                # Several streams are named instead; other blocks would have terms.
                found.outcome = "right" if "several residual streams" in why else "refused"
            inblock, outblock = _without_what_it_lacks(found.line, inblock, outblock)
    else:
        raise TerseError(found.line)
    found.line = why or found.line
    if "mixer" not in inblock and "attn" in inblock:
        with contextlib.suppress(TerseError):
            refs |= select_modules(model, "all", ["mixer"], [])
    return refs


def _without_what_it_lacks(
    line: str, inblock: list[str], outblock: list[str]
) -> tuple[list[str], list[str]]:
    """Do as the line says: leave keys out, or take what the layers have."""
    if "module_outblock_keys: []" in line:
        return inblock, []
    if "allowed here: " in line:
        return line.rpartition("allowed here: ")[2].split(", "), outblock
    if left_out := re.search(r"leave '(\w+)' out", line):
        return [key for key in inblock if key != left_out[1]], outblock
    raise TerseError(line)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _faults_of_line(line: str) -> list[str]:
    return ["not one line"] if "\n" in line or len(line) > 600 else []


# The truth


def _run(model: PreTrainedModel, tokens: Tensor, **more: bool) -> Any:
    """Run the model without a cache, which some cannot make from their own config."""
    if getattr(model.config, "use_cache", None) is not None:
        more["use_cache"] = False
    with torch.no_grad():
        return model(input_ids=tokens, **more)


class Additions(TorchDispatchMode):
    """Keeps operands and result of each addition of a pass of the size of the hidden states."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.seen = numel, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        adds = func._schema.name in ("aten::add", "aten::add_", "aten::sub", "aten::sub_")
        operands = [_flat(t) for t in tree_leaves(args) if self._large(t)] if adds else []
        out = func(*args, **(kwargs or {}))
        if operands:
            self.seen.append((operands, _flat(out)))
        return out

    def _large(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.numel() == self.numel


class Calls:
    """Keeps what each module without parts was given and gave, while its hooks are on."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        leaves = [module for module in model.modules() if not list(module.children())]
        self.handles = [leaf.register_forward_hook(self._keep) for leaf in leaves]

    def _keep(self, _: Any, args: Any, output: Any) -> None:
        if args and _real(args[0]) and _real(output):
            self.seen.append((_flat(args[0]), _flat(output)))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().double().flatten()


def _faults(
    model: PreTrainedModel,
    tokens: Tensor,
    outputs: dict[str, Tensor],
    logits: Tensor | None,
    single: set[str],
) -> Any:
    result = _run(model, tokens, output_hidden_states=True)
    yield from _state_faults(outputs, result)
    yield from _stream_faults(model, tokens, outputs)
    yield from _term_faults(model, tokens, outputs, single, getattr(result, "hidden_states", None))
    yield from _kind_faults(model, outputs)
    if logits is not None:
        loss, entropy = loss_and_entropy(logits, tokens)
        log_p = result.logits[:, :-1].double().log_softmax(-1)
        expected = -log_p.gather(2, tokens[:, 1:, None])[..., 0]
        if not _close(loss, expected) or not _close(entropy, -(log_p.exp() * log_p).sum(-1)):
            yield "loss or entropy"


def _state_faults(outputs: dict[str, Tensor], result: Any) -> Any:
    states = getattr(result, "hidden_states", None)
    blocks = [out for key, out in outputs.items() if key.startswith("block-l")]
    if states is None or not blocks:
        return
    # The embedding may be among them, and a block may run several times: the last run counts.
    first = max((i for i, state in enumerate(states) if _close(blocks[0], state)), default=1)
    for i, block in enumerate(blocks[:-1]):
        if not _close(block, states[i + first]):
            yield f"block {i} is not the hidden state"
    if "norm" in outputs and not _close(outputs["norm"], states[-1]):
        yield "norm is not the last hidden state"


def _stream_faults(model: PreTrainedModel, tokens: Tensor, outputs: dict[str, Tensor]) -> Any:
    """Yield the streams that are no slice of what the block puts out."""
    streams = [key for key in outputs if key.startswith("block.stream")]
    _, made = _around_blocks(model, tokens) if streams else ({}, {})
    for key in streams:
        stream, layer = re.fullmatch(r"block\.stream(\d+)-l(\d+)", key).groups()
        whole = made[int(layer)]
        axis = next(i for i, n in enumerate(whole.shape) if n not in (*tokens.shape, WIDTH))
        n = whole.shape[axis]
        if len([k for k in streams if k.endswith(f"-l{layer}")]) != n:
            yield f"layer {layer} has {n} streams"
        if not _close(outputs[key], whole.select(axis, int(stream))):
            yield f"{key} is not that slice of the block's output"


def _term_faults(
    model: PreTrainedModel,
    tokens: Tensor,
    outputs: dict[str, Tensor],
    single: set[str],
    states: Any,
) -> Any:
    """Yield what is no operand of an addition, or does not add up to what the block adds.

    A key that stands for several modules (`single` has the others) is judged by the sum alone.
    """
    terms = [key for key in outputs if key.split("-l")[0] in ("attn", "mixer", "mlp")]
    if not terms:
        return
    given, made = _around_blocks(model, tokens)
    calls = Calls(model)
    with Additions(max(map(Tensor.numel, made.values()))) as additions:
        _run(model, tokens)
    calls.remove()
    cut = _cut(made[min(made)], tokens, states)
    given, made = ({i: cut(x) for i, x in each.items()} for each in (given, made))
    additions.seen = [([cut(x) for x in xs], cut(out)) for xs, out in additions.seen]
    calls.seen = [(cut(before), cut(after)) for before, after in calls.seen]
    for i in sorted({int(key.split("-l")[1]) for key in terms}):
        of_layer = [key for key in terms if key.endswith(f"-l{i}")]
        added = [outputs[key] for key in of_layer]
        scaled = not _close(given[i] + sum(added), made[i])
        normed = scaled and _normed_after_each(added, made[i], additions, calls)
        like = _close if normed or not scaled else _follows
        if scaled and not normed and not _follows(made[i] - sum(added), given[i]):
            yield f"layer {i}: the terms are not what the block adds"
        for key in single.intersection(of_layer):
            operands = (x for xs, _ in additions.seen for x in xs)
            if not any(like(outputs[key], x.reshape(outputs[key].shape)) for x in operands):
                yield f"{key} is never added"


def _cut(made: Tensor, tokens: Tensor, states: Any) -> Callable[[Tensor], Tensor]:
    """Return what takes the tokens' rows (B, T, D) of all that is as large as a block's output.

    They are the rows that are a hidden state of the model's own.
    """
    B, T = tokens.shape
    if made.shape[:2] == (B, T):
        return lambda x: x
    cuts = [lambda x: x.transpose(0, 1)] if made.shape[:2] == (T, B) else []
    cuts += [lambda x, i=i: x[:, i : i + T] for i in range(made.shape[1] - T + 1)]
    cut = next(c for c in cuts if any(_close(c(made), state) for state in states or ()))
    return lambda x: cut(x.reshape(made.shape)) if x.numel() == made.numel() else x


def _normed_after_each(
    added: list[Tensor], made: Tensor, additions: Additions, calls: Calls
) -> bool:
    """Whether each term is an operand of a sum that a module reads, or that the block ends in."""
    ends = False
    for term in added:
        sums = [out for xs, out in additions.seen if any(_close(term, x) for x in xs)]
        read = [after for before, after in calls.seen if any(_close(before, s) for s in sums)]
        if not read and not any(_close(made, s) for s in sums):
            return False
        ends |= any(_close(made, each) for each in (*sums, *read))
    return ends


def _around_blocks(model: PreTrainedModel, tokens: Tensor) -> tuple[dict, dict]:
    """Return the inputs and outputs of the blocks: the largest list of modules that runs."""
    n = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    every = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    lists = [m for m in every if len(m) == n] or every
    for blocks in sorted(lists, key=lambda m: -sum(p.numel() for p in m.parameters())):
        given, made = _around(blocks, model, tokens)
        if given:
            return given, made
    return {}, {}


def _around(blocks: nn.ModuleList, model: PreTrainedModel, tokens: Tensor) -> tuple[dict, dict]:
    given, made, handles = {}, {}, []
    for i, block in enumerate(blocks):

        def before(_: Any, args: Any, kwargs: Any, i: int = i) -> None:
            given[i] = next(t for t in tree_leaves([args, kwargs]) if _real(t)).clone()

        def after(_: Any, args: Any, output: Any, i: int = i) -> None:
            made[i] = next(t for t in tree_leaves(output) if _real(t)).clone()

        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(block.register_forward_hook(after))
    _run(model, tokens)
    for handle in handles:
        handle.remove()
    return given, made


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 3


def _kind_faults(model: PreTrainedModel, outputs: dict[str, Tensor]) -> Any:
    """Yield layers whose config says softmax attention, and that have no `attn`."""
    kinds = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or []
    if not any(key.startswith("attn-l") for key in outputs):
        return
    for i, kind in enumerate(kinds):
        if kind in SOFTMAX_ATTENTION and f"attn-l{i}" not in outputs:
            yield f"layer {i} has {kind} and no attn"


def _close(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel():
        return False
    a, b = a.double().flatten(), b.double().flatten()
    return bool((a - b).norm() <= CLOSE * b.norm() + 1e-6 * b.numel() ** 0.5)


def _follows(a: Tensor, b: Tensor) -> bool:
    """Whether each channel of a is the same channel of b times a constant plus a constant."""
    a, b = (x.double().reshape(-1, x.shape[-1]) for x in (a, b))  # (tokens, D)
    centred = b - b.mean(0)
    slope = (centred * a).sum(0) / centred.square().sum(0).clamp_min(1e-30)
    return _close(a, a.mean(0) + slope * centred)


def table(found: list[Found]) -> str:
    """Return the survey as Markdown: totals, then a row for each architecture."""
    n = Counter(item.outcome for item in found)
    built = len(found) - n["not buildable"]
    rows = [
        f"| {item.name} | {item.outcome}{'' if item.kind == 'causal-lm' else ', as an encoder'} | "
        f"{', '.join(item.keys)} | {'; '.join([*item.faults, item.line]).strip('; ')} |"
        for item in found
    ]
    head = HEAD.format(
        version=transformers.__version__, all=len(found), built=built, right=n["right"],
        share=100 * n["right"] / max(1, built), refused=n["refused"], wrong=n["wrong"],
        crashed=n["crashed"], unbuilt=n["not buildable"],
        streams=sum("block.stream0" in item.keys for item in found),
    )  # fmt: skip
    return "\n".join([head, *rows]) + "\n"


HEAD = """# Every causal LM architecture of transformers {version}

Written by `python tests/support/architecture_survey.py docs/results/architectures.md`, as in
`tests/unit/models/test_every_architecture.py`: each of the {all} classes of
`MODEL_FOR_CAUSAL_LM_MAPPING` as a tiny random model, every parameter moved from its initial value,
saved, and taken through terse's own loading, keys and capture. The truth comes from the model alone:
`output_hidden_states`, hooks on its blocks, a trace of every addition, and the loss of its logits.

| outcome | architectures |
|---|---|
| right | {right} ({share:.1f} % of the {built} that could be built) |
| refused in one line | {refused} |
| wrong results without a warning | {wrong} |
| crashed | {crashed} |
| not built: no small config was found, or a package is missing | {unbuilt} |

Right means: `block` is the hidden state, `norm` the last one, each of `attn`, `mixer` and `mlp` is an
operand of an addition onto the residual stream, block_out = block_in + attn + mixer + mlp (in post-LN
models: each sum is what the next norm reads; if the model scales its stream: the rest is block_in
times a constant per channel), and loss and entropy are those of the logits. A model without attention
or without a final norm is first refused with the line in the last column, then captured as that line
says. So are {streams} models with several residual streams: `attn` and `mlp` are not defined there,
and each stream is that slice of the block's output. The blocks, norms and losses of all other refused
models are checked in the same way. "As an encoder": refused as a causal LM, since changing the last
token changes earlier logits, then captured with `kind: encoder`.

| architecture | outcome | captured | what terse says, or why it was not built |
|---|---|---|---|"""


def main() -> None:
    """Print the result for each architecture; a name ending in .md: write the table there."""
    targets = [Path(name) for name in sys.argv[1:] if name.endswith(".md")]
    names = [name for name in sys.argv[1:] if not name.endswith(".md")] or architectures()
    found = []
    for item in survey(names):
        found.append(item)
        print(json.dumps(asdict(item)), flush=True)
    print(f"{sum(item.seconds for item in found):.0f} s of one core", file=sys.stderr)
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
