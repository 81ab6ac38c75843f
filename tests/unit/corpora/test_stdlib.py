"""python-docs: real docstrings and pages, read without importing anything."""

import ast
import inspect
import json
import sys
from itertools import islice
from pathlib import Path

import pytest

from terse.corpora.stdlib import read_python_docs
from terse.errors import TerseError


@pytest.fixture(scope="module")
def documents():
    return list(read_python_docs())


def test_about_two_megabytes_of_distinct_documents(documents):
    size = sum(len(document.text.encode()) for document in documents)
    assert 1_500_000 < size < 5_000_000
    assert len(documents) > 500
    assert len({document.id for document in documents}) == len(documents)
    assert documents[:120] == list(islice(read_python_docs(), 120))


def test_documents_hold_what_python_itself_shows(documents):
    by_id = {document.id: document.text for document in documents}
    for module, thing in [(json, json.dumps), (inspect, inspect.Signature.bind), (ast, ast.walk)]:
        name = Path(inspect.getsourcefile(module)).name
        folder = "json/" if module is json else ""
        text = by_id[f"stdlib/{folder}{name}"]
        assert inspect.cleandoc(thing.__doc__).strip() in text
        assert f"{module.__name__}.{thing.__qualname__}\n\n" in text
    import pydoc_data.topics

    for name, page in pydoc_data.topics.topics.items():
        assert by_id.get(f"topics/{name}", page) == page


def test_tests_and_installed_packages_are_left_out(documents):
    parts = {part for document in documents for part in document.id.split("/")[:-1]}
    assert not parts & {"test", "tests", "site-packages", "idle_test"}


def test_nothing_is_imported(tmp_path):
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text("topics = {'b': 'B', 'a': 'A'}\n")
    (tmp_path / "evil.py").write_text('"""Read me."""\nraise SystemExit("imported")\n')
    (tmp_path / "bare.py").write_text("x = 1\n")
    (tmp_path / "nested.py").write_text(
        "if True:\n    class A:\n        '''Of A.'''\n        async def f(self):\n"
        "            '''Of f.'''\n            def g():\n                '''Of g.'''\n"
    )
    got = {document.id: document.text for document in read_python_docs(tmp_path)}
    assert got == {
        "topics/a": "A",
        "topics/b": "B",
        "stdlib/evil.py": "evil\n\nRead me.\n",
        "stdlib/nested.py": (
            "nested.A\n\nOf A.\n\n\nnested.A.f\n\nOf f.\n\n\nnested.A.f.g\n\nOf g.\n"
        ),
    }
    assert "evil" not in sys.modules


def test_a_python_without_documentation_says_so(tmp_path):
    with pytest.raises(TerseError, match="topics"):
        list(read_python_docs(tmp_path))


def test_no_page_stands_in_another_one(documents):
    """Else the validation split would hold text that is trained on."""
    pages = {d.id: d.text for d in documents if d.metadata["kind"] == "topic"}
    assert "topics/compound" in pages
    assert "topics/if" not in pages  # a section of it
    for name, text in pages.items():
        paragraphs = [part for part in text.split("\n\n") if len(part) > 80]
        for other in pages.keys() - {name}:
            n_shared = sum(part in pages[other] for part in paragraphs)
            assert n_shared < 0.9 * len(paragraphs) or len(paragraphs) < 3, (name, other)
