"""What W&B is told, offline; it is installed by those who use it."""

import json
from pathlib import Path
from typing import Any

import pytest

from terse.training.method import Inputs
from tiny_forgetting import forgetting
from tiny_run import train_into


def test_the_settings_of_the_run_are_logged(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train_into(tmp_path, forgetting(inputs, max_steps=2, checkpoint_steps=[]), tracking="wandb")
    logged = json.loads(json.dumps(dict(wandb.config)))
    wandb.finish()
    assert (logged["forget_p"], logged["mask"], logged["context_len"]) == (0.5, "mlp", 20)
    assert list((tmp_path / "wandb").glob("offline-run-*"))
