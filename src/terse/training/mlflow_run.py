"""A training as one MLflow run: metrics in batches, and the same run after an interruption."""

import os
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from terse.training.mlflow_store import opened

MOST_METRICS, MOST_PARAMS, LONGEST_PARAM = 1000, 100, 6000  # per call; characters
RUN_ID = "mlflow-run-id"


class MLflowRun(TrainerCallback):
    """Sends logged values with their times to one MLflow run.

    The run's id is stored in the state, so a resumed training continues the same run. Metrics are
    sent every `interval` steps; `close` sends the rest, even when the training has failed.
    """

    def __init__(
        self, name: str, params: dict[str, Any], *, results: Path, state: Path, interval: int
    ) -> None:
        uri = f"sqlite:///{results.resolve() / 'mlflow.db'}"
        results.mkdir(parents=True, exist_ok=True)
        self._client, self._experiment = opened(
            os.environ.get("MLFLOW_TRACKING_URI", uri),
            os.environ.get("MLFLOW_EXPERIMENT_NAME", "terse"),
            (results.resolve() / "mlflow-artifacts").as_uri(),
        )
        self._id_file, self._interval = state / RUN_ID, interval
        self._waiting: list[Metric] = []
        self._sent_at = 0
        self.run_id = self._found() or self._created(name, params)

    def _found(self) -> str | None:
        if not self._id_file.exists():
            return None
        run_id = self._id_file.read_text().strip()
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def _created(self, name: str, params: dict[str, Any]) -> str:
        run_id = self._client.create_run(self._experiment, run_name=name).info.run_id
        pairs = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in params.items()]
        for start in range(0, len(pairs), MOST_PARAMS):
            self._client.log_batch(run_id, params=pairs[start : start + MOST_PARAMS])
        self._id_file.write_text(run_id)
        return run_id

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        now = time.time_ns() // 1_000_000
        for key, value in (logs or {}).items():
            if isinstance(value, int | float):
                self._waiting.append(Metric(key, float(value), now, state.global_step))
        due = state.global_step - self._sent_at >= self._interval
        if due or len(self._waiting) >= MOST_METRICS:
            self._send()
            self._sent_at = state.global_step

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._send()  # a resumed training starts here and would not log this again

    def _send(self) -> None:
        while self._waiting:
            part = self._waiting[:MOST_METRICS]
            self._client.log_batch(self.run_id, metrics=part)
            del self._waiting[: len(part)]

    def text(self, step: int, name: str, text: str) -> None:
        """Store a text, such as a sample, with the metrics."""
        self._client.log_text(self.run_id, text, f"samples/step-{step:07d}-{name}.txt")

    def close(self, status: str) -> None:
        """Send the remaining metrics and end the run: FINISHED, KILLED (resumable) or FAILED."""
        self._send()
        self._client.log_batch(self.run_id, tags=[RunTag("terse.status", status.lower())])
        self._client.set_terminated(self.run_id, status)
