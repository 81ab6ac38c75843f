"""The method `hierarchical` on the common training path: resume, two stages, cached codes."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import get_cosine_schedule_with_warmup

import tiny_hierarchical
from terse.corpora.token_store import TokenStore
from terse.errors import TerseError
from terse.figures.study import FinishedRun, figures_of, joined_tables
from terse.machine.signals import Stopped, StopSignal
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.methods.hierarchical import evaluation
from terse.methods.hierarchical import tables as report_tables
from terse.methods.hierarchical.codes import CodedRows, collated, encode_corpus
from terse.methods.hierarchical.evaluation import batches
from terse.methods.hierarchical.generation import byte_rows, compress, decompress
from terse.methods.hierarchical.method import Hierarchical
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.rows import ByteRows, ScoringRows, byte_store
from terse.methods.hierarchical.settings import BOS, EOS, PAD
from terse.methods.hierarchical.spec import HIERARCHICAL
from terse.methods.hierarchical.storage import load_hierarchical, save_model
from terse.training.method import Inputs
from tiny_hierarchical import TOP, byte_inputs, model, rows, settings
from tiny_run import AtStep, train_into

LEVELS: tuple[dict[str, Any], ...] = (
    {"vq_reset_interval": 2, "target_compression_ratio": 0.3, "vq_decay": 0.5, "vq_warmup": 0.4},
    {"codebook_size": 7, "vq_reset_interval": 2},
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    return byte_inputs(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def stage1(text: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished first stage of two levels."""
    folder = tmp_path_factory.mktemp("stage1")
    return train_into(folder, Hierarchical(settings(*LEVELS, top=None, n_grad_loops=2), text))


@pytest.fixture(scope="module")
def second(text: Inputs, stage1: Path) -> Hierarchical:
    """A second stage on it, its codes cached."""
    assert text.tokens is not None
    codes = stage1 / "codes.h5"
    model = load_hierarchical(stage1 / "model")
    encode_corpus(model, text.tokens, codes, device="cpu", batch_size=5)
    inputs = replace(text, base=stage1 / "model", codes=codes)
    return Hierarchical(settings(*LEVELS, base="stage1", tokenizer=None), inputs)


def digest(tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors.values())).hexdigest()


@pytest.mark.parametrize("step", [1, 3])
def test_resumed_equals_uninterrupted(
    step: int, tmp_path: Path, text: Inputs, stage1: Path
) -> None:
    found, stop = settings(*LEVELS, top=None, n_grad_loops=2), StopSignal()
    interrupted = Hierarchical(found, text)
    callbacks = interrupted.callbacks
    interrupted.callbacks = lambda: [*callbacks(), AtStep(step, stop)]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train_into(tmp_path, interrupted, stop)
    train_into(tmp_path, Hierarchical(found, text))
    name = "model/model.safetensors"
    assert (tmp_path / name).read_bytes() == (stage1 / name).read_bytes()


def test_codebooks_thresholds_and_weights_move_in_training(stage1: Path) -> None:
    before = load_file(stage1 / "checkpoints" / "step-0" / "model.safetensors")
    after = load_file(stage1 / "model" / "model.safetensors")
    still = {name for name in after if torch.equal(before[name], after[name])}
    # The thresholds of a level without a target ratio stay; no code of it was idle for long.
    assert {name for name in still if not name.endswith(("shift", "idle"))} == set()
    assert "compressors.0.shift" not in still
    assert "compressors.1.shift" in still
    assert int(after["compressors.0.quantizer.n_steps"]) == 6  # not 12 micro-batches
    history = pd.read_csv(stage1 / "history.csv").query("split == 'train'")
    total = (
        history[[f"reconstruction{i}_per_byte" for i in (0, 1)]].sum(axis=1) / 2
        + history[[f"vq{i}_per_byte" for i in (0, 1)]].sum(axis=1)
        + 0.1 * history[[f"lm{i}_per_byte" for i in (0, 1)]].sum(axis=1) / 2
    )
    np.testing.assert_allclose(history["loss_nats"], total, rtol=1e-4)
    for name, size in (("perplexity0", 12), ("smoothed_perplexity1", 7)):
        assert history[name].between(1, size).all()


def test_micro_batches_give_the_gradient_of_one_batch(text: Inputs) -> None:
    method = Hierarchical(settings(*LEVELS), text)
    model = method.build()
    items = [method.training_rows()[i] for i in range(4)]

    def gradients(*sizes: int) -> list[torch.Tensor]:
        model.zero_grad()
        parts = [method.collate(items[sum(sizes[:i]) :][:n]) for i, n in enumerate(sizes)]
        total = torch.stack([method.count(part) for part in parts]).sum()
        for part in parts:
            method.loss(model, part, total)[0].backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole = gradients(4)
    # Two levels, a top LM, and all of them reached.
    assert len(whole) == len(list(model.parameters()))
    for sizes in ((1, 3), (2, 2)):
        for found, expected in zip(gradients(*sizes), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_reconstruction_trains_the_compressor_through_the_codes(text: Inputs) -> None:
    method = Hierarchical(settings(top=None), text)
    model = method.build()
    sums = model(method.collate([method.training_rows()[0]])["ids"])
    sums["reconstruction0"].backward()
    blocks = model.levels[0][0]
    for part in (blocks.compression, blocks.shared, blocks.pool):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    assert all(p.grad is None for p in blocks.lm.parameters())


def test_cached_codes_equal_those_of_the_model(second: Hierarchical, stage1: Path) -> None:
    model = load_hierarchical(stage1 / "model")
    cached: Any = second.training_rows()
    assert isinstance(cached, CodedRows)
    chosen = [cached[i] for i in (0, 3, len(cached) - 1)]
    batch = collated(chosen)
    online = model.encode(batch["ids"])
    opens, codes = ([batch[f"{key}{i}"] for i in (0, 1)] for key in ("opens", "codes"))
    for ours, theirs in zip(model.restored(batch["ids"], opens, codes), online, strict=True):
        assert torch.equal(ours.n, theirs.n)
        assert torch.equal(ours.codes[ours.real], theirs.codes[theirs.real])
        assert torch.equal(ours.rows[ours.real], theirs.rows[theirs.real])
        mask = theirs.sequence.mask
        assert torch.equal(ours.segment[mask], theirs.segment[mask])
    both: Any = second.build().eval()
    with torch.no_grad():
        from_cache = both(**batch)
        states = both.top(online[-1].rows)
        expected = both._top_losses(online, states)
    for name, value in from_cache.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-3)


def test_a_second_stage_leaves_its_base_as_it_was(
    second: Hierarchical, stage1: Path, tmp_path: Path, text: Inputs
) -> None:
    folder = train_into(tmp_path, second)
    base = load_file(stage1 / "model" / "model.safetensors")
    after = load_file(folder / "model" / "model.safetensors")
    assert digest(base) == digest({name: after[name] for name in base})
    trained = {name for name in after if name not in base}
    assert all(name.startswith("top.") for name in trained)
    before = load_file(folder / "checkpoints" / "step-0" / "model.safetensors")
    assert all(not torch.equal(before[name], after[name]) for name in trained)
    measures = {
        (m.arm, m.measure): m for m in second.evaluate(second.load(folder / "model"), "cpu")
    }
    two_part = measures["two_part", "bits_per_byte"].value
    parts = [
        m.value
        for (arm, name), m in measures.items()
        if arm == "two_part" and name != "bits_per_byte" and name.endswith("bits_per_byte")
    ]
    assert len(parts) == 3  # codes and two expanders
    assert two_part == pytest.approx(sum(parts))
    assert 0 < measures["causal", "bits_per_byte"].value < 12
    assert measures["level0", "codes_per_byte"].value <= 1
    assert measures["xz", "bits_per_byte"].value > 0
    tables = second.tables(second.load(folder / "model"), "cpu")
    assert set(tables) == {"segmentation", "dimensions", "samples", "speed"}
    assert (tables["speed"]["bytes_per_s"] > 0).all()
    assert set(tables["dimensions"]["cloud"]) == {"pooled", "quantised"}
    evaluation = pd.DataFrame([vars(m) for m in measures.values()])
    run = FinishedRun("x", second.settings, evaluation, tables)
    assert set(figures_of(HIERARCHICAL, [run])) == {"scores", "segmentation"}
    assert len(joined_tables(HIERARCHICAL, [run])) == 4
    score = pd.DataFrame([{"arm": "model", "measure": "bits_per_byte", "value": 2.0,
                           "interval_low": 1.9, "interval_high": 2.1}])  # fmt: skip
    rival = FinishedRun("byte-lm", CausalLMSettings(method="causal-lm", corpus="c", tokenizer="b",
                        max_steps=1, checkpoint_steps=[]), score, {})  # fmt: skip
    below = FinishedRun("stage1", settings(*LEVELS, top=None), evaluation, tables, (rival,))
    both = figures_of(HIERARCHICAL, [below, replace(run, compared=(rival,))])
    assert [t.get_text() for t in both["scores"].axes[0].get_yticklabels()][-1] == "byte-lm"
    assert [ax.get_title() for ax in both["segmentation"].axes] == ["stage1"]  # cut as `run` is


def test_a_level_learns_above_one_that_stays_as_it_was(
    text: Inputs, stage1: Path, tmp_path: Path
) -> None:
    inputs = replace(text, base=stage1 / "model")
    found = settings(
        LEVELS[0], {**LEVELS[1], "codebook_size": 9}, top=None, base="stage1", tokenizer=None,
        freeze_levels=1,
    )  # fmt: skip
    folder = train_into(tmp_path, Hierarchical(found, inputs))
    base = load_file(stage1 / "model" / "model.safetensors")
    after = load_file(folder / "model" / "model.safetensors")
    kept = {name for name in base if name.split(".")[1] == "0"}
    assert digest({n: base[n] for n in kept}) == digest({n: after[n] for n in kept})
    before = load_file(folder / "checkpoints" / "step-0" / "model.safetensors")
    still = {name for name in before if name not in kept and torch.equal(before[name], after[name])}
    assert {name for name in still if not name.endswith(("shift", "idle"))} == set()
    history = pd.read_csv(folder / "history.csv").query("split == 'train'")
    assert "reconstruction0_per_byte" not in history
    total = history["reconstruction1_per_byte"] + history["vq1_per_byte"]
    total += 0.1 * history["lm1_per_byte"]
    np.testing.assert_allclose(history["loss_nats"], total, rtol=1e-4)


def test_what_only_the_evaluation_reads_is_of_today(stage1: Path, text: Inputs) -> None:
    today = settings(*LEVELS, top=None, eval_bytes=700, n_samples=0)
    method = Hierarchical(today, text)
    tables = method.tables(method.load(stage1 / "model"), "cpu")
    assert "samples" not in tables
    stored = json.loads((stage1 / "model" / "hierarchical.json").read_text())
    assert not {"eval_bytes", "n_samples", "generation_interval"} & set(stored)
    plain = settings(*LEVELS, top=None)
    assert HIERARCHICAL.weight_params(today) == HIERARCHICAL.weight_params(plain)
    assert "generation_interval" in HIERARCHICAL.non_weight_params(today)


def test_bases_of_another_shape_are_refused(text: Inputs, stage1: Path, tmp_path: Path) -> None:
    inputs = replace(text, base=stage1 / "model")
    other = settings(LEVELS[0], {**LEVELS[1], "codebook_size": 8}, base="stage1", tokenizer=None)
    with pytest.raises(TerseError, match="level 1, codebook_size 7 there, 8 here"):
        Hierarchical(other, inputs).build()
    fewer = settings(LEVELS[0], base="stage1", tokenizer=None)
    with pytest.raises(TerseError, match="num_levels is not the base's: 2 there, 1 here"):
        Hierarchical(fewer, inputs).build()
    contextual = settings(*LEVELS, expander_memory="contextual")
    torch.manual_seed(0)
    save_model(HierarchicalAutoencoder(contextual), tmp_path)
    bare = settings(*LEVELS, base="joint", tokenizer=None)
    with pytest.raises(TerseError, match="expander_memory is not the base's: contextual there"):
        Hierarchical(bare, replace(text, base=tmp_path)).build()
    wider = settings({"dim": 24}, top=None, base="stage1", tokenizer=None)
    with pytest.raises(TerseError, match="of another shape"):
        Hierarchical(wider, inputs).build()


def test_a_pretrained_entropy_model_keeps_the_codes_meaning(
    text: Inputs, stage1: Path, tmp_path: Path
) -> None:
    inputs = replace(text, base=stage1 / "model")
    frozen = settings(
        {**LEVELS[0], "target_compression_ratio": None}, top=None, base="stage1", tokenizer=None,
        freeze_entropy=True, max_steps=2, checkpoint_steps=[], eval_interval=2,
    )  # fmt: skip
    folder = train_into(tmp_path, Hierarchical(frozen, inputs))
    ours = load_hierarchical(folder / "model").levels[0][0]
    base = load_hierarchical(stage1 / "model").levels[0][0]
    for part, source in zip(ours.entropy_parts(), base.entropy_parts(), strict=True):
        assert digest(dict(part.state_dict())) == digest(dict(source.state_dict()))
    assert base.shift != 0
    one, other = (load_hierarchical(f / "model").encode(rows(30))[0] for f in (folder, stage1))
    assert torch.equal(one.opens, other.opens)
    assert not torch.equal(ours.pool.value.weight, base.pool.value.weight)


def test_fewer_rows_are_read_evenly_and_encoded_alone(
    second: Hierarchical, text: Inputs, stage1: Path, tmp_path: Path
) -> None:
    assert text.tokens is not None
    store = TokenStore(text.tokens, "train")
    every, few = ByteRows(store, 32), ByteRows(store, 32, limit=5)
    assert len(every) > 10
    at = [i * len(every) // 5 for i in range(5)]
    assert [few[i]["ids"].tolist() for i in range(5)] == [every[i]["ids"].tolist() for i in at]
    assert len(ByteRows(store, 32, limit=10**6)) == len(every)
    codes = tmp_path / "codes.h5"
    encode_corpus(load_hierarchical(stage1 / "model"), text.tokens, codes,
                  device="cpu", batch_size=2, train_rows=5)  # fmt: skip
    whole, found = (
        second.training_rows(),
        settings(*LEVELS, base="stage1", tokenizer=None, train_rows=5),
    )
    part = Hierarchical(found, replace(second.inputs, codes=codes))
    rows = part.training_rows()
    assert len(rows) == 5  # type: ignore[arg-type]
    for i in range(5):
        for name, value in rows[i].items():
            assert torch.equal(value, whole[at[i]][name])
    assert len(part.validation_rows()) == len(second.validation_rows())  # type: ignore[arg-type]
    with pytest.raises(TerseError, match="another number of rows"):
        Hierarchical(second.settings, part.inputs).training_rows()


def test_a_copy_is_judged_in_place_and_out_of_place(
    text: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert text.tokens is not None
    scored = ScoringRows(TokenStore(text.tokens, "validation"), 32)
    texts = evaluation.some_texts(scored)
    found = []
    for copies in (texts, [b"!" + t for t in texts], [t[::-1] for t in texts]):
        monkeypatch.setattr(evaluation, "decompress", lambda _model, _codes, c=copies: c)
        found.append([m.value for m in evaluation.round_trip(model(), scored)])
    (in_place, exact, alike), (moved, one_more, still_alike), (_, _, backwards) = found
    assert (in_place, exact, alike) == (1.0, 1.0, 1.0)
    assert moved < 0.4
    assert one_more == 0.0
    assert still_alike > 0.9
    assert backwards < 0.5


def test_rows_hold_every_byte_once(text: Inputs) -> None:
    assert text.tokens is not None
    store = TokenStore(text.tokens, "train")
    packed = ByteRows(store, 50)
    joined = torch.cat([packed[i]["ids"][1:] for i in range(len(packed))])
    expected: list[int] = []
    for d in range(len(store)):
        expected += [BOS, *store.document(d).tolist(), EOS]
    assert joined[joined != PAD].tolist() == expected[1:]
    assert all(packed[i]["ids"][0] == BOS for i in range(len(packed)))
    for context in (0, 24):
        scored = ScoringRows(store, 50, context=context)
        texts: dict[int, list[int]] = {}
        for i in range(len(scored)):
            row = scored[i]
            targets = row["ids"][row["first"] :]
            found = targets[targets < BOS].tolist()
            assert len(found) == row["n_bytes"]
            texts.setdefault(row["document"], []).extend(found)
        assert all(texts[d] == store.document(d).tolist() for d in range(len(store)))


def test_a_row_reads_no_more_than_its_own_bytes(
    text: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert text.tokens is not None
    store, read = TokenStore(text.tokens, "train"), []
    tokens = store.tokens

    class Watched:
        def __getitem__(self, piece: slice) -> Any:
            read.append(int(piece.stop - piece.start))
            return tokens[piece]

    monkeypatch.setattr(TokenStore, "tokens", Watched())
    packed = ByteRows(store, 50)
    for i in range(len(packed)):
        packed[i]
    assert sum(read) == int(store.offsets[-1])


def test_clouds_read_no_more_rows_than_they_need(
    text: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert text.tokens is not None
    found = tiny_hierarchical.model(*LEVELS)
    scored = ScoringRows(TokenStore(text.tokens, "validation"), 32)
    every = report_tables.clouds(found, scored)
    assert min(len(points) for points in every.values()) > 20
    asked: list[Any] = []
    monkeypatch.setattr(
        report_tables, "batches", lambda *a: (asked.append(0) or batch for batch in batches(*a))
    )
    monkeypatch.setattr(report_tables, "MOST_SEGMENTS", 20)
    few = report_tables.clouds(found, scored)
    assert {key: points.tolist() for key, points in few.items()} == {
        key: points[:20].tolist() for key, points in every.items()
    }
    assert len(asked) < len(scored) / found.settings.batch_size / 3


def test_other_tokens_than_bytes_are_refused(tmp_path: Path) -> None:
    from tiny_compression import make_inputs

    inputs = make_inputs(tmp_path)
    assert inputs.tokens is not None
    with pytest.raises(TerseError, match="are no bytes"):
        byte_store(inputs.tokens, "train")


def overfitted(method: Hierarchical, texts: list[bytes]) -> HierarchicalAutoencoder:
    """Return a model trained on a few texts; the learning rate rises, then falls to 0."""
    torch.manual_seed(1)
    steps, model = method.settings.max_steps, method.build()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 20, steps)
    batch = {"ids": byte_rows(texts)}
    for _ in range(steps):
        loss, _ = method.loss(model, batch, method.count(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        model.after_step()
    return model.eval()


@pytest.mark.slow
def test_an_overfitted_text_comes_back_byte_for_byte(tmp_path: Path) -> None:
    texts = [b"The codes are few.", b"Bytes are many, \xff\x00 too.", b"And back again!"]
    level = {"dim": 48, "heads": 4, "num_queries": 2, "codebook_size": 16, "vq_decay": 0.9}
    level |= {"window": 32, "vq_reset_interval": 25, "max_segment_len": 3, "entropy_delta": 0.5}
    one = overfitted(Hierarchical(settings(level, top=None, max_steps=300), Inputs()), texts)
    save_model(one, tmp_path)
    above = settings(
        level, level, top=None, max_steps=300, base="one", tokenizer=None, freeze_levels=1
    )
    two = overfitted(Hierarchical(above, Inputs(base=tmp_path)), texts)
    n_segments = []
    for trained in (one, two):
        codes = compress(trained, texts)
        assert decompress(trained, codes) == texts
        n_segments.append(codes.n.sum().item())
    assert n_segments[1] < n_segments[0] < sum(map(len, texts)) / 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_levels": 2}, "num_levels 2, but compressor_level_configs has 1"),
        ({"base": "b"}, "give a tokenizer of kind bytes, or a base"),
        ({"compressor_level_configs": [{"dim": 15}]}, "dim 15 is no multiple of 2 x heads"),
        ({"compressor_level_configs": [{"quantizer": "none"}]}, "set continuous: true"),
        ({"compressor_level_configs": [{"fsq_levels": [4]}]}, "fsq_levels and quantizer: fsq"),
        ({"compressor_level_configs": [{"entropy_delta": None}]}, "is needed to open segments"),
        ({"propagate_key_padding_mask": False}, "propagate_key_padding_mask"),
        ({"freeze_entropy": True}, "freeze_entropy goes with a base"),
        ({"freeze_levels": 1}, "freeze_levels goes with a base"),
        ({"expander_dim_scale": 0.3}, "must be a multiple of 2 x heads"),
        ({"top_transformer_config": None, "expander_memory": "contextual"}, "needs a top LM"),
        ({"use_decoder_only_expander": True, "expander_num_enc_layers": 1}, "has no encoder"),
        (
            {
                "compressor_level_configs": [{"quantizer": "none"}],
                "base": "b",
                "tokenizer": None,
                "top_transformer_config": {**TOP, "continuous": True},
            },
            "quantizer none has no codes for a second stage to read",
        ),
        (
            {"compressor_level_configs": [{"target_compression_ratio": 0.2, "max_segment_len": 4}]},
            "target_compression_ratio 0.2 .* max_segment_len 4",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    from pydantic import ValidationError

    from terse.config.methods import settings_of
    from tiny_hierarchical import SETTINGS

    with pytest.raises(ValidationError, match=words):
        settings_of(SETTINGS | {"top_transformer_config": TOP} | changes)


def test_every_key_is_read() -> None:
    from terse.methods.hierarchical.settings import (
        HierarchicalSettings,
        LevelSettings,
        TopSettings,
    )
    from terse.settings.run import Run

    package = Path(__file__).parents[4] / "src/terse/methods/hierarchical"
    code = "".join(path.read_text() for path in sorted(package.glob("*.py")))
    fixed = {"method", "initial_vocab_size", "lr_schedule"} | set(Run.model_fields)
    fixed |= {"use_continuous_expander_inputs", "propagate_key_padding_mask"}
    for block in (LevelSettings, TopSettings, HierarchicalSettings):
        unread = {key for key in set(block.model_fields) - fixed if f".{key}" not in code}
        assert unread == set(), block


def test_settings_are_kept_with_the_weights(stage1: Path) -> None:
    content = json.loads((stage1 / "model" / "hierarchical.json").read_text())
    assert content["num_levels"] == 2
    model = load_hierarchical(stage1 / "model")
    assert not model.training
    with torch.inference_mode():
        assert len(model.encode(rows(20))) == 2
