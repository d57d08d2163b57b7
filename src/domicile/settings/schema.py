"""The JSON Schema of ``domicile.yaml``, for editors."""

from __future__ import annotations

import json

from domicile.settings.file import ConfigFile

SCHEMA_NAME = "domicile.schema.json"


def json_schema_text() -> str:
    """The schema as JSON text, the same at every call; ``schemas/domicile.schema.json`` holds it."""
    schema: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "domicile.yaml",
        **{k: _tidy(v) for k, v in ConfigFile.model_json_schema().items() if k != "title"},
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _tidy(value: object) -> object:
    """Drop what misleads an editor: connection strings are ordinary text to it, and no other names are allowed."""
    match value:
        case dict():
            dropped = {"title"} if isinstance(value.get("title"), str) else set()
            dropped |= {"format", "writeOnly"} if value.get("format") == "password" else set()
            kept = {k: _tidy(v) for k, v in value.items() if k not in dropped}
            if isinstance(kept.get("description"), str):
                kept["description"] = " ".join(str(kept["description"]).split())
            return {**kept, "additionalProperties": False} if "patternProperties" in kept else kept
        case list():
            return [_tidy(v) for v in value]
        case _:
            return value
