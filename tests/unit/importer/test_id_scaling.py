"""`terse import` of ID_scaling's `default_config`, as Python, YAML and JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from terse.config import load
from terse.importer import import_file

MAPPING = {
    "mlp": "model.layers.{layer}.mlp", "attn": "model.layers.{layer}.self_attn",
    "block": "model.layers.{layer}", "emb": "model.embed_tokens", "unemb": "model.norm",
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "session_name": "My test", "session_path": "/data/experiments/test",
    "model_config": {
        "model_name": "llama-7b", "model_checkpoint": "main", "use_accelerator": False,
        "module_name_mapping": MAPPING,
    },
    "dataset_config": {
        "dataset_name": "pile_uncopyrighted_parquet_test", "dataset_subset": [0],
        "max_dataset_size": 1000,
        "filter_and_chunk_config": {
            "min_chunks_from_a_document": 5, "max_chunks_from_a_document": 5,
        },
    },
    "ctx_len": 1024, "batch_size": 2,
    "cacheing_config": {
        "layer_idx_list": [0, 1, 2, 5], "module_inblock_keys": ["mlp", "attn", "block"],
        "module_outblock_keys": ["unemb"], "save_fp": "torch.float16", "save_cache_tensors": True,
        "save_mean_tensors": True, "save_IDs": True,
        "save_IDs_list": ["mle", "mind_ml", "twoNN_f10"],
    },
    "multiprocessing": True, "multiprocessing_num_cpus": 20, "verbose": True,
}  # fmt: skip
MOVED = {
    "session_name", "session_path", "model_name", "model_checkpoint", "use_accelerator",
    "dataset_name", "dataset_subset", "multiprocessing", "multiprocessing_num_cpus", "verbose",
}  # fmt: skip


def written(folder: Path, content: dict[str, Any], suffix: str = ".json") -> Path:
    path = folder / f"default_config{suffix}"
    texts = {
        ".json": json.dumps(content), ".yaml": yaml.safe_dump(content),
        ".py": f"default_config = {content!r}",
    }  # fmt: skip
    path.write_text(texts[suffix])
    return path


@pytest.mark.parametrize("suffix", [".py", ".yaml", ".json"])
def test_every_key_has_its_place(suffix: str, tmp_path: Path) -> None:
    overlay = import_file(written(tmp_path, CONFIG, suffix))
    assert overlay.unknown == {}
    assert set(overlay.notes) == MOVED
    workflow = load(yaml.safe_load(overlay.text()) | {"activations": {"corpus": "python-docs"}})
    assert workflow.select.ids == ["my-test"]
    model, measured = workflow.models["my-test"], workflow.measure("my-test")
    assert (model.hub, model.revision) == ("meta-llama/Llama-2-7b-hf", "main")
    assert (measured.corpus, measured.documents) == ("pile-test", "all")
    assert (measured.save_fp, measured.module_name_mapping) == ("float16", MAPPING)
    flat = CONFIG["cacheing_config"] | CONFIG["dataset_config"]["filter_and_chunk_config"]
    for key, value in flat.items():
        assert key == "save_fp" or getattr(measured, key) == value, key
    assert (measured.ctx_len, measured.batch_size, measured.max_dataset_size) == (1024, 2, 1000)
    assert (workflow.n_data_procs, workflow.roots.results) == (20, "results")


@pytest.mark.parametrize("subset", [[1, 3], 2, "meta.set=a"])
def test_a_part_of_a_named_corpus_is_a_corpus(subset: Any, tmp_path: Path) -> None:
    dataset = {"dataset_name": "pile_uncopyrighted_parquet_test", "dataset_subset": subset}
    overlay = import_file(written(tmp_path, CONFIG | {"dataset_config": dataset}))
    (name,) = overlay.config["corpora"]
    assert overlay.config["models"]["my-test"]["activations"]["corpus"] == name
    workflow = load(yaml.safe_load(overlay.text()) | {"activations": {"corpus": "python-docs"}})
    assert workflow.corpora[name].dataset_subset == subset
    assert workflow.corpora[name].path == "monology/pile-uncopyrighted"


def test_a_spread_model_and_an_unknown_key(tmp_path: Path) -> None:
    model = {"model_name": "pythia-70m", "use_accelerator": True, "load_in_9bit": True}
    overlay = import_file(written(tmp_path, CONFIG | {"model_config": model}))
    made = overlay.config["models"]["my-test"]
    assert (made["hub"], made["device_map"]) == ("EleutherAI/pythia-70m", "auto")
    assert set(overlay.unknown) == {"load_in_9bit"}
