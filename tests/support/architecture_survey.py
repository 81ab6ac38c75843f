"""Every causal LM architecture of transformers through the product's own way, against the model.

The truth comes from the model alone (architecture_truth.py). One process each, forked after the
imports, with a time limit.
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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from architecture_truth import faults, run
from terse.activations.capture import Capture
from terse.errors import TerseError
from terse.models.loading import load_model
from terse.models.modules import select_modules
from tiny_architectures import tiny_config, tiny_model

TIME_LIMIT_S = 300  # of the clock: the machine may be shared


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
            run(built, tokens)
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
    found.faults += list(faults(model, tokens, outputs, logits, single))
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
saved, and taken through terse's own loading, keys and capture. The truth comes from the model
alone: `output_hidden_states`, hooks on its blocks, a trace of every addition, and the loss of its
logits.

| outcome | architectures |
|---|---|
| right | {right} ({share:.1f} % of the {built} that could be built) |
| refused in one line | {refused} |
| wrong results without a warning | {wrong} |
| crashed | {crashed} |
| not built: no small config was found, or a package is missing | {unbuilt} |

Right means: `block` is the hidden state, `norm` the last one, each of `attn`, `mixer` and `mlp` is
an operand of an addition onto the residual stream, block_out = block_in + attn + mixer + mlp (in
post-LN models: each sum is what the next norm reads; if the model scales its stream: the rest is
block_in times a constant per channel), and loss and entropy are those of the logits. A model
without attention or without a final norm is first refused with the line in the last column, then
captured as that line says. So are {streams} models with several residual streams: `attn` and `mlp`
are not defined there, and each stream is that slice of the block's output. What is left of the
other refused models, in the column \"captured\", is checked in the same way. \"As an encoder\":
refused as a causal LM, since changing the last token changes earlier logits, then captured with
`kind: encoder`.

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
