"""Models and a dataset of a hub, from their names to their dimensions; then without a network."""

import copy
import io
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hub_server import HubServer
from terse.corpora.stdlib import read_python_docs
from terse.dimension import estimate
from tiny_gguf import tiny_llama, write_gguf
from tiny_workflow import Workflow

pytestmark = pytest.mark.slow

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "vocab_size": 400, "max_position_embeddings": 64,
}  # fmt: skip
CONFIG = {
    "corpora": {"stories": {"source": "hub", "path": "someone/stories", "validation_fraction": 0}},
    "models": {
        "old": {"hub": "someone/tiny", "revision": "step1000", "family": "tiny"},
        "new": {"hub": "someone/tiny", "family": "tiny"},
        "file": {"hub": "someone/tiny-gguf", "gguf": "quantised/tiny.Q8_0.gguf"},
        "tuned": {"hub": "someone/lora", "base": "new"},
        "bert": {
            "hub": "someone/bert",
            "kind": "encoder",
            "activations": {"save_loss": False, "save_entropy": False, "module_outblock_keys": []},
        },
    },
    "activations": {"corpus": "stories", "documents": "all", "ctx_len": 64, "save_fp": "float32",
                    "max_chunks_from_a_document": 2, "save_IDs_list": ["mle"]},
}  # fmt: skip
TARGETS = [f"results/ids/{name}.csv" for name in ("old", "new", "bert", "file", "tuned")]


def texts() -> list[str]:
    pages = (page.text for page in read_python_docs())
    return [page for page, _ in zip((p for p in pages if len(p) > 1500), range(15), strict=False)]


def files_of(model: PreTrainedModel, folder: Path) -> dict[str, bytes]:
    """Return a repository with a model and a tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts(), vocab_size=400, special_tokens=["<s>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<s>")
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tuned(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Save a PEFT adapter of a base; return the model that both are."""
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(copy.deepcopy(base), config)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload().eval()


@pytest.fixture
def models(hub_server: HubServer, tmp_path: Path) -> dict[str, PreTrainedModel]:
    """Fill the hub; return the models that it has, by their names in the config."""
    made: dict[str, PreTrainedModel] = {}
    for seed, name in enumerate(["old", "new", "bert"]):
        torch.manual_seed(seed)
        config = BertConfig(**SIZES) if name == "bert" else LlamaConfig(**SIZES)
        made[name] = BertModel(config) if name == "bert" else LlamaForCausalLM(config)
        made[name].eval()
    hub_server.add("models", "someone/tiny", files_of(made["old"], tmp_path / "m"),
                   revision="step1000")  # fmt: skip
    hub_server.add("models", "someone/tiny", files_of(made["new"], tmp_path / "m"))
    hub_server.add("models", "someone/bert", files_of(made["bert"], tmp_path / "m"))
    out = io.BytesIO()
    made["file"] = tiny_llama()
    gguf = write_gguf(tmp_path / "tiny.gguf", made["file"])
    hub_server.add("models", "someone/tiny-gguf", {"quantised/tiny.Q8_0.gguf": gguf.read_bytes()})
    made["tuned"] = tuned(made["new"], tmp_path / "lora")
    files = {path.name: path.read_bytes() for path in (tmp_path / "lora").iterdir()}
    hub_server.add("models", "someone/lora", files)
    pq.write_table(pa.table({"text": texts()}), out)
    hub_server.add("datasets", "someone/stories", {"data/train-0.parquet": out.getvalue()})
    return made


def test_from_names_to_dimensions(
    models: dict[str, PreTrainedModel], hub_server: HubServer, closed_port: int, tmp_path: Path
) -> None:
    overlay = tmp_path / "hub.yaml"
    overlay.write_text(json.dumps(CONFIG))
    workflow = Workflow(tmp_path, overlay)
    there = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    workflow("-c2", *TARGETS, HF_ENDPOINT=hub_server.url, **there)
    for name, model in models.items():
        with h5py.File(tmp_path / f"cache/chunks/{name}.h5") as file:
            tokens = torch.from_numpy(file["tokens"][:].astype(np.int64))
        with torch.no_grad():
            result = model(tokens, output_hidden_states=True)
        table = pd.read_csv(tmp_path / f"results/ids/{name}.csv")
        block = table.query("module == 'block' and layer == 0").sort_values("row")
        expected = estimate(result.hidden_states[1], ["mle"])["mle"]
        np.testing.assert_allclose(block["id"], expected, rtol=1e-4)
        if name == "bert":
            assert table["loss_nats"].isna().all()
        else:
            logits, after = result.logits[:, :-1].transpose(1, 2), tokens[:, 1:]
            loss = torch.nn.functional.cross_entropy(logits, after, reduction="none").mean(1)
            np.testing.assert_allclose(block["loss_nats"], loss, rtol=1e-4)
    shutil.rmtree(tmp_path / "cache/activations")
    asked = len(hub_server.requests)
    again = [f"results/ids/{name}.csv" for name in ("old", "file", "tuned")]
    workflow("-c2", "--forcerun", "tokenize_corpus", "--", *again,
             HF_ENDPOINT=f"http://127.0.0.1:{closed_port}", **there)  # fmt: skip
    assert len(hub_server.requests) == asked
