"""A method from an installed package: found, trained, and reported if it can't be used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from plugin_package import SPEC, install

ROOT = Path(__file__).parents[3]
RUN = {"method": "bigram", "max_steps": 30, "lr": 0.5, "l2": 0.0, "log_interval": 10,
       "eval_interval": 30, "n_symbols": 5}  # fmt: skip
LOADED = f"""
from terse.config import load
found = load({{"runs": {{"pairs": {RUN!r}}}}})
"""
TRAINED = """
import sys
from pathlib import Path
sys.path.insert(0, "workflow/scripts")
from terse.machine.signals import StopSignal
from terse.training.method import Inputs
from terse.training.train import Conduct, Outputs
from train_model import train_model
out = Path(sys.argv[1])
out.mkdir()
train_model(
    run=found.weight_params("pairs"), non_weight=found.non_weight_params("pairs"),
    inputs=Inputs(), state_root=out / "state", conduct=Conduct("pairs", results=out),
    signal=StopSignal(),
    outputs=Outputs(
        out / "model", out / "checkpoints", out / "history.csv", out / "run.json"
    ),
)
"""
TOLD = f"""
from terse.errors import TerseError
try:
    {LOADED.strip().replace(chr(10), chr(10) + "    ")}
except TerseError as error:
    print(error)
"""


def python(site: Path, code: str, *words: str) -> str:
    """Return what a new process prints that sees the package."""
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_method_of_another_package_is_trained_to_the_end(tmp_path: Path) -> None:
    python(install(tmp_path), LOADED + TRAINED, str(tmp_path / "out"))
    history = pd.read_csv(tmp_path / "out" / "history.csv")
    validation = history[history["split"] == "validation"].set_index("step")["loss_nats"]
    assert validation[30] < 0.2 < validation[0]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["settings"]["method"], record["settings"]["n_symbols"]) == ("bigram", 5)
    assert (tmp_path / "out" / "model" / "table.pt").exists()


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("bigram", "import nothing_of_this_name\n", "does not load (ModuleNotFoundError"),
        ("bigram", "SPEC = 3\n", "is not a MethodSpec but 3"),
        ("pairs", SPEC, "calls itself 'bigram'"),
        ("compression", SPEC, "the method 'compression' already exists, from terse"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_the_package(
    tmp_path: Path, name: str, spec: str, words: str
) -> None:
    told = python(install(tmp_path, name=name, spec=spec), TOLD).splitlines()
    assert len(told) == 1
    assert told[0].startswith("package bigram-terse: ")
    assert words in told[0]
