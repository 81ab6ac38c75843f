"""The JSON schema of the configuration, for editors, and the list of keys, for readers."""

import json
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from terse.config.methods import methods
from terse.config.workflow import Workflow
from terse.settings.activations import Activations, Capture, Chunking, Estimation
from terse.settings.corpora import Corpus, Tokenizer
from terse.settings.frontier import Frontier
from terse.settings.harness import Harness
from terse.settings.models import Model
from terse.settings.roots import Roots
from terse.settings.run import Run
from terse.settings.select import Select
from terse.settings.strict import Strict

MARKER = "<!-- below this line: made by `make schema` from the code -->\n"


def schema() -> dict[str, Any]:
    """Return the JSON schema of `config/config.yaml` and its overlays."""
    document = Workflow.model_json_schema()
    definitions, blocks = document["$defs"], [spec.settings for spec in methods().values()]
    del definitions["Run"]
    for settings in blocks:
        block = settings.model_json_schema()
        definitions.update(block.pop("$defs", {}))
        block["properties"]["method"] = {"const": settings.model_fields["method"].default}
        block["properties"]["sweep"] = {"type": "object", "description": "keys with lists"}
        block["required"] = ["method"]  # the rest may come from a sweep or another file
        definitions[settings.__name__] = block
    choices = [{"$ref": f"#/$defs/{settings.__name__}"} for settings in blocks]
    document["properties"]["runs"]["additionalProperties"] = {"oneOf": choices}
    document["title"] = "terse"
    return document


def schema_text() -> str:
    """Return the text of `config/schema.json`."""
    return json.dumps(schema(), indent=2) + "\n"


def readme_text(root: Path) -> str:
    """Return the text of `config/README.md`: what is above the marker, and all keys."""
    written, _, _ = (root / "config" / "README.md").read_text().partition(MARKER)
    own = set(Chunking.model_fields) | set(Capture.model_fields) | set(Estimation.model_fields)
    sections = [
        _section("Top level", Workflow),
        _section("`roots`", Roots),
        _section("`corpora.{corpus}`", Corpus),
        _section("`tokenizers.{tokenizer}`", Tokenizer),
        _section("`runs.{run}`, every method", Run),
        *(section for n, spec in methods().items() for section in _sections_of(n, spec.settings)),
        _section("`models.{model}`", Model),
        _section("`activations`: which contexts", Chunking),
        _section("`activations`: what is written", Capture),
        _section("`activations`: which dimensions", Estimation),
        _section("`activations`: jobs", Activations, hidden=own),
        _section("`harness`", Harness),
        _section("`frontier.{study}`", Frontier),
        _section("`select`", Select),
    ]
    return written + MARKER + "\n".join(sections)


def _sections_of(name: str, settings: type[Run]) -> list[str]:
    """Return the section of a method's keys, and one for each block among them."""
    title = f"`runs.{{run}}`, method `{name}`"
    sections = [_section(title, settings, hidden=set(Run.model_fields))]
    return sections + [
        _section(f"`runs.{{run}}.{key}`, method `{name}`", block)
        for key, field in settings.model_fields.items()
        for block in _blocks_in(field.annotation)
    ]


def _blocks_in(annotation: Any) -> list[type[Strict]]:
    """Return the blocks that a key takes: alone, in a list, or as an alternative to null."""
    if get_origin(annotation) in (list, Union, UnionType):
        return [block for part in get_args(annotation) for block in _blocks_in(part)]
    is_block = isinstance(annotation, type) and issubclass(annotation, Strict)
    return [annotation] if is_block else []


def _section(title: str, block: type[Strict], hidden: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """Return a heading and a table with a row for each key of a block."""
    properties = block.model_json_schema()["properties"]
    rows = [
        f"| `{key}` | {_type(properties[key])} | {_default(field)} | {field.description or ''} |"
        for key, field in block.model_fields.items()
        if key not in hidden
    ]
    head = f"\n## {title}\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    parts = value if isinstance(value, list) else [value]
    if value == {} or any(isinstance(part, Strict) for part in parts):
        return ""
    return f"`{json.dumps(value)}`"


def _type(property: dict[str, Any]) -> str:
    """Return what a key takes, with its range, from its JSON schema."""
    if "enum" in property:
        return ", ".join(f"`{choice}`" for choice in property["enum"])
    if "const" in property:
        return f"`{property['const']}`"
    if "anyOf" in property:
        return " or ".join(_type(choice) for choice in property["anyOf"])
    if property.get("type") == "array":
        return f"list of {_type(property['items'])}"
    name: str = property.get("type", "block")
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    ranges = [f"{sign} {property[key]:g}" for key, sign in bounds.items() if key in property]
    return " ".join(["map" if name == "object" else name, *ranges])
