"""However a step's rows are split into passes and processes, the training is the same."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from ranks import run_ranks
from terse.config.methods import OURS
from terse.training.method import Inputs
from tiny_hierarchical import byte_inputs
from tiny_methods import METHODS, ROWS, results, train_split

Result = tuple[pd.DataFrame, dict[str, torch.Tensor]]

# Each method in one pass, and all of them in two passes in each of two processes.
TRAIN = """
import sys
from pathlib import Path
import torch
from terse.machine.processes import n_processes
from terse.training.method import Inputs
from tiny_methods import METHODS, ROWS, draw_by_row, train_split

torch.set_num_threads(1)
draw_by_row()
text, pages, out = map(Path, sys.argv[1:])
inputs = Inputs(text / "tokens.h5", text / "d.parquet", base=text / "base")
for name in METHODS:
    of_method = Inputs(pages / "tokens.h5") if name == "hierarchical" else inputs
    train_split(name, of_method, out / name, ROWS if n_processes() == 1 else ROWS // 4)
"""


def assert_same(found: Result, expected: Result) -> None:
    pd.testing.assert_frame_equal(found[0], expected[0], rtol=2e-3, atol=1e-4, check_like=True)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=2e-4, msg=name)


@pytest.fixture
def inputs_of(request: pytest.FixtureRequest) -> Callable[[str], Inputs]:
    """Return a function that gives the inputs of a method."""
    return lambda name: request.getfixturevalue("bytes_of" if name == "hierarchical" else "inputs")


@pytest.fixture(scope="module")
def bytes_of(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return byte_inputs(tmp_path_factory.mktemp("bytes"))


def test_every_method_is_tried() -> None:
    assert set(METHODS) == {spec.name for spec in OURS}


@pytest.mark.parametrize("name", METHODS)
def test_split_into_passes_the_training_is_the_same(
    name: str, inputs_of: Callable[[str], Inputs], tmp_path: Path
) -> None:
    inputs = inputs_of(name)
    for part, batch_size in (("whole", ROWS), ("split", 1)):
        train_split(name, inputs, tmp_path / part, batch_size)
    whole = results(tmp_path / "whole")
    assert {"objective", "loss_nats", "gradient_norm"} <= set(whole[0])
    assert whole[0].notna().all(axis=None)
    assert_same(results(tmp_path / "split"), whole)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"forgetting"}))  # its score forgets
def test_loss_nats_in_training_is_what_validation_scores(
    name: str, inputs_of: Callable[[str], Inputs]
) -> None:
    torch.manual_seed(0)
    method = METHODS[name](inputs_of(name), batch_size=4, n_grad_loops=1, max_steps=4)
    model, rows = method.build().train(), method.training_rows()
    batch = method.collate([rows[i] for i in range(4)])
    with torch.no_grad():
        loss, terms = method.loss(model, batch, method.count(batch))
        nats, n = method.score(model, batch)
    assert float(terms.get("loss_nats", loss)) == pytest.approx(nats / n, rel=1e-4)
    assert name == "causal-lm" or abs(float(loss) - nats / n) > 1e-3  # the objective is another


@pytest.mark.slow
def test_split_into_passes_of_two_processes_it_is_the_same(
    inputs_of: Callable[[str], Inputs], tmp_path: Path
) -> None:
    files = [inputs_of(name).tokens for name in ("compression", "hierarchical")]
    folders = [str(file.parent) for file in files if file is not None]
    for world in (1, 2):
        run_ranks(TRAIN, [*folders, str(tmp_path / f"{world}")], world)
    for name in METHODS:
        assert_same(results(tmp_path / "2" / name), results(tmp_path / "1" / name))
