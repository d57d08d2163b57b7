"""The JSON Schema of ``domicile.yaml``, for editors."""

from __future__ import annotations

import json

from domicile.settings.file import ConfigFile

SCHEMA_NAME = "domicile.schema.json"


def json_schema_text() -> str:
    """The schema as JSON text, the same at every call; ``schemas/domicile.schema.json`` holds it."""
    schema: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ConfigFile.model_json_schema(),
        "title": "domicile.yaml",
    }
    return json.dumps(_tidy(schema), indent=2, ensure_ascii=False) + "\n"


def _tidy(value: object) -> object:
    """Drop what misleads an editor: connection strings are ordinary text to it, not write-only password
    fields.
    """
    match value:
        case dict():
            dropped = ("format", "writeOnly") if value.get("format") == "password" else ()
            return {
                k: " ".join(v.split()) if k == "description" and isinstance(v, str) else _tidy(v)
                for k, v in value.items()
                if k not in dropped
            }
        case list():
            return [_tidy(v) for v in value]
        case _:
            return value
