"""`terse import` of a Python file with an `exp_config`: both published forms, two stages."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from terse.config import load
from terse.errors import TerseError
from terse.importer import import_file

BASE = '''
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional

@dataclass
class Level:
    dim: int = 64
    heads: int = 4
    window: int = 32
    num_encoder_layers: int = 2
    encoder_ffn_dim_multiplier: int = 4
    max_seq_len_encoder: int = 4096
    num_queries: int = 1
    codebook_size: int = 1024
    beta: float = 1.0
    entropy_delta: float = 0.3
    entropy_abs_threshold: Optional[float] = None
    target_compression_ratio: Optional[List[float]] = field(default_factory=lambda: [0.25])
    compression_loss_weight: float = 1.0

@dataclass
class Top:
    embed_dim: int = 64
    dim: int = 128
    num_layers: int = 3
    num_heads: int = 4
    ffn_dim_multiplier: int = 4
    continuous: bool = True

@dataclass
class Config:
    run_name: str = "My Run_v2"
    project_name: str = "P"
    num_levels: int = 1
    initial_vocab_size: int = 259
    compressor_level_configs: List[Level] = field(default_factory=lambda: [Level()])
    expander_dim_scale: float = 1.0
    expander_num_enc_layers: int = 2
    expander_num_dec_layers: int = 3
    expander_heads_scale: float = 1.0
    expander_eos_id: int = 1
    expander_max_len: int = 512
    use_decoder_only_expander: bool = True
    propagate_key_padding_mask: bool = True
    aux_lm_loss_weight: float = 0.7
    top_lm_loss_weight: float = 0.2
    top_transformer_config: Optional[Top] = field(default_factory=Top)
    learning_rate: float = 1e-4
    batch_size: int = 16
    sequence_length: int = 1024
    num_epochs: int = 1
    max_steps: Optional[int] = None
    log_interval: int = 5
    gradient_clip_norm: float = 0.5
    gradient_accumulation_steps: int = 4
    scheduler_type: str = "cosine_with_min_lr"
    warmup_steps: int = 100
    scheduler_specific_kwargs: Dict[str, Any] = field(default_factory=lambda: {"min_lr": 1e-6})
    dataset_name: str = "HuggingFaceFW/fineweb-edu"
    dataset_config: Optional[str] = "sample-10BT"
    dataset_train_split: str = "train"
    text_column_name: str = "text"
    generation_interval: int = 50
    sample_prompt_for_generation: str = "The purpose "
    generation_max_len_override: int = 64
    checkpoint_interval: int = 1000
    checkpoint_dir: str = "./checkpoints"
    resume_from_checkpoint: Optional[str] = None
    save_base_components_path: Optional[str] = None
    load_base_from: Optional[str] = None
    use_continuous_expander_inputs: bool = False
    mlflow_batch_interval: int = 20

exp_config = Config()
'''  # fmt: skip


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / "configs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def loaded(path: Path) -> Any:
    return load(yaml.safe_load(import_file(path).text()))


def test_every_key_of_the_published_base_has_its_place(tmp_path: Path) -> None:
    overlay = import_file(write(tmp_path, "base_config.py", BASE))
    assert set(overlay.unknown) == {"compressor_level_configs.compression_loss_weight"}
    run: Any = load(yaml.safe_load(overlay.text())).runs["my-run-v2"]
    level, top = run.compressor_level_configs[0], run.top_transformer_config
    assert (level.dim, level.codebook_size, level.target_compression_ratio) == (64, 1024, 0.25)
    assert (level.num_shared_encoder_layers, level.entropy_delta) == (0, 0.3)
    assert (top.dim, top.num_layers, top.continuous) == (128, 3, True)
    assert (run.lr, run.n_grad_loops, run.grad_clip) == (1e-4, 4, 0.5)
    assert (run.lr_schedule, run.scheduler_specific_kwargs) == (
        "cosine_with_min_lr",
        {"min_lr": 1e-6},
    )
    assert (run.corpus, run.tokenizer) == ("fineweb-edu", "bytes")
    assert (run.checkpoint_steps, run.checkpoint_interval) == ([0], 1000)
    assert overlay.config["tracking"] == "mlflow"
    assert (run.expander_num_dec_layers, run.use_decoder_only_expander) == (3, True)
    assert (run.mlflow_batch_interval, run.generation_interval) == (20, 50)
    assert (run.max_steps, run.epochs) == (None, 1)
    told = {
        "run_name", "project_name", "initial_vocab_size", "expander_eos_id", "learning_rate",
        "gradient_accumulation_steps", "gradient_clip_norm", "scheduler_type", "dataset_name",
        "dataset_config", "dataset_train_split", "text_column_name", "mlflow_batch_interval",
        "checkpoint_dir", "resume_from_checkpoint", "save_base_components_path", "num_epochs",
        "use_continuous_expander_inputs", "expander_num_enc_layers",
        "top_transformer_config.embed_dim",
    }  # fmt: skip
    assert set(overlay.notes) == told


def test_a_file_on_top_of_its_base_gives_two_linked_stages(tmp_path: Path) -> None:
    write(tmp_path, "base_config.py", BASE)
    text = (
        "from copy import deepcopy\n"
        "from configs.base_config import exp_config as _base\n"
        "exp_config = deepcopy(_base)\n"
        "exp_config.load_base_from = './stage1.pt'\n"
        "exp_config.max_steps = 7\n"
        "exp_config.compressor_level_configs[0].dim = 32\n"
    )
    found = loaded(write(tmp_path, "stage2.py", text))
    assert found.select.runs == ["my-run-v2-stage1", "my-run-v2"]
    first, second = (found.runs[name] for name in found.select.runs)
    assert first.top_transformer_config is None
    assert (second.base, second.tokenizer, second.is_second_stage) == (
        "my-run-v2-stage1", None, True,
    )  # fmt: skip
    assert first.compressor_level_configs == second.compressor_level_configs
    assert first.compressor_level_configs[0].dim == 32
    assert (first.max_steps, first.warmup_steps) == (7, 7)


def test_the_older_form_is_a_map(tmp_path: Path) -> None:
    text = """
exp_config = {
    "run_name": "old", "num_levels": 1,
    "compressor_level_configs": [
        {"dim": 256, "heads": 8, "window": 128, "num_queries": 1, "codebook_size": 2048}
    ],
    "expander": {"dim_scale": 0.5, "num_enc_layers": 1, "use_decoder_only": False},
    "top_lm_mse_weight": 0.5, "top_transformer_config": {"dim": 64, "continuous": True},
    "expander_dropout": 0.1, "learning_rat": 1e-4, "max_steps": 3, "warmup_steps": 1,
}
"""
    overlay = import_file(write(tmp_path, "x.py", text))
    run: Any = load(yaml.safe_load(overlay.text())).runs["old"]
    assert (run.expander_dim_scale, run.expander_num_enc_layers) == (0.5, 1)
    assert run.top_transformer_config.mse_weight == 0.5
    assert set(overlay.unknown) == {"expander_dropout", "learning_rat"}
    assert "did you mean 'lr'" in overlay.unknown["learning_rat"]


def test_a_frozen_entropy_model_is_told_from_a_base(tmp_path: Path) -> None:
    text = BASE.replace(
        "exp_config = Config()",
        "exp_config = asdict(Config()) | {'entropy_load_path': 'x.pt', 'freeze_entropy': True}",
    )
    overlay = import_file(write(tmp_path, "frozen.py", text))
    assert "base" in overlay.notes["freeze_entropy"]
    assert "base" in overlay.notes["entropy_load_path"]
    run: Any = load(yaml.safe_load(overlay.text())).runs["my-run-v2"]
    assert not run.freeze_entropy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_like_this", "it does not run: ModuleNotFoundError"),
        ("config = {}", "it has no exp_config"),
        ("exp_config = {'num_levels': 3}", "num_levels 3, but compressor_level_configs has 1"),
    ],
)
def test_files_that_are_none_are_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(TerseError, match=words):
        import_file(write(tmp_path, "x.py", text))


def test_a_second_stage_on_a_run_of_this_workflow(tmp_path: Path) -> None:
    path = write(tmp_path, "stage2.py", BASE)
    joint = import_file(path)
    assert "tokenizer" in joint.config["runs"]["my-run-v2"]
    (question,) = joint.questions
    assert "trained jointly" in question
    assert "--load-base-from RUN" in question
    told = import_file(path, load_base_from="first")
    assert told.questions == []
    assert list(told.config["runs"]) == ["my-run-v2"]
    run = told.config["runs"]["my-run-v2"]
    assert (run["base"], "tokenizer" in run) == ("first", False)


@pytest.mark.parametrize(
    ("keys", "defined"),
    [
        ("'dataset_train_split': 'validation'", {"split": "validation"}),
        ("'text_column_name': 'story'", {"text_column": "story"}),
        ("'dataset_train_split': 'train', 'text_column_name': 'text'", None),
    ],
)
def test_how_a_dataset_is_read_is_part_of_the_overlay(
    keys: str, defined: dict | None, tmp_path: Path
) -> None:
    text = f"exp_config = {{'num_levels': 1, 'dataset_name': 'roneneldan/TinyStories', {keys}}}"
    overlay = import_file(write(tmp_path, "x.py", text))
    name = overlay.config["runs"]["x"]["corpus"]
    made = load(yaml.safe_load(overlay.text())).corpora[name]
    for key, value in (defined or {"split": "train", "text_column": "text"}).items():
        assert getattr(made, key) == value
    assert (name in overlay.config.get("corpora", {})) == (defined is not None)
