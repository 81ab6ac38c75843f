"""Two processes with gloo train to the weights, codebooks and thresholds of one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ranks import run_ranks
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from tiny_hierarchical import byte_inputs, settings

pytestmark = pytest.mark.slow

LEVEL = {"vq_decay": 0.5, "target_compression_ratio": 0.3}
TRAIN = """
import os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from tiny_hierarchical import settings
from torch.utils.data import Subset
from transformers import set_seed
from terse.methods.hierarchical.method import Hierarchical
from terse.training.method import Inputs
from terse.training.state import TrainingState
from terse.training.train import Conduct, _arguments
from terse.training.trainer import MethodTrainer

torch.set_num_threads(1)
folder, tokens, batch_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rank = int(os.environ.get("RANK", 0))
level = {"vq_decay": 0.5, "target_compression_ratio": 0.3}
found = settings(level, batch_size=batch_size, max_steps=4, log_interval=1)
method = Hierarchical(found, Inputs(tokens))
rows = method.training_rows()
method.training_rows = lambda: Subset(rows, range(24))
set_seed(found.seed)
with TrainingState(folder / f"state-{rank}") as state:
    arguments = _arguments(method, state, Conduct("tiny"))
    arguments.save_strategy = "no"
    trainer = MethodTrainer(method, method.build(), arguments, state)
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model)
    save_file(model.state_dict(), folder / f"rank-{rank}.safetensors")
"""


def train(folder: Path, tokens: Path, world: int, batch_size: int) -> list[dict[str, torch.Tensor]]:
    """Return what each process has in the end."""
    folder.mkdir()
    run_ranks(TRAIN, [str(folder), str(tokens), str(batch_size)], world)
    return [load_file(folder / f"rank-{rank}.safetensors") for rank in range(world)]


def test_two_processes_train_to_the_weights_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As torchrun does for several: another rounding could give a vector another code.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    inputs = byte_inputs(tmp_path)
    assert inputs.tokens is not None
    (one,) = train(tmp_path / "one", inputs.tokens, 1, 4)
    for found in train(tmp_path / "two", inputs.tokens, 2, 2):
        assert found.keys() == one.keys()
        for name in found:
            if "recent" not in name:  # the inputs that were seen last are those of one process
                error = (found[name] - one[name]).abs() / (1 + one[name].abs())
                # Where a gradient is nearly 0, Adam makes a step of its rounding error.
                assert error.double().mean() < 1e-4, name
                assert error.max() < 5e-3, name
    torch.manual_seed(0)
    start = HierarchicalAutoencoder(settings(LEVEL)).state_dict()
    for name in ("codebook", "cluster_size", "cluster_sum", "n_steps"):
        key = f"compressors.0.quantizer.{name}"
        assert not torch.allclose(one[key].float(), start[key].float(), atol=1e-2), name
    assert one["compressors.0.shift"] != 0
