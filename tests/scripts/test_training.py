"""What the training script publishes, and that a state is only continued by its own settings."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from script_chain import Chain, run_script
from script_records import record_of
from terse.machine.signals import Stopped, StopSignal
from terse.models.loading import load_model
from terse.provenance import digest_file
from terse.training.method import Inputs
from terse.training.state import TrainingState
from terse.training.train import Conduct, Outputs

Train = Callable[..., bytes]


def test_train_model(chain: Chain) -> None:
    history = pd.read_csv(chain.run / "history.csv")
    assert history.loc[history["split"] == "train", "step"].tolist() == [2, 4, 6]
    validation = history[history["split"] == "validation"]
    assert validation["step"].tolist() == [0, 3, 6]
    assert validation["loss_nats"].iloc[0] == pytest.approx(math.log(300), rel=0.05)
    assert validation["loss_nats"].is_monotonic_decreasing
    kept = sorted(path.name for path in (chain.run / "checkpoints").iterdir())
    assert kept == ["step-0", "step-3"]
    weights = [
        load_model(folder).get_input_embeddings().weight
        for folder in (*sorted((chain.run / "checkpoints").iterdir()), chain.run / "model")
    ]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert len(AutoTokenizer.from_pretrained(chain.run / "model")) == 300
    assert not list(chain.run.rglob("*.bin"))
    assert not list(chain.run.rglob("terse-files.json"))
    assert not list((chain.folder / "state" / "train" / "base").iterdir())
    record = record_of(chain.run / "run.json")
    assert record["settings"] == chain.settings.result_params("base")
    assert record["device"] == "cpu (deterministic)"
    assert record["seed"] == 0
    assert record["n_threads"] == [torch.get_num_threads()]
    assert record["inputs"] == {
        "tokens": digest_file(chain.inputs.tokens or Path()),
        "tokenizer": digest_file(chain.inputs.tokenizer or Path()),
    }


@pytest.fixture
def train_again(chain: Chain, tmp_path: Path) -> Train:
    """Return a function that trains the run into another folder, with some settings changed."""

    def train(signal: StopSignal | None = None, **changes: Any) -> bytes:
        run_script(
            "train_model",
            run=chain.settings.result_params("base") | changes,
            inputs=Inputs(chain.inputs.tokens, tokenizer=chain.inputs.tokenizer),
            outputs=Outputs(
                tmp_path / "model",
                tmp_path / "kept",
                tmp_path / "history.csv",
                tmp_path / "run.json",
            ),
            state_root=tmp_path / "state",
            conduct=Conduct(name="base", results=tmp_path),
            signal=signal or StopSignal(),
        )
        return (tmp_path / "model" / "model.safetensors").read_bytes()

    return train


def test_a_longer_training_says_why_it_starts_anew(
    train_again: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train_again(max_steps=2, checkpoint_steps=[])
    caplog.clear()
    train_again(max_steps=3, checkpoint_steps=[])
    (line,) = [text for text in caplog.messages if "starts from step 0" in text]
    assert "the finished training of 2 steps is not extended to 3, since lr_schedule cosine" in line
    caplog.clear()
    train_again(max_steps=2, checkpoint_steps=[], lr_schedule="constant")
    train_again(max_steps=3, checkpoint_steps=[], lr_schedule="constant")
    (line,) = [text for text in caplog.messages if "starts from step 0" in text]
    assert "its optimiser was deleted when its weights were published" in line


def test_other_settings_do_not_go_on_from_a_state(
    chain: Chain, train_again: Train, tmp_path: Path
) -> None:
    with pytest.raises(Stopped, match="stopped by SIGTERM at step 1 of 6"):
        train_again(StopSignal("SIGTERM"))
    assert not (tmp_path / "model").exists()
    with pytest.raises(Stopped, match="at step 1 of 6"):
        train_again(StopSignal("SIGTERM"), lr=5e-3)
    assert len(list((tmp_path / "state" / "base").iterdir())) == 2
    assert train_again() == (chain.run / "model" / "model.safetensors").read_bytes()


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Return torch's function, which is undone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_change_of_threads_is_told_and_on_record(
    train_again: Train, set_threads: Callable[[int], None], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for n_threads in (1, 1, 2):  # the first has no state to resume
        set_threads(n_threads)
        with pytest.raises(Stopped):
            train_again(StopSignal("SIGTERM"))
        assert ("is from a training with 1 thread, which goes on with 2" in caplog.text) == (
            n_threads == 2
        )
    train_again()
    assert record_of(tmp_path / "run.json")["n_threads"] == [1, 2]
    set_threads(1)
    train_again()
    assert record_of(tmp_path / "run.json")["n_threads"] == [1]  # the state was deleted: anew


def test_threads_count_from_the_start_of_a_training(tmp_path: Path) -> None:
    with TrainingState(tmp_path / "run" / "digest") as state:
        assert state.note_threads(1, resumed=False) == [1]
        assert state.note_threads(2, resumed=True) == [1, 2]
        assert state.note_threads(2, resumed=True) == [1, 2]
        assert state.note_threads(2, resumed=False) == [2]


def test_plot_run(chain: Chain, tmp_path: Path) -> None:
    paths = [tmp_path / "loss.svg", tmp_path / "loss.pdf"]
    run_script("plot_run", history_path=chain.run / "history.csv", figure_paths=paths)
    assert ElementTree.parse(paths[0]).getroot().tag.endswith("}svg")
    assert paths[1].read_bytes().startswith(b"%PDF-")
