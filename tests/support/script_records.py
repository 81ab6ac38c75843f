"""The `run.json` that a script writes."""

import json
from pathlib import Path
from typing import Any

import torch


def record_of(path: Path) -> dict[str, Any]:
    """Return a script's record after checking that it names its versions and its inputs."""
    found = json.loads(path.read_text())
    assert found["versions"]["torch"] == torch.__version__
    assert found.keys() >= {"settings", "seed", "git", "device", "inputs"}
    return found
