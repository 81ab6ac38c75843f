"""Two processes with gloo train to the weights of one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ranks import run_ranks
from tiny_compression import compression, make_inputs

pytestmark = pytest.mark.slow

TRAIN = """
import json, os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from tiny_compression import compression
from transformers import set_seed
from terse.training.method import Inputs
from terse.training.state import TrainingState
from terse.training.train import Conduct, _arguments
from terse.training.trainer import MethodTrainer

torch.set_num_threads(1)
folder, inputs, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
method = compression(Inputs(inputs / "tokens.h5", base=inputs / "base"), **changes)
rows = method.training_rows
method.training_rows = lambda: setattr((found := rows()).places, "n", 24) or found
set_seed(method.settings.seed)
with TrainingState(folder / f"state-{rank}") as state:
    arguments = _arguments(method, state, Conduct("tiny"))
    arguments.save_strategy = "no"
    trainer = MethodTrainer(method, method.build(), arguments, state)
    assert trainer.args.world_size == world
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model)
    save_file(model.state_dict(), folder / f"rank-{rank}.safetensors")
    log = [row for row in trainer.state.log_history if "loss" in row]
    (folder / f"rank-{rank}.json").write_text(json.dumps(log))
"""


def train(folder: Path, inputs: Path, world: int, **changes: object) -> Path:
    folder.mkdir()
    run_ranks(TRAIN, [str(folder), str(inputs), json.dumps(changes)], world)
    return folder


def test_two_processes_train_to_the_weights_of_one(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    inputs = tmp_path / "inputs"
    make_inputs(inputs)
    shared = {"max_steps": 4, "rmb_task": True, "kl_scale": 0.5, "log_interval": 1}
    one = train(tmp_path / "one", inputs, 1, batch_size=6, **shared)
    two = train(tmp_path / "two", inputs, 2, batch_size=3, **shared)
    expected = load_file(one / "rank-0.safetensors")
    for rank in (0, 1):
        found = load_file(two / f"rank-{rank}.safetensors")
        assert found.keys() == expected.keys()
        for name in found:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)
    logs = [json.loads((folder / "rank-0.json").read_text()) for folder in (one, two)]
    for a, b in zip(*logs, strict=True):
        for key in ("loss", "ce_nats", "rmb_nats", "kl_nats", "static_nats"):
            assert b[key] == pytest.approx(a[key], rel=1e-3), key


def test_what_is_trained_differs_from_what_it_started_as(tmp_path: Path) -> None:
    """Or two processes that train nothing would pass the test above."""
    (tmp_path / "inputs").mkdir()
    make_inputs(tmp_path / "inputs")
    found = train(tmp_path / "one", tmp_path / "inputs", 1, max_steps=4, batch_size=6)
    from terse.training.method import Inputs

    inputs = tmp_path / "inputs"
    torch.manual_seed(0)
    start = compression(Inputs(inputs / "tokens.h5", base=inputs / "base")).build().state_dict()
    trained = load_file(found / "rank-0.safetensors")
    assert all((trained[name] - start[name]).abs().max() > 1e-3 for name in trained)
