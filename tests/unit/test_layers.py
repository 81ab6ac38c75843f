"""Each room of the package imports from the rooms below it only, lazily or for types too."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "terse"
LAYERS = (
    "errors < artifacts, provenance < dimension, models, machine, hub < settings < corpora, "
    "activations, figures < evaluation < training < methods < config < job, importer, launch < cli"
)
FLOOR = {
    room: floor for floor, names in enumerate(LAYERS.split(" < ")) for room in names.split(", ")
}


def imported(path: Path) -> set[str]:
    """Return the rooms that a module takes something from, by import or as "module:name"."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"terse[\w.]+:\w+", str(node.value)):
            found.add(str(node.value))
    return {re.split("[.:]", name)[1] for name in found if name.startswith("terse.")}


def test_every_room_imports_from_below() -> None:
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            upward = {r for r in imported(path) - {room} if FLOOR[r] >= FLOOR[room]}
            assert not upward, f"{path.relative_to(PACKAGE)} imports from {sorted(upward)}"
