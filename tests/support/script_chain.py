"""The scripts of the workflow as modules, and one pass through all of them on real text."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from terse.config import load
from terse.config.workflow import Workflow
from terse.job import weights_of
from terse.machine.signals import StopSignal
from terse.settings.activations import Chunking, Estimation
from terse.training.method import Inputs
from terse.training.train import Conduct, Outputs

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
CONFIG: dict[str, Any] = {
    "corpora": {"docs": {
        "source": "python-docs", "max_dataset_size": 60, "validation_fraction": 0.3,
    }},
    "tokenizers": {"bpe": {"corpus": "docs", "vocab_size": 300}},
    "runs": {"base": {
        "method": "causal-lm", "corpus": "docs", "tokenizer": "bpe", "ctx_len": 48, "d_model": 16,
        "n_layers": 2, "n_heads": 2, "max_steps": 6, "batch_size": 4, "n_grad_loops": 2,
        "max_val_loops": 2, "log_interval": 2, "eval_interval": 3, "checkpoint_steps": [0, 3],
    }},
    "models": {"base": {"run": "base"}, "start": {"run": "base", "step": 0}},
    "activations": {
        "corpus": "docs", "ctx_len": 48, "max_chunks_from_a_document": 2, "max_dataset_size": 12,
        "layer_idx_list": "all", "save_IDs_list": ["mle", "mle_inv"], "batch_size": 8,
        "n_shards": 2,
    },
}  # fmt: skip


def script(name: str) -> ModuleType:
    """Import a script; what it does as a job is not done."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, /, **options: Any) -> Any:
    """Call the function of a script, which has the script's name."""
    return getattr(script(name), name)(**options)


@dataclass(frozen=True)
class Chain:
    """A pass through the workflow: its folder, laid out as the rules do, and its settings."""

    folder: Path
    settings: Workflow

    @property
    def inputs(self) -> Inputs:
        cache = self.folder / "cache"
        return Inputs(
            tokens=cache / "tokens" / "docs" / "bpe.h5",
            documents=cache / "documents" / "docs.parquet",
            tokenizer=cache / "tokenizers" / "bpe",
        )

    @property
    def run(self) -> Path:
        return self.folder / "results" / "runs" / "base"

    def weights(self, model: str) -> tuple[Path, int | None]:
        """Return the folder that the rule gives for a model, and the step in it."""
        step = self.settings.models[model].step
        return self.run / ("model" if step is None else "checkpoints"), step


def make_chain(folder: Path) -> Chain:
    """Run all scripts that compute, each on the outputs of the ones before."""
    chain = Chain(folder, load(CONFIG))
    _make_text(chain)
    _make_run(chain)
    for model in ("start", "base"):
        _measure(chain, model)
    return chain


def _make_text(chain: Chain) -> None:
    inputs, settings = chain.inputs, chain.settings
    assert inputs.documents is not None
    assert inputs.tokenizer is not None
    run_script(
        "collect_corpus",
        corpus=settings.corpora["docs"].params(),
        documents_path=inputs.documents,
        record_path=inputs.documents.with_name("docs.run.json"),
        n_procs=1,
    )
    run_script(
        "train_tokenizer",
        tokenizer=settings.tokenizers["bpe"].model_dump(mode="json"),
        documents_path=inputs.documents,
        folder=inputs.tokenizer,
    )
    run_script(
        "tokenize_corpus",
        documents_path=inputs.documents,
        tokenizer_folder=inputs.tokenizer,
        trust_remote_code=False,
        tokens_path=inputs.tokens,
        n_procs=2,
    )


def _make_run(chain: Chain) -> None:
    run = chain.settings.result_params("base")
    run_script(
        "train_model",
        run=run,
        inputs=Inputs(chain.inputs.tokens, tokenizer=chain.inputs.tokenizer),
        outputs=Outputs(
            chain.run / "model",
            chain.run / "checkpoints",
            chain.run / "history.csv",
            chain.run / "run.json",
        ),
        state_root=chain.folder / "state" / "train",
        conduct=Conduct(name="base", results=chain.folder / "results"),
        signal=StopSignal(),
    )
    run_script(
        "evaluate_run",
        run=run,
        inputs=chain.inputs,
        model_folder=chain.run / "model",
        table_path=chain.run / "evaluation.csv",
        tables_folder=chain.run / "tables",
        record_path=chain.run / "evaluation.run.json",
        device="cpu",
    )


def _measure(chain: Chain, model: str) -> None:
    asked = chain.settings.measure(model)
    chunks = chain.folder / "cache" / "chunks" / f"{model}.h5"
    shards = chain.folder / "cache" / "activations" / model
    run_script(
        "chunk_corpus",
        chunking=asked.block(Chunking),
        tokens_path=chain.inputs.tokens,
        chunks_path=chunks,
    )
    for shard in range(asked.n_shards):
        run_script(
            "cache_activations",
            name=model,
            model=chain.settings.loading_of_model(model),
            capture=asked.capture(),
            model_folder=weights_of(*chain.weights(model)),
            chunks_path=chunks,
            shard_path=shards / f"shard-{shard:05d}.h5",
            shard=shard,
            n_shards=asked.n_shards,
            state_root=chain.folder / "state" / "activations",
            device="cpu",
        )
    ids = chain.folder / "results" / "ids"
    run_script(
        "estimate_dimensions",
        estimation=asked.block(Estimation),
        shards_folder=shards,
        tokenizer_folder=chain.inputs.tokenizer,
        trust_remote_code=False,
        ids_path=ids / f"{model}.csv",
        parquet_path=ids / f"{model}.parquet",
        summary_path=ids / "summary" / f"{model}.csv",
        windows_path=ids / "windows" / f"{model}.csv",
        heavy_path=ids / "heavy-tokens" / f"{model}.csv",
        record_path=ids / f"{model}.run.json",
    )
