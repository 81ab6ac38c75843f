"""The JSON schema of the configuration, for editors."""

import json
from typing import Any

from terse.config.methods import METHODS
from terse.config.workflow import Workflow


def schema() -> dict[str, Any]:
    """Return the JSON schema of `config/config.yaml` and its overlays."""
    document = Workflow.model_json_schema()
    definitions = document["$defs"]
    del definitions["Run"]
    for settings in METHODS.values():
        block = settings.model_json_schema()
        definitions.update(block.pop("$defs", {}))
        block["properties"]["method"] = {"const": settings.model_fields["method"].default}
        block["properties"]["sweep"] = {"type": "object", "description": "keys with lists"}
        block["required"] = ["method"]  # the rest may come from a sweep or another file
        definitions[settings.__name__] = block
    choices = [{"$ref": f"#/$defs/{settings.__name__}"} for settings in METHODS.values()]
    document["properties"]["runs"]["additionalProperties"] = {"oneOf": choices}
    document["title"] = "terse"
    return document


def schema_text() -> str:
    """Return the text of `config/schema.json`."""
    return json.dumps(schema(), indent=2) + "\n"
