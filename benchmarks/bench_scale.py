"""What a workflow takes at the size of a 7B model: tables, figures, plans, corpora, shards.

python benchmarks/bench_scale.py [--json FILE] [--only PART] [--scale SHARE] [--old COMMIT]
    [--text FOLDER]

The sizes are those of 10,000 contexts x 97 modules x 9 estimators, eight models, 10,000 shards,
5 GB of text, cut from the files in FOLDER (Debian's linux-doc has it in /usr/share/doc) or made up;
`--scale 0.01` runs a hundredth of each, and rows say the size that was run. The
reference of the tables is the code of `--old`, in a worktree of its own. Each side is a process of
its own, measured by the system: processor seconds, and the peak of its memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from frame import Row, main, row
from made_up import T, write_shards, write_text

ROOT = Path(__file__).resolve().parents[1]
OLD = "955de0d"  # the last commit whose table of dimensions was one CSV file in memory
N_CONTEXTS, N_LAYERS, N_MODELS, N_SHARDS = 10_000, 32, 8, 10_000
TEXT_BYTES = 5_000_000_000
_MOST_OF_OLD = 1000  # contexts: all of them would take the old code 36 GB
SCALE, COMMIT = 1.0, OLD
TEXT: Path | None = None

ESTIMATE = """
import sys; from pathlib import Path; from terse.activations import cache
from terse.dimension.statistics import summarise; from made_up import NAMES
shards, out = Path(sys.argv[1]), Path(sys.argv[2])
with cache.open(shards) as found:
"""
WRITE_SHARDS = """
import sys; from pathlib import Path; from made_up import write_shards
folder, n, layers, n_shards = Path(sys.argv[1]), *map(int, sys.argv[2:])
write_shards(folder, n, layers, n_shards, tensors=False)
"""
NEW_TABLE = (
    ESTIMATE
    + """
    from terse.activations.table import dimension_parts
    from terse.dimension.tidy_files import writing
    import pandas as pd
    summaries = []
    with writing(out / "ids.csv", out / "ids.parquet") as append:
        for part in dimension_parts(found, NAMES):
            append(part)
            summaries.append(summarise(part))
    pd.concat(summaries).to_csv(out / "summary.csv", index=False)
"""
)
OLD_TABLE = (
    ESTIMATE
    + """
    from terse.activations.table import dimension_table
    table = dimension_table(found, NAMES)
    table.to_csv(out / "ids.csv", index=False)
    summarise(table).to_csv(out / "summary.csv", index=False)
"""
)
MAKE_FAMILY = """
import sys; from pathlib import Path; import pandas as pd; from made_up import table_parts
from terse.dimension.statistics import summarise; from terse.dimension.tidy_files import writing
folder, n, layers, models = Path(sys.argv[1]), *map(int, sys.argv[2:])
for i in range(models):
    summaries = []
    with writing(folder / f"{i}.csv", folder / f"{i}.parquet") as append:
        for part in table_parts(f"m{i}", n, layers, i):
            append(part)
            summaries.append(summarise(part))
    pd.concat(summaries).to_csv(folder / f"{i}.summary.csv", index=False)
"""
RUN_SCRIPT = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1] + "/workflow/scripts")
folder, models, suffix, figure = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
ids = [folder / f"{i}{suffix}" for i in range(models)]
if figure == "differences":
    from compare_dimensions import compare_dimensions
    compare_dimensions(ids, folder / "differences.csv", folder / "differences.html")
elif figure == "tables":
    from tabulate_results import tabulate_results
    pair = (folder / "a.csv", folder / "a.html")
    tabulate_results(runs=[], evaluation_paths=[], run_paths=pair, dimension_paths=pair,
        summary_paths=[folder / f"{i}.summary.csv" for i in range(models)])
else:
    from plot_dimensions import plot_dimensions
    plot_dimensions(figure=figure, ids_paths=ids, curve_paths=[], window_paths=[],
        summary_paths=[folder / f"{i}.summary.csv" for i in range(models)],
        steps=[10**i for i in range(models)],
        figure_paths=[folder / f"{figure}.svg", folder / f"{figure}.pdf"])
"""
RUN_MODULE = """
import os, runpy, sys
os.chdir(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
FAMILY = ("by-layer", "by-step", "by-scale", "against-loss", "differences", "tables")
COLLECT = """
import sys; from pathlib import Path; from terse.corpora.documents import write_documents
from terse.settings.corpora import Corpus
write_documents(Corpus(source="jsonl", path=sys.argv[1], files=["*.zst"]), Path(sys.argv[2]))
"""
TRAIN = """
import sys; from pathlib import Path; from terse.corpora.tokenizers import train_bpe
train_bpe(Path(sys.argv[1]), vocab_size=4096, seed=0, folder=Path(sys.argv[2]))
"""
TOKENIZE = """
import sys; from pathlib import Path; from terse.corpora.tokenizers import load_tokenizer
from terse.corpora.tokens import tokenize_documents
tokenize_documents(Path(sys.argv[1]), load_tokenizer(Path(sys.argv[2])), Path(sys.argv[3]))
"""
BARE = """
import sys, os; from pathlib import Path; os.environ["TOKENIZERS_PARALLELISM"] = "false"
from terse.corpora.documents import read_documents
from terse.corpora.tokenizers import load_tokenizer, plain_backend
backend = plain_backend(load_tokenizer(Path(sys.argv[2])))
for rows in read_documents(Path(sys.argv[1]), columns=["text"]):
    backend.encode_batch([row["text"] for row in rows], add_special_tokens=False)
"""
CHUNK = """
import sys; from pathlib import Path; from terse.corpora.chunks import chunk_documents
chunk_documents(Path(sys.argv[1]), Path(sys.argv[2]), ctx_len=16, min_chunks_from_a_document=0,
    max_chunks_from_a_document=1000)
"""
OPEN_BARE = """
import sys, time, h5py; from pathlib import Path
start = time.process_time()
for path in sorted(Path(sys.argv[1]).iterdir()):
    h5py.File(path).close()
print(time.process_time() - start)
"""
READ_ONE = """
import sys, time, psutil; from terse.activations import cache
start = time.process_time()
with cache.open(sys.argv[1]) as found:
    found.activations["block-l3"][found.n_rows // 2]
    spent = time.process_time() - start
    print(spent, sum(file.path.endswith(".h5") for file in psutil.Process().open_files()))
"""


# The system's number for an ended process begins with the memory of the one that started it. Ours
# by its path: the other side's code may be older than the function.
PEAK = f"""
import atexit, runpy
_peak_bytes = runpy.run_path({str(ROOT / "src/terse/machine/memory.py")!r})["peak_bytes"]
atexit.register(lambda: print(_peak_bytes()))
"""


def taken(code: str, *words: object, source: Path = ROOT) -> tuple[float, float, str]:
    """Run code in a process of its own; return processor seconds, peak memory (MB), its output.

    Programs that the code starts count in the time, not in the memory.
    """
    path = os.pathsep.join([str(source / "src"), str(ROOT / "benchmarks")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK + code, *map(str, words)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a side failed with status {process.returncode}")
    *lines, peak = output.splitlines()
    return used.ru_utime + used.ru_stime, int(peak) / 1e6, "\n".join(lines)


@contextmanager
def old_code() -> Iterator[Path]:
    """Yield a worktree of the commit that ours is compared with."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "old"
        subprocess.run([*git, "add", "--detach", place, COMMIT], check=True, capture_output=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", place], check=True, capture_output=True)


def scaled(n: int, least: int = 1) -> int:
    """Return a size at this scale."""
    return max(least, round(n * SCALE))


def table() -> list[Row]:
    """Return the rows of a model's table from stored estimates."""
    n = scaled(N_CONTEXTS)
    with tempfile.TemporaryDirectory() as folder, old_code() as old:
        place = Path(folder)
        sizes = (n, N_LAYERS, min(10, n))
        taken(WRITE_SHARDS, place / "shards", *sizes)
        ours = taken(NEW_TABLE, place / "shards", place)
        written = [(place / f"ids.{kind}").stat().st_size / 1e6 for kind in ("parquet", "csv")]
        taken(WRITE_SHARDS, place / "old", *sizes, source=old)  # which reads only its own
        theirs = taken(OLD_TABLE, place / "old", place, source=old)
    size = f"{n:,} contexts x {3 * N_LAYERS + 1} modules x 9"
    return [
        row(f"table of {size}, processor s", ours[0], theirs[0], most=25.0),
        row(f"table of {size}, MB", ours[1], theirs[1], most=1000.0),
        row(f"parquet / csv of {size}, MB", *written, bound=0.1),
    ]  # fmt: skip


def family() -> list[Row]:
    """Return the rows of the figures and tables of eight models."""
    n = scaled(N_CONTEXTS)
    with tempfile.TemporaryDirectory() as folder, old_code() as old:
        taken(MAKE_FAMILY, folder, n, N_LAYERS, N_MODELS)
        sides = {"ours": (ROOT, ".parquet")}
        if n <= _MOST_OF_OLD:
            sides["old"] = (old, ".csv")
        found = {name: _figures(name, Path(folder), *side) for name, side in sides.items()}
    total, peak = ([side[i] for side in found.values()] for i in (0, 1))
    size = f"{N_MODELS} models of {n:,} contexts"
    return [
        row(f"figures and tables of {size}, processor s", total[0], total[-1], most=40.0),
        row(f"figures and tables of {size}, MB", peak[0], peak[-1], most=1500.0),
    ]


def _figures(name: str, folder: Path, source: Path, suffix: str) -> tuple[float, float]:
    """Return the processor seconds of all figures and tables, and the highest peak (MB)."""
    spent = []
    for figure in FAMILY:
        words = (source, folder, N_MODELS, suffix, figure)
        seconds, memory, _ = taken(RUN_SCRIPT, *words, source=source)
        print(f"{name}, {figure}: {seconds:.1f} s, {memory:.0f} MB", flush=True)
        spent.append((seconds, memory))
    return sum(seconds for seconds, _ in spent), max(memory for _, memory in spent)


def plans() -> list[Row]:
    """Return the rows of a dry run with 10,000 shards."""
    import bench_planning as planning

    planning.N_SHARDS = scaled(N_SHARDS // planning.N_MODELS)
    with tempfile.TemporaryDirectory() as folder:
        command, _ = planning.commands(Path(folder))
        start = time.perf_counter()
        seconds, memory, _ = taken(RUN_MODULE, ROOT, *command[2:])
        wall = time.perf_counter() - start
    size = f"dry run of {planning.N_MODELS * planning.N_SHARDS:,} shards"
    print(f"{size}: {wall:.1f} s of wall time")
    return [row(f"{size}, processor s", seconds, 12.0, most=12.0),
            row(f"{size}, MB", memory, 1200.0, most=1200.0)]  # fmt: skip


def corpus() -> list[Row]:
    """Return the rows of collecting, tokenising and chunking a large file of documents."""
    return _pipeline("documents of 4 kB", scaled(TEXT_BYTES), 4000)


def documents() -> list[Row]:
    """Return the rows of very many documents, and of a very long one, against plain text."""
    lines = _pipeline("documents of a line", scaled(100_000) * 80, 80, bare=False)
    long = _pipeline("one document", scaled(50_000_000), scaled(50_000_000), bare=False)
    half = _pipeline("one document", scaled(25_000_000), scaled(25_000_000), bare=False)
    growth = row("one document, twice as long, processor s", long[0]["ours"], half[0]["ours"],
                 bound=2.2)  # fmt: skip
    return [*lines, *long, growth]


def _pipeline(name: str, n_bytes: int, document_bytes: int, *, bare: bool = True) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        size = write_text(place / "text.jsonl.zst", n_bytes, document_bytes, TEXT)
        write_text(place / "small.jsonl.zst", 2_000_000, 4000, TEXT)
        stored, tokens = place / "documents.parquet", place / "tokens.h5"
        (place / "small").mkdir()
        (place / "small.jsonl.zst").rename(place / "small" / "small.jsonl.zst")
        taken(COLLECT, place / "small", place / "small.parquet")
        taken(TRAIN, place / "small.parquet", place / "tokenizer")
        steps = []
        for step, code, words in (
            ("collect", COLLECT, (place, stored)),
            ("tokenise", TOKENIZE, (stored, place / "tokenizer", tokens)),
            ("chunk", CHUNK, (tokens, place / "chunks.h5")),
        ):
            seconds, memory, _ = taken(code, *words)
            print(f"{name}, {step} {size / 1e6:.0f} MB: {seconds:.1f} s, {memory:.0f} MB",
                  flush=True)  # fmt: skip
            steps.append((seconds, memory))
        reference = taken(BARE, stored, place / "tokenizer")[0] if bare else steps[1][0]
    total, peak = sum(step[0] for step in steps), max(step[1] for step in steps)
    label = f"{name}, {size / 1e6:.0f} MB"
    rows = [row(f"{label}, collect + tokenise + chunk, processor s", total, total),
            row(f"{label}, peak MB", peak, 1500.0, most=1500.0)]  # fmt: skip
    if bare:
        rows.append(row(f"{label}, tokenise / bare batch, processor s", steps[1][0], reference,
                        bound=1 / 0.9))  # fmt: skip
    return rows


def shards() -> list[Row]:
    """Return the rows of one context read from 200 shards, against the bare opening of them."""
    n = scaled(200, least=2)
    ours, bare, handles = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), n, N_LAYERS, n, tensors=True)
        for _ in range(7):
            seconds, handles = map(float, taken(READ_ONE, folder)[2].split())
            ours.append(seconds)
            bare.append(float(taken(OPEN_BARE, folder)[2]))
    print(f"one context of {n} shards: {min(ours):.3f} to {max(ours):.3f} s")
    size = f"{n} shards of {3 * N_LAYERS + 1} modules, {T} tokens"
    return [
        row(f"one context of {size}, processor s", median(ours), median(bare), most=0.2),
        row(f"files open of {n} shards", handles, n, most=64.0),
    ]


PARTS = {
    "table": table, "family": family, "plans": plans, "corpus": corpus, "documents": documents,
    "shards": shards,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--old", default=OLD)
    parser.add_argument("--text", type=Path)
    given, rest = parser.parse_known_args()
    SCALE, COMMIT, TEXT, sys.argv[1:] = given.scale, given.old, given.text, rest
    sys.exit(main(__doc__, PARTS, f"scale {SCALE:g}, against {COMMIT}, one thread"))
