"""Tracking on a real MLflow store: one run over interruptions, batches, failures, real times."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from terse.machine.signals import Stopped, StopSignal
from terse.training.mlflow_run import MLflowRun
from terse.training.tracking import track_text
from tiny_training import AtStep, tiny_method, train_tiny, with_callback


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def runs_in(folder: Path) -> tuple[MlflowClient, list[Any]]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("terse")
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id]))


def test_one_run_over_an_interruption(tmp_path: Path) -> None:
    stop, begin = StopSignal(), time.time_ns() // 10**6
    method = with_callback(AtStep(5, lambda: setattr(stop, "name", "SIGTERM")))
    with pytest.raises(Stopped):
        train_tiny(tmp_path, method=method, signal=stop, tracking="mlflow")
    client, runs = runs_in(tmp_path)
    assert [run.info.status for run in runs] == ["KILLED"]
    train_tiny(tmp_path, tracking="mlflow")
    client, runs = runs_in(tmp_path)
    assert [run.info.status for run in runs] == ["FINISHED"]
    run = runs[0]
    assert run.info.run_name == "tiny"
    assert run.data.params["lr"] == "0.001"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == [2, 4, 6, 8, 10, 12]
    stamps = [metric.timestamp for metric in history]
    assert stamps == sorted(stamps)
    assert len(set(stamps)) > 3  # of the steps, not of the sending
    assert begin <= stamps[0] <= stamps[-1] <= time.time_ns() // 10**6
    assert client.get_metric_history(run.info.run_id, "eval_loss")


def test_what_waits_is_sent_when_the_training_fails(tmp_path: Path) -> None:
    def fail() -> None:
        track_text(9, "sample", "some text")
        raise RuntimeError("broken")

    method = with_callback(AtStep(9, fail))
    with pytest.raises(RuntimeError, match="broken"):
        train_tiny(tmp_path, method=method, tracking="mlflow")
    client, runs = runs_in(tmp_path)
    assert runs[0].info.status == "FAILED"
    history = client.get_metric_history(runs[0].info.run_id, "loss")
    assert [metric.step for metric in history] == [2, 4, 6, 8]
    paths = [file.path for file in client.list_artifacts(runs[0].info.run_id, "samples")]
    assert paths == ["samples/step-0000009-sample.txt"]


@pytest.mark.slow
def test_metrics_go_in_batches_of_a_thousand_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MLflowRun("many", {}, results=tmp_path, state=tmp_path, interval=10**6)
    sizes: list[int] = []
    send = tracker._client.log_batch
    monkeypatch.setattr(
        tracker._client, "log_batch",
        lambda *a, metrics=(), **k: (sizes.append(len(metrics)), send(*a, metrics=metrics, **k)),
    )  # fmt: skip
    nothing: Any = None
    for step in range(5):
        state: Any = SimpleNamespace(global_step=step)
        tracker.on_log(nothing, state, nothing, {f"m{i}": i + step for i in range(450)})
    assert sizes == [1000, 350]  # as soon as there are a thousand
    tracker.close("FINISHED")
    assert sum(sizes) == 5 * 450
    assert max(sizes) <= 1000
    _, runs = runs_in(tmp_path)
    assert len(runs[0].data.metrics) == 450
    assert runs[0].data.metrics["m3"] == 7


def test_metrics_are_sent_after_so_many_steps_and_when_a_state_is_saved(tmp_path: Path) -> None:
    tracker = MLflowRun("x", {}, results=tmp_path, state=tmp_path, interval=3)
    nothing: Any = None

    def known() -> list[int]:
        client, runs = runs_in(tmp_path)
        return [metric.step for metric in client.get_metric_history(runs[0].info.run_id, "m")]

    for step in range(1, 5):
        state: Any = SimpleNamespace(global_step=step)
        tracker.on_log(nothing, state, nothing, {"m": 1.0, "words": "no number"})
    assert known() == [1, 2, 3]
    tracker.on_save(nothing, nothing, nothing)
    assert known() == [1, 2, 3, 4]


def test_a_long_setting_is_kept_whole(tmp_path: Path) -> None:
    levels = [{"dim": i, "window": 64, "codebook_size": 512} for i in range(60)]
    MLflowRun("x", {"levels": levels, "endless": "x" * 9000}, results=tmp_path, state=tmp_path,
              interval=1).close("FINISHED")  # fmt: skip
    _, runs = runs_in(tmp_path)
    assert runs[0].data.params["levels"] == str(levels)
    assert len(runs[0].data.params["endless"]) == 6000


def test_the_interval_is_conduct() -> None:
    method = tiny_method(mlflow_batch_interval=7)
    params = method.spec.result_params(method.settings)
    assert "mlflow_batch_interval" not in params
