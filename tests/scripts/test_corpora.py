"""Documents, tokenizer and tokens that the scripts write."""

import h5py
from transformers import AutoTokenizer

from script_chain import Chain
from script_records import record_of
from terse.corpora.documents import fingerprint, read_documents
from terse.corpora.stdlib import read_python_docs
from terse.provenance import digest_file


def test_collect_corpus(chain: Chain) -> None:
    assert chain.inputs.documents is not None
    rows = [row for rows in read_documents(chain.inputs.documents) for row in rows]
    pages = [page for page, _ in zip(read_python_docs(), range(60), strict=False)]
    assert [row["id"] for row in rows] == [page.id for page in pages if page.text.strip()]
    assert rows[0]["text"] == pages[0].text
    assert 5 < sum(row["split"] == "validation" for row in rows) < 35
    record = record_of(chain.inputs.documents.with_name("docs.run.json"))
    assert record["fingerprint"] == fingerprint(chain.inputs.documents)
    assert sum(record["n_documents"].values()) == len(rows)
    assert record["settings"]["max_dataset_size"] == 60


def test_train_tokenizer(chain: Chain) -> None:
    assert chain.inputs.tokenizer is not None
    assert chain.inputs.documents is not None
    tokenizer = AutoTokenizer.from_pretrained(chain.inputs.tokenizer)
    assert len(tokenizer) == 300
    text = "def naïve(): return '東京 🙂'\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    record = record_of(chain.inputs.tokenizer / "run.json")
    assert record["inputs"] == {"documents": digest_file(chain.inputs.documents)}
    assert record["settings"]["vocab_size"] == 300


def test_tokenize_corpus(chain: Chain) -> None:
    assert chain.inputs.tokens is not None
    assert chain.inputs.documents is not None
    tokenizer = AutoTokenizer.from_pretrained(chain.inputs.tokenizer)
    for split in ("train", "validation"):
        rows = [r for rows in read_documents(chain.inputs.documents, split) for r in rows]
        with h5py.File(chain.inputs.tokens) as file:
            offsets, tokens = file[split]["offsets"][:], file[split]["tokens"][:]
        assert len(offsets) == len(rows) + 1
        for i in (0, len(rows) - 1):
            found = tokens[offsets[i] : offsets[i + 1]]
            assert tokenizer.decode(found) == rows[i]["text"]
