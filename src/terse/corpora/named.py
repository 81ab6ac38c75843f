"""Well-known corpora by name: what to write under `corpora` for each. Imports nothing."""

from typing import Any

# The Pile's subsets that are on the hub as parquet, up to 100,000 documents each.
PILE_SUBSETS = (
    "arxiv",
    "dm_mathematics",
    "europarl",
    "github",
    "hackernews",
    "philpapers",
    "pile-cc",
    "pubmed_abstracts",
    "pubmed_central",
    "uspto_backgrounds",
    "wikipedia_en",
)
GLUE_COLUMNS = {
    "cola": "sentence",
    "mnli": "premise",
    "mrpc": "sentence1",
    "qnli": "sentence",
    "qqp": "question1",
    "rte": "sentence1",
    "sst2": "sentence",
    "stsb": "sentence1",
    "wnli": "sentence1",
}

# What ends a sentence, and with it a step of a plain text: punctuation and space, or a new line.
SENTENCE_END = r"[.!?]['\")\]]*\s+|\s*\n\s*"

# The tasks whose rows are pairs: the columns of the first and the second text.
GLUE_PAIRS = {
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}


def hub(path: str, **settings: Any) -> dict[str, Any]:
    """Return the settings of a hub dataset."""
    return {"source": "hub", "path": path, **settings}


TEXTS: dict[str, dict[str, Any]] = {
    "python-docs": {"source": "python-docs"},
    "openwebtext": hub("Skylion007/openwebtext"),
    "pile": hub("monology/pile-uncopyrighted", split="train"),
    "pile-test": hub("monology/pile-uncopyrighted", files=["test.jsonl.zst"], split="test"),
    "pile-val": hub("monology/pile-uncopyrighted", files=["val.jsonl.zst"], split="validation"),
    # allenai/dolma itself is a script, which the datasets library no longer runs.
    "dolma-sample": hub("devingulliver/dolma-v1_6-sample"),
    # One row per article; in Salesforce/wikitext a row is a line.
    "wikitext-103": hub(
        "EleutherAI/wikitext_document_level", name="wikitext-103-raw-v1", text_column="page"
    ),
    "tinystories": hub("roneneldan/TinyStories"),
    "fineweb-edu": hub("HuggingFaceFW/fineweb-edu", name="sample-10BT"),
    **{
        f"pile-{subset.replace('_', '-')}": hub(f"timaeus/pile-{subset}") for subset in PILE_SUBSETS
    },
    **{
        f"glue-{task}": hub("nyu-mll/glue", name=task, text_column=column)
        for task, column in GLUE_COLUMNS.items()
    },
    **{
        f"glue-{task}-pairs": hub(
            "nyu-mll/glue", name=task, text_column=first, second_column=second
        )
        for task, (first, second) in GLUE_PAIRS.items()
    },
}

PLAIN = (
    "python-docs", "openwebtext", "pile", "pile-test", "pile-val", "dolma-sample", "wikitext-103",
    "tinystories", "fineweb-edu",
)  # fmt: skip
# Texts, and both texts of a pair, as chains of sentences, for methods that read steps.
_CHAINS = {name: name for name in PLAIN} | {
    f"glue-{task}": f"glue-{task}-pairs" for task in GLUE_PAIRS
}
NAMED: dict[str, dict[str, Any]] = TEXTS | {
    f"{name}-sentences": TEXTS[text] | {"separator_pattern": SENTENCE_END}
    for name, text in _CHAINS.items()
}
