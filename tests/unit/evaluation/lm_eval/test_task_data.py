"""Tasks' data are downloaded once, by a job with a network; scoring needs none."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_server import HubServer

TASK = """
task: from_hub
dataset_path: someone/questions
output_type: multiple_choice
test_split: train
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
DOWNLOAD = """
from pathlib import Path
from terse.artifacts import atomic_folder
from terse.evaluation.lm_eval.harness import download_tasks
from terse.settings.harness import Harness
with atomic_folder(Path({folder!r})) as partial:
    download_tasks(Harness(tasks=[{task!r}]), partial)
"""
SCORE = """
from pathlib import Path
from lm_eval.models.dummy import DummyLM
from terse.evaluation.lm_eval.harness import run_tasks, use_data
from terse.settings.harness import Harness
use_data(Path({folder!r}))
print(run_tasks(DummyLM(), Harness(tasks=[{task!r}]), None)["n"].iloc[0])
"""


@pytest.mark.slow
def test_data_are_fetched_once_and_read_offline(
    hub_server: HubServer, run_python: Callable[..., str], closed_port: int, tmp_path: Path
) -> None:
    rows = [{"question": f"is {i} even?", "answer": i % 2} for i in range(6)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    hub_server.add("datasets", "someone/questions", {"train.jsonl": lines})
    (tmp_path / "from_hub.yaml").write_text(TASK)
    names = {"folder": str(tmp_path / "task_data"), "task": str(tmp_path / "from_hub.yaml")}
    nowhere = f"http://127.0.0.1:{closed_port}"
    run_python(DOWNLOAD.format(**names), hub_server.url)
    said = run_python(SCORE.format(**names), nowhere, HF_HUB_OFFLINE="1")
    assert said.splitlines()[-1] == "6"
