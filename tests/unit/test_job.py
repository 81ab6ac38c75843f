"""What every script of the workflow gets around its body: real processes, real log files."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from snakemake.iocontainers import InputFiles, Log, Params, ResourceList, Wildcards
from transformers import GPT2Config, GPT2LMHeadModel

from terse import job
from terse.errors import TerseError
from terse.training.method import Inputs

# A script as Snakemake runs it, around the body in `sys.argv[1]`.
SCRIPT = """
import logging, os, sys, warnings
from types import SimpleNamespace
from snakemake.iocontainers import Log, Params, ResourceList, Wildcards
from terse import job
from terse.errors import TerseError

snakemake = SimpleNamespace(
    rule="train_model",
    wildcards=Wildcards(fromdict={"run": "base", "shard": "00003"}),
    log=Log(["logs/train_model/base.log"]),
    threads=3,
    params=Params(fromdict={"run": {"seed": 7}}),
    resources=ResourceList(fromdict={"gpu": int(os.environ.get("GPU", "0"))}),
    config={},
)
logger = logging.getLogger("terse.somewhere")
with job.logged(snakemake):
    exec(sys.argv[1])
"""


def run_script(body: str, folder: Path, **more: str) -> tuple[int, str, str]:
    """Run a body as a job in `folder`; return its exit status, stderr and log."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, body], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **more}, timeout=120,
    )  # fmt: skip
    return run.returncode, run.stderr, (folder / "logs/train_model/base.log").read_text()


def test_an_unexpected_error_is_one_line_here_and_a_traceback_in_the_log(tmp_path: Path) -> None:
    status, stderr, log = run_script('raise ValueError("two\\nlines")', tmp_path)
    assert status == 1
    assert stderr == (
        "train_model base 00003: ValueError: two lines (log: logs/train_model/base.log)\n"
    )
    assert "Traceback (most recent call last)" in log
    assert "ValueError: two" in log


def test_an_error_of_the_user_is_its_sentence(tmp_path: Path) -> None:
    status, stderr, log = run_script('raise TerseError("lr is 11; allowed: below 10")', tmp_path)
    assert status == 1
    assert stderr == (
        "train_model base 00003: lr is 11; allowed: below 10 (log: logs/train_model/base.log)\n"
    )
    assert "Traceback" in log


def test_a_stopped_job_fails_so_that_it_is_tried_again(tmp_path: Path) -> None:
    status, stderr, _ = run_script('raise job.Stopped("stopped by SIGTERM at step 3")', tmp_path)
    assert status == 1
    assert stderr.startswith("train_model base 00003: stopped by SIGTERM at step 3 (log:")


def test_the_terminal_shows_progress_and_the_log_everything(tmp_path: Path) -> None:
    body = (
        'logger.info("step 1"); logger.debug("detail"); warnings.warn("deprecated")\n'
        'logging.getLogger("other").info("chatter"); logging.getLogger("other").error("fire")'
    )
    status, stderr, log = run_script(body, tmp_path)
    assert status == 0
    assert stderr == "train_model base 00003: step 1\ntrain_model base 00003: fire\n"
    for words in ("step 1", "detail", "deprecated", "chatter", "fire"):
        assert words in log
    _, _, log = run_script('logger.info("second attempt")', tmp_path)
    assert "step 1" in log  # a retry does not erase why the first attempt failed
    assert "second attempt" in log


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import transformers, datasets\n"])
def test_bars_of_libraries_do_not_spoil_what_no_terminal_shows(tmp_path: Path, first: str) -> None:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": 9, "n_positions": 8}
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "m")
    body = (
        "import transformers\n"
        'transformers.AutoModelForCausalLM.from_pretrained("m")\n'
        "import datasets\n"
        'datasets.Dataset.from_dict({"a": [1]}).map(lambda row: row, load_from_cache_file=False)'
    )
    command = [sys.executable, "-c", first + SCRIPT, body]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""


@pytest.mark.parametrize("first", ["", "import transformers\n"])
def test_a_job_tries_no_network_unless_it_is_its_work(tmp_path: Path, first: str) -> None:
    body = (
        "import huggingface_hub\n"
        "logger.info(huggingface_hub.is_offline_mode())\n"
        'huggingface_hub.HfApi().model_info("a/b")'
    )
    for network, said in (("", "True"), (", network=True", "False")):
        script = first + SCRIPT.replace("logged(snakemake)", f"logged(snakemake{network})")
        run = subprocess.run(
            [sys.executable, "-c", script, body], cwd=tmp_path, capture_output=True, text=True,
            timeout=120, env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
        )  # fmt: skip
        lines = run.stderr.splitlines()
        assert lines[0] == f"train_model base 00003: {said}"
        assert ("OfflineModeIsEnabled" in lines[-1]) == (said == "True")


def test_threads_and_seeds_are_set_before_the_body(tmp_path: Path) -> None:
    body = "import random\nlogger.info(f'{os.environ[\"OMP_NUM_THREADS\"]} {random.random()}')"
    _, stderr, _ = run_script(body, tmp_path)
    assert stderr == f"train_model base 00003: 3 {random.Random(7).random()}\n"


def test_threads_that_wait_do_not_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "VERBOSE")  # OpenMP prints what it found when it starts
    _, stderr, _ = run_script("import torch", tmp_path)
    assert "GOMP_SPINCOUNT = '0'" in stderr


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), float(torch.rand(()))]


def test_seeds_repeat_and_differ() -> None:
    job.seed_all(3)
    first = draws()
    job.seed_all(3)
    assert draws() == first
    job.seed_all(4)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    job.seed_all(2**40)  # NumPy takes 32 bits


@pytest.mark.parametrize(
    ("params", "seed"),
    [
        ({"run": {"lr": 1e-3, "seed": 5}, "stage": {"stage_version": 1}}, 5),
        ({"seed": 6}, 6),
        ({"chunking": {"ctx_len": 3}, "n_shards": 2}, 0),
        ({}, 0),
    ],
)
def test_the_seed_is_found_in_the_params_of_a_rule(params: dict[str, Any], seed: int) -> None:
    assert job._seed(Params(fromdict=params)) == seed


STOPPABLE = """
import sys, time
from terse.machine.signals import StopSignal
signal = StopSignal().install()
assert not signal.requested
print("ready", flush=True)
while not signal.requested:
    time.sleep(0.01)
time.sleep(0.3)
print("saved after", signal.name, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_lets_the_work_save(number: signal.Signals) -> None:
    command = [sys.executable, "-c", STOPPABLE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)  # schedulers are impatient
    rest, _ = process.communicate(timeout=30)
    assert rest == f"saved after {number.name}\n"
    assert process.returncode == 0


def resources(gpu: int | None, **config: Any) -> SimpleNamespace:
    promised = ResourceList(fromdict={} if gpu is None else {"gpu": gpu})
    return SimpleNamespace(resources=promised, config=config)


@pytest.mark.parametrize("gpu", [0, None])
def test_a_job_without_gpus_sees_none(gpu: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert job.device(resources(gpu)) == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("gres", "count"),
    [("gpu", 1), ("gpu:2", 2), ("gpu:a100", 1), ("gpu:a100:2", 2), ("gpu:h100_1g.10gb:2", 2)],
)
def test_gpus_may_be_promised_in_every_spelling_of_slurm(
    gres: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    promised = ResourceList(fromdict={"gpu": 0, "gres": gres})
    asked = SimpleNamespace(resources=promised, config={})
    with pytest.raises(TerseError, match=rf"^{count} GPU\(s\) promised to this job, SLURM gave 0"):
        job.device(asked)


def test_another_gres_is_no_gpu() -> None:
    promised = ResourceList(fromdict={"gpu": 0, "gres": "nvme:100"})
    assert job.device(SimpleNamespace(resources=promised, config={})) == "cpu"


def test_a_promised_gpu_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    path = {"PATH": str(tmp_path), "GPU": "1", "TMPDIR": str(tmp_path), "SLURM_JOB_ID": ""}
    body = 'os.environ.pop("SLURM_JOB_ID"); job.device(snakemake)'
    status, stderr, _ = run_script(body, tmp_path, **path)
    assert status == 1
    assert "base 00003: 1 GPU(s) promised to this job, 0 on this machine (log:" in stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA starts here")
def test_a_gpu_on_which_cuda_does_not_start_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(TerseError, match=r"1 GPU\(s\) promised to this job, CUDA finds 0"):
        job.device(resources(1))


def test_a_rehearsal_computes_on_the_cpu_with_the_gpus_that_slurm_gave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert job.device(resources(1, compute="cpu")) == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    with pytest.raises(TerseError, match=r"2 GPU\(s\) promised to this job, SLURM gave 1"):
        job.device(resources(2, compute="cpu"))


def test_fewer_devices_than_processes_is_a_sentence() -> None:
    """`resources: [gpu=1]` of a profile silently reduces what a rule requests."""
    with pytest.raises(TerseError, match=r"requests 2 processes, this job has 1 device\(s\) on 1"):
        job.spread(resources(1), 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_promised_gpu_is_the_only_one_that_is_seen(tmp_path: Path) -> None:
    body = (
        "import torch\n"
        "name = job.device(snakemake)\n"
        "logger.info(f'{name} {torch.cuda.device_count()} {torch.ones(2, device=name).sum()}')"
    )
    status, stderr, _ = run_script(body, tmp_path, GPU="1", TMPDIR=str(tmp_path))
    assert (status, "cuda 1 2.0" in stderr) == (0, True), stderr


@pytest.mark.parametrize(("base_step", "weights"), [(None, ""), (0, "step-0"), (7, "step-7")])
def test_the_inputs_of_a_run_are_the_ones_that_its_rule_has(
    tmp_path: Path, base_step: int | None, weights: str
) -> None:
    params = Params(fromdict={"base_step": base_step})
    files = InputFiles(fromdict={
        "tokens": "cache/tokens/c/t.h5", "documents": [], "base": str(tmp_path),
        "tokenizer": "cache/tokenizers/t/tokenizer.json",
    })  # fmt: skip
    found = job.run_inputs(SimpleNamespace(input=files, params=params), Inputs)
    assert found == Inputs(
        tokens=Path("cache/tokens/c/t.h5"),
        base=tmp_path / weights,
        tokenizer=Path("cache/tokenizers/t"),
    )


def test_a_tokenizer_may_be_the_folder_of_a_model(tmp_path: Path) -> None:
    files = InputFiles(fromdict={"tokenizer": str(tmp_path)})
    snakemake = SimpleNamespace(input=files, params=Params(fromdict={"base_step": None}))
    assert job.run_inputs(snakemake, Inputs) == Inputs(tokenizer=tmp_path)


def test_a_job_without_a_log_file(capsys: pytest.CaptureFixture[str]) -> None:
    snakemake = SimpleNamespace(
        rule="plot_run", wildcards=Wildcards(), log=Log(), threads=1, params=Params()
    )
    with pytest.raises(SystemExit) as ended, job.logged(snakemake):
        raise TerseError("no such run")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "plot_run: no such run\n"
