"""Datasets of the hub through `datasets` itself, from a local hub."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from terse.corpora.hub import is_streamed

REPO = "someone/stories"


def parquet(texts: list[str], **columns: list) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": texts, **columns}), out, row_group_size=50)
    return out.getvalue()


def texts(split: str, n: int = 200) -> list[str]:
    return [f"{split} story {i} über 東京" for i in range(n)]


EXTRA = b"".join(
    b'{"text": "extra", "meta": {"set": "%s"}}\n' % letter for letter in (b"a", b"b", b"a")
)
CARD = b"""---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: n
    dtype: int64
  splits:
  - name: train
    num_bytes: 1
    num_examples: 400
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""


def add_stories(hub_server, **options) -> str:
    files = {
        "README.md": CARD,
        "data/train-00000-of-00002.parquet": parquet(texts("first"), n=list(range(200))),
        "data/train-00001-of-00002.parquet": parquet(texts("second"), n=list(range(200))),
        "data/extra.jsonl.gz": gzip.compress(EXTRA),
    }
    return hub_server.add("datasets", REPO, files, **options)


CODE = """
import json
from terse.corpora.sources import iterate_documents
from terse.settings.corpora import Corpus
def outcome(settings):
    try:
        found = iterate_documents(Corpus(**settings), {n_procs})
        return [[d.id, d.text, d.metadata] for d in found]
    except TerseError as error:
        return str(error)
print(json.dumps([outcome(settings) for settings in {all_settings}]))
"""


@pytest.fixture
def read(hub_server, run_python, settings_of):
    """Return a function from settings to documents or errors, all read by one new process."""

    def run(*all_settings: dict, n_procs: int = 1, endpoint: str = hub_server.url, **environment):
        full = [
            settings_of("hub", **{"path": REPO, **settings}).params() for settings in all_settings
        ]
        code = CODE.format(n_procs=n_procs, all_settings=repr(full))
        return json.loads(run_python(code, endpoint, **environment))

    return run


def texts_of(found: list) -> list[str]:
    return [text for _, text, _ in found]


def test_a_dataset_downloaded_whole_by_two_processes(hub_server, read):
    commit = add_stories(hub_server)
    (found,) = read({}, n_procs=2)
    assert texts_of(found) == texts("first") + texts("second")
    assert [name for name, _, _ in found] == [str(i) for i in range(400)]
    assert [metadata for _, _, metadata in found] == [{"n": i % 200} for i in range(400)]
    fetched = [one.path for one in hub_server.requests if "/resolve/" in one.path]
    assert fetched
    assert all(f"/resolve/{commit}/" in path for path in fetched)  # one commit, whatever comes


@pytest.mark.slow
def test_a_small_part_of_a_dataset_is_streamed(hub_server, read):
    add_stories(hub_server)
    (found,) = read({"max_dataset_size": 30})
    assert texts_of(found) == texts("first")[:30]
    assert not hub_server.asked_for("data/train-00001-of-00002.parquet")
    assert hub_server.asked_for("data/train-00000-of-00002.parquet")
    # A large part is not: it comes through the library's cache, which keeps it for the next time.
    (found,) = read({"max_dataset_size": 300})
    assert texts_of(found) == (texts("first") + texts("second"))[:300]
    (again,) = read({"max_dataset_size": 300}, HF_HUB_OFFLINE="1")
    assert again == found


@pytest.mark.parametrize(
    ("split", "size", "limit", "streamed"),
    [
        ("train", 1000, None, False),
        ("train", None, None, False),
        ("train", None, 5, True),
        ("train", 1000, 99, True),
        ("train", 1000, 100, False),
        ("train[:10%]", None, 5, False),
    ],
)
def test_what_is_streamed(split, size, limit, streamed):
    assert is_streamed(split, size, limit) == streamed


def test_files_subset_and_rows(hub_server, read):
    add_stories(hub_server)
    rows = {"files": ["*.jsonl.gz"], "dataset_subset": "meta.set=a", "split": "test"}
    one, some, none, slice_of = read(
        {"dataset_subset": "train-00001-*"},
        rows,
        {"files": ["*.csv"]},
        {"split": "train[190:210]"},
    )
    assert texts_of(one) == texts("second")
    assert some == [[str(i), "extra", {"meta": {"set": "a"}}] for i in (0, 2)]
    assert none.startswith(f"no file of dataset {REPO} matches")
    assert texts_of(slice_of) == texts("first")[190:] + texts("second")[:10]


def test_a_revision_is_that_revision_and_a_missing_one_an_error(hub_server, read):
    add_stories(hub_server)
    old = {"data.jsonl": b'{"text": "old"}\n'}
    hub_server.add("datasets", REPO, old, revision="v0/old")
    new_found, old_found, missing = read({}, {"revision": "v0/old"}, {"revision": "v9"})
    assert len(new_found) == 400
    assert texts_of(old_found) == ["old"]
    assert missing == f"dataset {REPO} has no revision 'v9'"  # not what is in the cache


def test_errors_are_one_sentence(hub_server, closed_port, read):
    add_stories(hub_server, gated=True)
    hub_server.add("datasets", "someone/script", {"script.py": b"raise SystemExit"})
    gated, absent, script = read({}, {"path": "someone/nothing"}, {"path": "someone/script"})
    assert gated.startswith(f"dataset {REPO} is gated: request access")
    assert absent.startswith("there is no dataset someone/nothing on the hub")
    assert script.endswith('no longer runs; try revision: "refs/convert/parquet"')
    allowed, split, column, name = read(
        {"max_dataset_size": 1},
        {"split": "tset"},
        {"text_column": "txt"},
        {"name": "large"},
        HF_TOKEN="hf_good",
    )
    assert texts_of(allowed) == texts("first")[:1]
    assert split == f"unknown split of dataset {REPO} 'tset'; allowed: train"
    assert column.startswith(f"row 0 of {REPO}: unknown text_column 'txt'; did you mean 'text'")
    assert name.startswith(f"cannot read dataset {REPO}: ValueError: BuilderConfig 'large'")
    url = f"http://127.0.0.1:{closed_port}"
    (unreached,) = read({"path": "someone/else"}, endpoint=url)
    assert unreached.startswith(f"cannot reach the hub at {url} for dataset someone/else")


@pytest.mark.slow
def test_transfers_that_break_and_bytes_that_are_wrong(hub_server, read):
    add_stories(hub_server)
    hub_server.break_transfers("data/train-00001-of-00002.parquet", [700])
    (found,) = read({})
    assert texts_of(found) == texts("first") + texts("second")
    hub_server.add("datasets", "someone/damaged", {"train.parquet": parquet(["a"])})
    hub_server.damage("train.parquet")
    (damaged,) = read({"path": "someone/damaged"})
    assert damaged.startswith("cannot read dataset someone/damaged: ")
    assert "\n" not in damaged
