"""The documentation that ships with CPython: real English technical prose, no network needed."""

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from terse.corpora.document import Document
from terse.errors import TerseError

# Tests document nothing. The build configuration differs from machine to machine.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
SKIPPED_PREFIXES = ("_sysconfigdata_", "config-")
TOPICS = "pydoc_data/topics.py"
SAME_TEXT = 0.8  # share of a page's lines

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def read_python_docs(stdlib: Path | None = None) -> Iterator[Document]:
    """Yield one document per page of the language reference, then one per documented module.

    stdlib: folder of the standard library; the running interpreter's if None. Its modules are
    parsed, never imported. Modules without a docstring give no document.
    """
    root = stdlib or Path(sysconfig.get_path("stdlib"))
    if not (root / TOPICS).is_file():
        raise TerseError(
            f"this Python's standard library at {root} has no {TOPICS}, which python-docs reads; "
            "use a Python with its documentation, or another corpus"
        )
    yield from read_topics(root / TOPICS)
    for path in module_paths(root):
        text = docstrings_of(path, module_name(path.relative_to(root)))
        if text:
            name = path.relative_to(root).as_posix()
            yield Document(f"stdlib/{name}", text, {"kind": "module", "file": name})


def read_topics(path: Path) -> Iterator[Document]:
    """Yield the pages of pydoc_data/topics.py in order of name, each text once."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "topics":
            pages = ast.literal_eval(node.value)
            contained = contained_pages(pages)
            for name in sorted(pages.keys() - contained):
                yield Document(f"topics/{name}", pages[name], {"kind": "topic", "topic": name})


def contained_pages(pages: dict[str, str]) -> set[str]:
    """Return the pages that are mostly contained in a longer page, such as `if` in `compound`.

    Keeping them would put text of the validation split into the training split.
    """
    lines = {name: prose_lines(text) for name, text in pages.items()}
    return {
        page
        for page, own in lines.items()
        for whole in lines.values()
        if own and len(own) < len(whole) and len(own & whole) >= SAME_TEXT * len(own)
    }


def prose_lines(text: str) -> set[str]:
    """Return the lines that are long enough not to be equal by chance."""
    return {line.strip() for line in text.splitlines() if len(line.strip()) > 30}


def module_paths(root: Path) -> Iterator[Path]:
    """Yield the library's modules in order of path, without tests and installed packages."""
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).parts
        skipped = SKIPPED_FOLDERS.intersection(parts[:-1])
        if not skipped and not any(part.startswith(SKIPPED_PREFIXES) for part in parts):
            yield path


def module_name(path: Path) -> str:
    """Return the dotted name of the module at a path relative to the library's root."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstrings_of(path: Path, name: str) -> str:
    """Return all docstrings of a module in source order, each below the name it documents."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some modules have invalid escapes on purpose
        tree = ast.parse(path.read_bytes())
    sections = [f"{title}\n\n{text.strip()}" for title, text in walk(tree, name)]
    return "\n\n\n".join(sections) + "\n" if sections else ""


def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, docstring) of a node and of the classes and functions inside it."""
    if isinstance(node, Documented) and (text := ast.get_docstring(node)):
        yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from walk(child, f"{name}.{child.name}")
        elif not isinstance(child, ast.expr):
            yield from walk(child, name)
