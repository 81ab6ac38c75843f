"""What jobs ask for, from the size of the model and the way it is trained."""

from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from terse.config import Workflow, load
from terse.config.resources import (
    allocation,
    capture_min,
    model_mem_mb,
    model_parameters,
    run_parameters,
    training_mem_mb,
    training_min,
)
from terse.errors import TerseError

RUN = {
    "method": "causal-lm", "corpus": "python-docs", "tokenizer": "bpe", "max_steps": 10,
    "checkpoint_steps": [0], "d_model": 48, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2,
    "h_mult": 2.5, "batch_size": 6, "n_grad_loops": 4,
}  # fmt: skip
BASED = {
    "method": "causal-lm", "corpus": "python-docs", "max_steps": 10, "checkpoint_steps": [0],
}  # fmt: skip


def workflow(
    models: dict[str, Any] | None = None,
    activations: dict[str, Any] | None = None,
    compute: str = "cuda",
    **run: Any,
) -> Workflow:
    more = {"more": BASED | {"base": "base"}, "tuned": BASED | {"base": "hub"}}
    return load({
        "tokenizers": {"bpe": {"corpus": "python-docs", "vocab_size": 300}},
        "runs": {"base": RUN | run, **more},
        "models": {"hub": {"hub": "EleutherAI/pythia-410m-deduped"}, "ours": {"run": "base"},
                   **(models or {})},
        "activations": activations, "compute": compute,
    })  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=300, hidden_size=48, intermediate_size=120, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    settings = workflow(tie_embeddings=tied)
    assert run_parameters(settings, "base") == model.num_parameters() - norms
    for same in (run_parameters(settings, "more"), model_parameters(settings, "ours")):
        assert same == run_parameters(settings, "base")


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("EleutherAI/pythia-410m-deduped", 410_000_000),
        ("meta-llama/Llama-2-7b-hf", 7_000_000_000),
        ("Qwen/Qwen2.5-0.5B", 500_000_000),
        ("openai-community/gpt2", None),
    ],
)
def test_a_hub_model_tells_its_size_by_its_name(name: str, n: int | None) -> None:
    assert model_parameters(workflow({"other": {"hub": name}}), "other") == n


def test_memory_grows_with_the_model_and_with_each_attempt() -> None:
    settings = workflow({"large": {"hub": "meta-llama/Llama-2-7b-hf", "dtype": "float16"}})
    assert model_mem_mb(settings, "large", 1) >= 4000 + 2 * 14_000
    assert model_mem_mb(settings, "large", 3) == 2 * model_mem_mb(settings, "large", 1)
    assert training_mem_mb(settings, "tuned", 1) >= 16 * 410
    assert training_mem_mb(settings, "base", 3) == 2 * training_mem_mb(settings, "base", 1)


def test_memory_of_a_training_grows_with_its_processes() -> None:
    wide = {"n_layers": 40, "d_model": 2048, "n_heads": 16, "n_kv_heads": 16}
    n = run_parameters(workflow(**wide), "base")
    assert n is not None
    one, four = (training_mem_mb(workflow(**wide, gpu=gpu), "base", 1) for gpu in (1, 4))
    assert four - one >= 3 * (4000 + 4 * n / 1e6) - 1  # each reads the weights
    assert four < 4 * one
    rehearsed = training_mem_mb(workflow(**wide, gpu=4, compute="cpu"), "base", 1)
    assert rehearsed >= 4 * 16 * n / 1e6  # gradients and moments lie in main memory


def test_time_grows_with_the_work_and_with_each_attempt() -> None:
    gpu = {"gpu": 1, "n_layers": 40, "d_model": 2048, "n_heads": 16, "n_kv_heads": 16}
    settings = workflow(**gpu, ctx_len=1024, max_steps=50_000)
    n = run_parameters(settings, "base")
    assert n is not None
    # 6 N T, at 10 TFLOP/s.
    minutes = 6 * n * 1024 * 24 * 50_000 / 1e13 / 60
    assert minutes > 1440
    assert training_min(settings, "base", 1) == 1440  # more, and partitions leave it waiting
    short = workflow(**gpu, ctx_len=1024, max_steps=100)
    assert training_min(short, "base", 1) == 60 + int(minutes / 500)
    assert training_min(short, "base", 3) == 3 * training_min(short, "base", 1)
    assert training_min(
        workflow({"other": {"hub": "gpt2"}}), "tuned", 1
    ) == 60 + 6 * 410_000_000 * (256 * 8 * 10) // (6 * 10**11)


def test_many_steps_of_a_tiny_model_take_their_time() -> None:
    tiny = {"ctx_len": 256, "d_model": 8, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1,
            "batch_size": 1}  # fmt: skip
    few, many = (training_min(workflow(**tiny, max_steps=n), "base", 1) for n in (10, 600_000))
    assert many - few >= 500


def test_time_of_a_shard_follows_its_contexts() -> None:
    measured = {"corpus": "python-docs", "ctx_len": 256, "max_dataset_size": 1000}
    large = {"hub": "meta-llama/Llama-2-7b-hf", "dtype": "float16", "gpu": 1}

    def asked(attempt: int = 1, **activations: Any) -> int:
        return capture_min(workflow({"large": large}, measured | activations), "large", attempt)

    whole = 2 * 7e9 * 256 * 5001 / 1e13 / 60
    assert asked() == 60 + int(whole)
    assert 60 + whole / 10 <= asked(n_shards=10) + 1 < asked()
    assert asked(2) == 2 * asked()
    assert asked(max_dataset_size=None) == 480  # who knows


def test_devices_are_told_by_job_on_one_node_and_by_node_on_several() -> None:
    def asked(**run: Any) -> list[Any]:
        return list(allocation(workflow(**run), "base").values())

    assert asked() == [0, None, None, None]
    assert asked(gpu=4) == [4, 1, None, None]
    assert asked(gpu=4, nodes=2) == [None, 2, "gpu:4", None]
    assert asked(nodes=2) == [0, 2, None, 2]


@pytest.mark.parametrize(
    ("n", "share"), [(1, (6, 4)), (2, (6, 2)), (4, (6, 1)), (8, (3, 1)), (3, (2, 4)), (24, (1, 1))]
)
def test_processes_share_the_rows_of_a_step(n: int, share: tuple[int, int]) -> None:
    settings = workflow().runs["base"]
    assert settings.share(n) == share
    assert n * share[0] * share[1] == 6 * 4


@pytest.mark.parametrize(("gpu", "nodes"), [(5, 1), (8, 2)])
def test_rows_that_cannot_be_shared_evenly_are_refused(gpu: int, nodes: int) -> None:
    with pytest.raises(TerseError, match=r"runs.base: \d+ processes can't share batch_size 6 x"):
        workflow(gpu=gpu, nodes=nodes)


def test_how_many_processes_train_changes_no_params() -> None:
    assert workflow(gpu=2, nodes=2).result_params("base") == workflow().result_params("base")
