"""Downloads of models through huggingface_hub itself, from a local hub."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

REPO = "someone/tiny"


BLOCK = 10 << 20  # bytes that the client writes at a time
LONG = random.Random(0).randbytes(BLOCK * 5 // 2)
CUT = BLOCK * 3 // 2


def files_of(**changes: bytes | None) -> dict[str, bytes]:
    """A repository as they are: two formats of the weights, other things, folders."""
    files = {
        "config.json": b'{"model_type": "llama"}',
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b"{}",
        "model.safetensors": bytes(range(256)) * 4000,
        "pytorch_model.bin": b"pickle" * 1000,
        "pytorch_model.bin.index.json": b"{}",
        "README.md": b"read me",
        ".gitattributes": b"*",
        "tf_model.h5": b"h5",
        "modeling_tiny.py": b"raise SystemExit",
        "onnx/model.onnx": b"onnx",
        "original/consolidated.00.pth": b"pth",
        "original/params.json": b"{}",
    }
    return {name: data for name, data in {**files, **changes}.items() if data is not None}


KEPT = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
    "download.json",
}


def code(folder: Path, revision: str = "main", options: str = "") -> str:
    return (
        "from pathlib import Path\n"
        "from terse.hub.download import download_model\n"
        f"print(download_model({REPO!r}, {revision!r}, Path({str(folder)!r}){options})['commit'])"
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_what_is_needed_and_whole(tmp_path, hub_server, run_python):
    files = files_of()
    commit = hub_server.add("models", REPO, files)
    folder = tmp_path / "tiny"
    assert run_python(code(folder), hub_server.url) == commit
    assert names(folder) == KEPT
    for name in KEPT - {"download.json"}:
        assert (folder / name).read_bytes() == files[name]
    marker = json.loads((folder / "download.json").read_text())
    assert marker["hub_id"] == REPO
    assert marker["files"] == {name: len(files[name]) for name in KEPT - {"download.json"}}
    assert names(tmp_path) <= {"tiny", "hf"}
    assert hub_server.unknown == []

    before = len(hub_server.asked_for("model.safetensors"))
    assert run_python(code(folder), hub_server.url) == commit  # nothing is fetched again
    assert len(hub_server.asked_for("model.safetensors")) == before == 2  # redirect, content


def test_bin_where_there_is_no_safetensors_and_code_where_it_is_trusted(
    tmp_path, hub_server, run_python
):
    hub_server.add("models", REPO, files_of(**{"model.safetensors": None}))
    run_python(code(tmp_path / "tiny", options=", trust_remote_code=True"), hub_server.url)
    assert names(tmp_path / "tiny") == KEPT - {"model.safetensors"} | {
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "modeling_tiny.py",
    }


def test_a_repository_without_weights_says_so(tmp_path, hub_server, run_python):
    hub_server.add("models", REPO, {"config.json": b"{}"})
    said = run_python(code(tmp_path / "tiny"), hub_server.url)
    assert said == f"TerseError: model {REPO} has no readable weights (safetensors or .bin)"
    assert not (tmp_path / "tiny").exists()


def test_two_revisions(tmp_path, hub_server, run_python):
    old = hub_server.add("models", REPO, files_of(), revision="step1000")
    new = hub_server.add("models", REPO, files_of(**{"model.safetensors": b"new" * 9}))
    folder = tmp_path / "tiny"
    assert run_python(code(folder, "step1000"), hub_server.url) == old
    assert (folder / "model.safetensors").stat().st_size == 1_024_000
    (tmp_path / "other").mkdir()  # an empty folder is no obstacle
    assert run_python(code(tmp_path / "other"), hub_server.url) == new
    assert run_python(code(folder), hub_server.url) == new  # and a folder changes as a whole
    assert (folder / "model.safetensors").read_bytes() == b"new" * 9


def test_a_model_that_transformers_loads(tmp_path, hub_server, run_python):
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    hub_server.add(
        "models",
        REPO,
        {
            "config.json": config.to_json_string().encode(),
            "model.safetensors": save(weights, {"format": "pt"}),
        },
    )
    run_python(code(tmp_path / "tiny"), hub_server.url)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny", local_files_only=True)
    inputs = torch.arange(6)[None]
    torch.testing.assert_close(loaded(inputs).logits, model.eval()(inputs).logits)


def test_a_transfer_that_breaks_once_goes_on_by_itself(tmp_path, hub_server, run_python):
    files = files_of(**{"model.safetensors": LONG})
    hub_server.add("models", REPO, files)
    hub_server.break_transfers("model.safetensors", [CUT])
    run_python(code(tmp_path / "tiny"), hub_server.url)
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == files["model.safetensors"]
    ranges = [r.range for r in hub_server.asked_for("model.safetensors") if "/store/" in r.path]
    assert ranges == [None, f"bytes={BLOCK}-"]


def test_a_killed_transfer_goes_on_in_the_next_process(tmp_path, hub_server, run_python):
    files = files_of(**{"model.safetensors": LONG})
    hub_server.add("models", REPO, files)
    hub_server.break_transfers("model.safetensors", [CUT])
    killing = (
        "import os, time\n"
        "time.sleep = lambda seconds: (print('killed', flush=True), os._exit(0))\n"
    )  # the client sleeps before it tries again: killed with a block on the disk
    folder = tmp_path / "tiny"
    assert run_python(killing + code(folder), hub_server.url) == "killed"
    assert not folder.exists()
    assert run_python(code(folder), hub_server.url)
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    ranges = [r.range for r in hub_server.asked_for("model.safetensors") if "/store/" in r.path]
    assert ranges == [None, f"bytes={BLOCK}-"]
    assert len(hub_server.asked_for("config.json")) == 1  # it was there already
    assert names(tmp_path) <= {"tiny", "hf"}


def test_a_transfer_that_stays_broken_is_an_error_and_publishes_nothing(
    tmp_path, hub_server, run_python
):
    hub_server.add("models", REPO, files_of())
    hub_server.break_transfers("model.safetensors", [0] * 20)
    quick = "import time\ntime.sleep = lambda seconds: None\n"
    said = run_python(quick + code(tmp_path / "tiny"), hub_server.url)
    assert said.startswith(f"TerseError: the transfer of model {REPO} broke off (")
    assert said.endswith("run this again, it resumes from there")
    assert "\n" not in said
    assert not (tmp_path / "tiny").exists()


def test_damaged_bytes_are_noticed(tmp_path, hub_server, run_python):
    hub_server.add("models", REPO, files_of())
    for name in ("config.json", "model.safetensors"):  # by git's digest, by SHA-256
        hub_server.damaged = {name}
        said = run_python(code(tmp_path / "tiny"), hub_server.url)
        assert said == f"TerseError: {name} of model {REPO} arrived damaged; run this again"
    hub_server.damaged = set()
    assert not (tmp_path / "tiny").exists()
    assert run_python(code(tmp_path / "tiny"), hub_server.url)


def test_a_damaged_download_is_not_taken_for_whole(tmp_path, hub_server, run_python):
    files = files_of()
    hub_server.add("models", REPO, files)
    folder = tmp_path / "tiny"
    run_python(code(folder), hub_server.url)
    (folder / "model.safetensors").write_bytes(b"cut")
    said = run_python(code(folder), hub_server.url)
    assert said == f"TerseError: {folder} holds files of no complete download; move it away"
    assert (folder / "model.safetensors").read_bytes() == b"cut"


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (None, "set HF_TOKEN to a token of your account"),
        ("hf_stranger", "your token has no access to it; request access on its page on the hub"),
    ],
)
def test_a_gated_model(tmp_path, hub_server, run_python, token, sentence):
    hub_server.add("models", REPO, files_of(), gated=True)
    environment = {"HF_TOKEN": token} if token else {}
    said = run_python(code(tmp_path / "tiny"), hub_server.url, **environment)
    assert said.startswith(f"TerseError: model {REPO} is gated")
    assert said.endswith(sentence)
    assert not (tmp_path / "tiny").exists()
    assert run_python(code(tmp_path / "tiny"), hub_server.url, HF_TOKEN="hf_good")
    assert run_python(code(tmp_path / "two", options=", token='hf_good'"), hub_server.url)


def test_a_token_that_the_hub_does_not_know(tmp_path, hub_server, run_python):
    hub_server.add("models", REPO, files_of())
    said = run_python(code(tmp_path / "tiny"), hub_server.url, HF_TOKEN="hf_bad")
    assert said == ("TerseError: the hub does not know the given token; correct HF_TOKEN")


def test_what_is_missing_is_named(tmp_path, hub_server, run_python):
    hub_server.add("models", REPO, files_of())
    said = run_python(code(tmp_path / "tiny", "step7"), hub_server.url)
    assert said == f"TerseError: model {REPO} has no revision 'step7'"
    hub_server.repositories.clear()
    for environment in ({}, {"HF_TOKEN": "hf_good"}):
        said = run_python(code(tmp_path / "tiny"), hub_server.url, **environment)
        assert said.startswith(f"TerseError: there is no model {REPO} on the hub, or it is private")
    assert not (tmp_path / "tiny").exists()


def test_no_network(tmp_path, closed_port, run_python):
    url = f"http://127.0.0.1:{closed_port}"
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        said = run_python(code(tmp_path / "tiny"), url, **environment)
        assert said.startswith(f"TerseError: cannot reach the hub at {url} for model {REPO} (")
        assert said.endswith("run this on a machine with a network")
        assert "\n" not in said
    assert not (tmp_path / "tiny").exists()
