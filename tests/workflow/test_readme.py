"""The README's commands, as a reader types them, in a checkout with the tiny configuration.

The checkout is a copy of this repository around a finished tiny workflow, with
`tests/config/tiny.yaml` written into its default configuration, so that each command does in
seconds what the README says of it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hub_server import HubServer
from terse.config import read_yaml
from terse.corpora.stdlib import read_python_docs
from tiny_workflow import ROOT, TINY, Workflow

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
# A test can't run the tests: `.ci/run` runs this one.
RUN_BY_CI = {"make test"}
# What needs a machine that is not here is planned only: the cluster's own tests run the profile.
PLANNED_ONLY = {"snakemake --profile profiles/slurm all"}
ACTIVATE = "source .venv/bin/activate"
OWN = "snakemake -c2 --configfile my.yaml -- results/ids/gpt2.csv results/ids/here.csv"
# What a command prints; a plan of jobs unless the results are there already.
SAYS = {
    "make run": "results/report.html",
    "snakemake -n": "Nothing to be done",
    "snakemake -c2 results/ids/base.csv": "Nothing to be done",
    "snakemake -n results/ids/llama-7b.csv": "rule download_model",
    "snakemake --profile profiles/gpu all": "Nothing to be done",
    "snakemake --profile profiles/slurm all": "Nothing to be done",
    "snakemake -c2 --report results/report.html --report-after-run": "Report created",
    "snakemake --dag mermaid-js": "flowchart",
}
WORKFLOW = ["Snakefile", "Makefile", "rules", "workflow", "config", "profiles", "README.md"]


def commands() -> list[str]:
    """Return each command of the README's shell blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0].strip() for line in "".join(blocks).splitlines()]
    return [line for line in lines if line]


def test_each_command_of_the_readme_has_its_test() -> None:
    assert {*commands()} == {*SAYS, *RUN_BY_CI, ACTIVATE, OWN}
    assert all(command in (ROOT / ".ci" / "run").read_text().splitlines() for command in RUN_BY_CI)


@pytest.fixture(scope="module")
def checkout(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with its environment, set up and with all results there."""
    folder = tmp_path_factory.mktemp("readme") / "terse"
    shutil.copytree(finished.folder, folder, symlinks=True)
    for name in WORKFLOW:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    config = read_yaml(ROOT / "config" / "config.yaml")
    update_config(config, read_yaml(TINY))
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def typed(command: str, folder: Path, **environment: str) -> str:
    """Return what a command prints that is typed in the folder once the environment is active."""
    run = subprocess.run(
        ["bash", "-ec", f"{ACTIVATE}\n{command}"], cwd=folder, text=True, timeout=600,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    return run.stdout


@pytest.mark.parametrize("command", SAYS)
def test_command_of_the_readme(command: str, checkout: Path) -> None:
    report = checkout / "results" / "report.html"
    made_anew = "report" in SAYS[command].lower()
    if made_anew:
        report.unlink()
    # `-o setup`: it is `.ci/run` that installs, where nothing is installed yet.
    words = command.replace("make run", "make -o setup run")
    out = typed(f"{words} -n" if command in PLANNED_ONLY else words, checkout)
    assert SAYS[command] in out
    assert report.exists()


def published(model: PreTrainedModel, folder: Path, texts: list[str]) -> Path:
    """Save a model and a tokenizer trained on the texts; return the folder."""
    model.save_pretrained(folder)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=400, special_tokens=["<s>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<s>").save_pretrained(
        folder
    )
    return folder


def test_own_text_and_models_of_the_readme(
    checkout: Path, hub_server: HubServer, tmp_path: Path
) -> None:
    """README's `my.yaml`: a folder of texts, a model from the hub, one in a folder."""
    pages = [page.text for page in read_python_docs() if len(page.text) > 6000][:4]
    (checkout / "my-texts" / "deep").mkdir(parents=True)
    for i, page in enumerate(pages):
        (checkout / "my-texts" / "deep" / f"{i}.txt").write_text(page)
    block = re.search(r"^```yaml\n# my\.yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert block is not None
    (checkout / "my.yaml").write_text(block[1])
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=400, **ends))
    files = published(gpt2, tmp_path / "gpt2", pages).iterdir()
    hub_server.add("models", "openai-community/gpt2", {f.name: f.read_bytes() for f in files})
    llama = LlamaConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
        vocab_size=400, max_position_embeddings=64,
    )  # fmt: skip
    published(LlamaForCausalLM(llama), checkout / "my-llama", pages)
    hub = {"HF_ENDPOINT": hub_server.url, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    typed(OWN, checkout, HF_HOME=str(tmp_path / "hf"), **hub)
    for name, layers in {"gpt2": {0, 1}, "here": {0, 1, 2}}.items():
        lines = (checkout / "results" / "ids" / f"{name}.csv").read_text().splitlines()
        place = lines[0].split(",").index("layer")
        found = {line.split(",")[place] for line in lines[1:]} - {""}
        assert {int(float(layer)) for layer in found} == layers
