"""Flat hyperparameters of semantic blotching become runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from terse.importer import import_file
from tiny_blotching import SETTINGS, settings

FLAT: dict[str, Any] = {
    "exp_name": "Blotch_5", "save_root": "/data/runs", "data_root": "/scratch", "multi_gpu": False,
    "model_parallel": False, "torch_dtype": "torch.float32", "seed": 5, "dataset": "arithmetic",
    "n_data_procs": 2, "max_val_loops": 9, "n_train_loops": 50, "checkpt_mod": 20, "n_epochs": 4,
    "batch_size": 32, "lr": 1e-3, "l2": 1e-4, "seq_len": 600, "blotch_p": None,
    "blotch_p_min": 0.1, "blotch_p_max": 0.9, "n_btokens": 9, "blotch_spacing": "random",
    "contig_blotches": True, "tok_drop_p": 0.1, "posenc_type": "SinPositionalEncoding",
    "max_posencs": 700, "posenc_drop_p": 0.1, "learn_posencs": True, "incl_intl_prob": True,
    "n_grad_loops": 2, "pad_pos_skip": True, "excise_tokens": True, "d_model": 64, "n_heads": 2,
    "h_mult": 4, "n_layers": 5, "drop_p": 0.1, "label_smoothing": 0.15, "warmup_steps": 10,
    "lr_decay_exp": 0.4, "min_lr": 1e-7, "max_num": 500, "max_ents": 3, "p_mult": 0.2,
    "max_mult_num": 12, "p_ent": 0.4, "space_mults": True, "zipf_order": 1, "val_temp": 0.5,
}  # fmt: skip


def imported(folder: Path, **changes: Any) -> tuple[Any, Any]:
    path = folder / "hyperparameters.json"
    path.write_text(json.dumps(FLAT | changes))
    overlay = import_file(path)
    assert overlay.unknown == {}
    return overlay, overlay.config["runs"]["blotch-5"]


def test_every_key_of_a_flat_file_has_its_place(tmp_path: Path) -> None:
    overlay, run = imported(tmp_path)
    assert "roots" not in overlay.config
    assert {name: folder for name, (_, folder) in overlay.roots.items()} == {
        "results": "/data/runs", "cache": "/scratch",
    }  # fmt: skip
    moved = {
        "exp_name", "save_root", "data_root", "multi_gpu", "torch_dtype", "dataset",
        "n_data_procs", "checkpt_mod", "learn_posencs", "blotch_p",
    }  # fmt: skip
    for key in FLAT.keys() - moved:
        assert run[key] == FLAT[key], key
    assert (run["checkpoint_interval"], run["learnable_posencs"]) == (20, True)
    assert "corpus" not in run
    assert "corpora" not in overlay.config
    made = settings(**(dict.fromkeys(SETTINGS) | run))
    assert (made.max_steps, made.arm, made.precision) == (200, "intensity", "float32")


def test_what_a_run_does_not_read_is_left_out_with_a_note(tmp_path: Path) -> None:
    overlay, run = imported(
        tmp_path, blotch_p=0.3, dataset="openwebtext", model_string="a/lm",
        posenc_type="RotaryPositionalEncoding",
    )  # fmt: skip
    assert (run["corpus"], run["base"], run["blotch_p"]) == ("openwebtext-sentences", "lm", 0.3)
    assert not {"max_num", "d_model", "n_btokens", "max_posencs"} & set(run)
    assert {"max_num", "d_model", "n_btokens"} <= set(overlay.notes)


@pytest.mark.parametrize(
    ("changes", "dropped", "kept"),
    [
        ({"blotch_p": [0.3, 0.5]}, {"n_btokens", "blotch_p_max"}, {"max_num"}),
        ({"combos": {"blotch_p": [0.3, 0.5], "lr": [1e-3, 2e-3]}}, {"n_btokens"}, set()),
        (
            {"combos": {"max_num": [30, 50], "lr": [1e-3, 2e-3]}, "dataset": "openwebtext",
             "model_string": "a/lm"},
            {"max_num", "d_model"}, {"n_btokens"},
        ),
        ({"posenc_type": ["RandPositionalEncoding", "SinPositionalEncoding"]}, set(),
         {"max_posencs"}),
    ],
)  # fmt: skip
def test_swept_keys_count_too(
    tmp_path: Path, changes: dict, dropped: set[str], kept: set[str]
) -> None:
    overlay, run = imported(tmp_path, **changes)
    swept = run["sweep"]
    assert not dropped & (run.keys() | swept.keys() | swept.get("zip", {}).keys())
    assert dropped <= set(overlay.notes)
    assert kept <= run.keys()
