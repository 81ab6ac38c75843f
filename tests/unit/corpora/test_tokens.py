"""Tokenizers and tokens files: lossless, exact byte offsets, the same bytes each time."""

import json
import shutil
import time

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from terse.corpora import tokens as module
from terse.corpora.documents import read_documents
from terse.corpora.token_store import TokenStore
from terse.corpora.tokenizers import load_tokenizer, plain_backend, tokenizer_digest, train_bpe
from terse.corpora.tokens import encoder, tokenize_documents
from terse.errors import TerseError


@given(st.text(st.characters(codec="utf-8")))
def test_the_trained_tokenizer_is_lossless(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_special_names_in_a_text_are_text(tokenizer):
    ids = plain_backend(tokenizer).encode("a<|bos|>b", add_special_tokens=False).ids
    assert tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids) == "a<|bos|>b"


def test_it_loads_as_any_hugging_face_tokenizer(tmp_path, documents_path):
    made = train_bpe(documents_path, vocab_size=300, seed=0, folder=tmp_path / "t")
    assert {"tokenizer.json", "tokenizer_config.json"} <= {
        p.name for p in (tmp_path / "t").iterdir()
    }
    for loaded in (
        AutoTokenizer.from_pretrained(tmp_path / "t"),
        PreTrainedTokenizerFast.from_pretrained(tmp_path / "t"),
        load_tokenizer(tmp_path / "t"),
    ):
        assert len(loaded) == 300
        assert [loaded.bos_token, loaded.eos_token, loaded.pad_token] == module_specials()
        assert [loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id] == [0, 1, 2]
        text = "Two  spaces, a ' quote' , 東京\n"
        assert loaded(text)["input_ids"] == made(text)["input_ids"]  # no BOS added
        assert loaded.decode(loaded(text)["input_ids"]) == text


def module_specials():
    return ["<|bos|>", "<|eos|>", "<|pad|>"]


def test_training_is_deterministic_and_reads_the_train_split_only(
    tmp_path, documents_path, tokenizer
):
    again = train_bpe(documents_path, vocab_size=300, seed=0, folder=tmp_path / "t")
    assert tokenizer_digest(again) == tokenizer_digest(tokenizer)
    oracle = Tokenizer(models.BPE())
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    train = [
        row["text"]
        for rows in read_documents(documents_path)
        for row in rows
        if row["split"] == "train"
    ]
    oracle.train_from_iterator(
        train,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=module_specials(),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    assert oracle.get_vocab() == again.get_vocab()


def test_vocab_sizes_that_cannot_be_had_are_errors(tmp_path, documents_path):
    with pytest.raises(TerseError, match="259 or more"):
        train_bpe(documents_path, vocab_size=258, seed=0, folder=tmp_path / "t")
    with pytest.raises(TerseError, match="supports only"):
        train_bpe(documents_path, vocab_size=50_000, seed=0, folder=tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(TerseError, match="no such folder"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(TerseError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(TerseError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)


def test_tokens_are_the_documents_without_special_tokens(documents_path, tokens_path, tokenizer):
    for split in ("train", "validation"):
        store = TokenStore(tokens_path, split)
        rows = [row for group in read_documents(documents_path, split) for row in group]
        assert store.ids == [row["id"] for row in rows]
        assert store.metadata == [row["metadata"] for row in rows]
        assert store.n_bytes.tolist() == [row["n_bytes"] for row in rows]
        assert len(store) == len(rows)
        assert store.offsets[-1] == len(store.tokens) == len(store.byte_ends)
        for index, row in enumerate(rows):
            assert tokenizer.decode(store.document(index)) == row["text"]
            ends = store.byte_ends[store.offsets[index] : store.offsets[index + 1]]
            pieces = tokenizer.convert_ids_to_tokens(store.document(index).tolist())
            oracle = np.cumsum([len(piece) for piece in pieces])  # a byte-level char is a byte
            np.testing.assert_array_equal(ends, oracle)
            assert ends[-1] == row["n_bytes"]
    assert store.bos_id == 0
    assert store.eos_id == 1
    assert store.vocab_size == 300
    assert store.tokenizer_digest == tokenizer_digest(tokenizer)


@pytest.mark.parametrize("n_procs", [1, 3])
def test_the_file_is_the_same_to_the_byte(
    tmp_path, documents_path, tokens_path, tokenizer, n_procs, monkeypatch
):
    monkeypatch.setattr(module, "BATCH_BYTES", 5_000)
    one = tmp_path / "one.h5"
    tokenize_documents(documents_path, tokenizer, one)
    time.sleep(1.1)  # a time stamp would differ
    two = tmp_path / "two.h5"
    tokenize_documents(documents_path, tokenizer, two, n_procs=n_procs)
    assert one.read_bytes() == two.read_bytes()
    np.testing.assert_array_equal(TokenStore(one).tokens[:], TokenStore(tokens_path).tokens[:])


def word_level(normalizer=None) -> PreTrainedTokenizerFast:
    """A tokenizer that is not byte-level: words and punctuation, unknown words one token each."""
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if normalizer:
        core.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")


@given(st.lists(st.text("aé東🙂", min_size=1, max_size=5), max_size=8))
def test_byte_ends_from_character_offsets(words):
    text = " ".join(words)
    backend = plain_backend(word_level())
    [(_, ends, *_)] = encoder(backend)([text])
    oracle, place = [], 0
    for word in words:
        place += len(word)
        oracle.append(len(text[:place].encode()))
        place += 1
    assert len(oracle) == len(ends) or "🙂" in text  # an emoji is a punctuation token of its own
    assert set(oracle) <= set(ends.tolist())
    assert (np.diff(ends) >= 0).all()


def test_byte_ends_of_a_byte_level_tokenizer_with_a_normalizer(tokenizer):
    """NFC changes the bytes, so the ends come from the original text's offsets."""
    core = plain_backend(tokenizer)
    core.normalizer = normalizers.NFC()
    text = "e\u0301te\u0301 東"  # 9 bytes before "東", 2 of each e + accent become one character
    [(_, ends, n_bytes, _)] = encoder(core)([text])
    assert ends[-1] == n_bytes == len(text.encode())
    assert set(ends.tolist()) <= {len(text[:i].encode()) for i in range(len(text) + 1)}


def test_byte_ends_where_a_normalizer_moves_bytes_but_keeps_their_number(tokenizer):
    core = plain_backend(tokenizer)
    core.normalizer = normalizers.Sequence(
        [normalizers.Replace("A", ""), normalizers.Replace("B", "BB")]
    )
    [(tokens, ends, *_)] = encoder(core)(["xAyB"])
    assert [core.id_to_token(token) for token in tokens] == ["x", "y", "B", "B"]
    assert ends.tolist() == [1, 3, 4, 4]


@pytest.mark.parametrize("words", ["prefix", "no spaces"])
def test_byte_ends_where_the_tokens_do_not_add_up_to_the_text(tokenizer, words):
    """A space too many or of no token: the ends come from the offsets, from one encoding."""
    core = plain_backend(tokenizer)
    core.pre_tokenizer = {
        "prefix": pre_tokenizers.ByteLevel(add_prefix_space=True),
        "no spaces": pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    }[words]
    for text in ("a  東b", "a東b", "東", " ", ""):
        encoding = core.encode(text, add_special_tokens=False)
        [(tokens, ends, n_bytes, n_left_out)] = encoder(core)([text])
        assert tokens.tolist() == encoding.ids
        assert n_bytes == len(text.encode())
        assert n_left_out == 0
        assert (ends[-1:] == n_bytes).all()
        if text.startswith("a"):
            assert ends[0] == 1
            assert ends[-1] == ends[-2] + 1


def test_a_text_that_does_not_add_up_by_surprise(tokenizer):
    """Each x becomes two tokens: most texts add up, so offsets are asked for where they don't."""
    core = plain_backend(tokenizer)
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("x", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    found = encoder(core)(["東b", "axb", "b"])
    assert [one.byte_ends[-1] for one in found] == [4, 3, 1]
    assert found[1].byte_ends.tolist() == [1, 3]


class Watched:
    """A tokenizer that records what it is asked for."""

    def __init__(self, core):
        self.core, self.asked = core, set()

    def __getattr__(self, name):
        self.asked.add(name)
        return getattr(self.core, name)


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_offsets_are_asked_for_only_where_they_are_needed(tokenizer, add_prefix_space):
    core = Watched(plain_backend(tokenizer))
    core.core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    encoder(core)(["a text", "another"])
    batches = core.asked & {"encode_batch", "encode_batch_fast"}
    assert batches == {"encode_batch" if add_prefix_space else "encode_batch_fast"}


def test_a_vocabulary_that_is_no_byte_level_one_is_not_asked_for_bytes(monkeypatch):
    monkeypatch.setattr(module, "token_byte_lengths", None)
    assert encoder(Tokenizer(models.BPE()))([]) == []


def without_byte(tokenizer, character):
    """A tokenizer whose vocabulary lacks a byte, as SmolLM2's does."""
    parts = json.loads(plain_backend(tokenizer).to_str())
    vocabulary = parts["model"]["vocab"]
    parts["model"]["vocab"] = {t: i for t, i in vocabulary.items() if character not in t}
    merges = parts["model"]["merges"]
    parts["model"]["merges"] = [pair for pair in merges if character not in "".join(pair)]
    return Tokenizer.from_str(json.dumps(parts))


@pytest.mark.parametrize("text", ["aq東b", "qq東 bq", "q", "the q東"])
def test_a_byte_without_a_token_is_left_out_and_moves_no_end(tokenizer, text):
    whole, core = plain_backend(tokenizer), without_byte(tokenizer, "q")
    [(tokens, ends, n_bytes, n_left_out)] = encoder(core)([text])
    assert n_bytes == len(text.encode())
    assert n_left_out == text.count("q")
    coded = text.encode()
    pieces = [whole.decoder.decode([core.id_to_token(token)]) for token in tokens]
    for piece, end in zip(pieces, ends, strict=True):
        if piece.isascii():
            assert coded[:end].decode().endswith(piece)
    assert ends.tolist() == sorted(set(ends.tolist()))
    assert (ends[-1:] == len(text.rstrip("q").encode())).all()


def test_bytes_without_a_token_are_told(tmp_path, documents_path, tokenizer, caplog):
    tokenize_documents(documents_path, tokenizer, tmp_path / "a.h5")
    assert "left out" not in caplog.text
    lacking = PreTrainedTokenizerFast(tokenizer_object=without_byte(tokenizer, "e"))
    tokenize_documents(documents_path, lacking, tmp_path / "b.h5")
    texts = [row["text"] for rows in read_documents(documents_path) for row in rows]
    n = sum(text.count("e") for text in texts)
    assert n > 0
    assert f"no token for {n} bytes of the text: left out" in caplog.text


def test_few_texts_at_a_time_are_all_texts(monkeypatch):
    monkeypatch.setattr(module, "CALL_CHARACTERS", 10)
    seen = []

    def encode(texts):
        seen.append(texts)
        return texts

    texts = ["a" * 25, "b" * 4, "c" * 4, "d" * 4, "e"]
    assert list(module._few_at_a_time(encode, texts)) == texts
    assert seen == [texts[:1], texts[1:4], texts[4:]]


def test_a_slow_tokenizer_is_refused(tmp_path, documents_path):
    class Slow:
        is_fast = False

    with pytest.raises(TerseError, match="not a fast one"):
        tokenize_documents(documents_path, Slow(), tmp_path / "t.h5")


def test_files_that_are_not_whole_are_refused(tmp_path, tokens_path):
    broken = tmp_path / "broken.h5"
    broken.write_bytes(tokens_path.read_bytes()[:-3000])
    with pytest.raises(TerseError, match="run again"):
        TokenStore(broken)
    shutil.copy(tokens_path, tmp_path / "unfinished.h5")
    with h5py.File(tmp_path / "unfinished.h5", "a") as file:
        del file.attrs["complete"]
    with pytest.raises(TerseError, match="is incomplete"):
        TokenStore(tmp_path / "unfinished.h5")
    with pytest.raises(TerseError, match="did you mean 'train'"):
        TokenStore(tokens_path, "trian")


def test_a_long_document_is_encoded_in_pieces_with_the_same_tokens(
    tmp_path, documents_path, tokenizer, monkeypatch
):
    tokenize_documents(documents_path, tokenizer, tmp_path / "whole.h5")
    monkeypatch.setattr(module, "PIECE", 40)
    monkeypatch.setattr(module, "CALL_CHARACTERS", 300)
    text = max((row["text"] for rows in read_documents(documents_path) for row in rows), key=len)
    assert len(module.pieces_of(text)) > 3
    assert "".join(module.pieces_of(text)) == text
    assert module.can_be_cut(plain_backend(tokenizer))
    tokenize_documents(documents_path, tokenizer, tmp_path / "pieces.h5")
    for split in ("train", "validation"):
        one, other = (TokenStore(tmp_path / f"{name}.h5", split) for name in ("whole", "pieces"))
        np.testing.assert_array_equal(one.offsets, other.offsets)
        np.testing.assert_array_equal(one.tokens[:], other.tokens[:])
        np.testing.assert_array_equal(one.byte_ends[:], other.byte_ends[:])


def test_a_tokenizer_that_joins_words_gets_whole_texts():
    backend = Tokenizer(models.BPE())
    assert not module.can_be_cut(backend)  # no words
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not module.can_be_cut(backend)  # a piece would begin with a space of its own
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert module.can_be_cut(backend)
