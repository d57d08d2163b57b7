"""What a data map may say: every key with its meaning, once. The reader takes its known keys from here, editors the
JSON Schema made of it (``schemas/datamap.schema.json``)."""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

from domicile.model.categories import CATEGORIES
from domicile.model.datamap import PartyPolicy, Role, SharedPolicy

VERSION = 1
SCHEMA_NAME = "datamap.schema.json"
SCHEMA_TITLE = "domicile data map"
ALL_OTHERS = "all_others"

Schema = dict[str, Any]


def _text(description: str) -> Schema:
    return {"description": description, "type": "string", "minLength": 1}


def _names(description: str) -> Schema:
    return {"description": description, **_LIST}


_LIST: Schema = {"type": "array", "items": {"type": ["string", "boolean", "number", "null"]}, "uniqueItems": True}
_CATEGORIES: Schema = {
    "anyOf": [
        {"$ref": "#/$defs/category"},
        {"type": "array", "items": {"$ref": "#/$defs/category"}, "minItems": 1, "uniqueItems": True},
    ]
}
_STEP = r"(->|<-)"

TOP: Mapping[str, Schema] = {
    "version": {"description": "The version of this format.", "const": VERSION},
    "dataset": _text("The dataset of the configuration that this map describes."),
    "subject": {"$ref": "#/$defs/subject"},
    "tables": {
        "description": "Every table, by schema and name; a bare name is in public.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"$ref": "#/$defs/table"},
    },
}
SUBJECT: Mapping[str, Schema] = {
    "table": _text("The table of which one row is one subject."),
    "key": _text("Its key: one column, unique, never null."),
    "market": _text("The subject's market: an SQL expression over alias subject, for the conditions of plans."),
}
RULE: Mapping[str, Schema] = {
    "role": {"description": "What a move does with the table's rows.", "enum": [str(r) for r in Role]},
    "owner": {
        **_text("For owned tables, the first step towards the subject: column -> schema.table(column)."),
        "pattern": _STEP,
    },
    "policy": {
        "description": "For shared tables: the row must be at the target already, is copied where it is not, or a plan "
        "that needs it is refused.",
        "enum": [str(p) for p in SharedPolicy],
    },
    "personal": {
        "description": "Columns that hold personal values, each with its categories; or only a list of the columns.",
        "anyOf": [{"type": "object", "additionalProperties": _CATEGORIES}, _LIST],
    },
    "not_personal": {
        "description": "Columns that were looked at and hold nothing personal, so that map check notices a new one; or "
        f"{ALL_OTHERS}: whatever column is not listed, also one that is yet to come.",
        "anyOf": [_LIST, {"const": ALL_OTHERS}],
    },
    "object_keys": _names("Columns that hold keys of objects (files)."),
    "identities": {
        "description": "Columns that a person may be looked up by when they ask: column to kind (email, phone_number).",
        "type": "object",
        "additionalProperties": {"type": "string", "minLength": 1},
    },
    "references": {
        "description": "References that no foreign key declares, proven like declared ones: column -> table(column).",
        "type": "array",
        "items": {"type": "string", "pattern": "->"},
        "uniqueItems": True,
    },
    "parties": {
        "description": "References to a second person, who may not live where the row does: what is done then.",
        "type": "object",
        "propertyNames": {"pattern": "->"},
        "additionalProperties": {"enum": [*(str(p) for p in PartyPolicy), None]},  # null, with or without quotes
    },
}


# A row that is copied holds nothing of anybody, and somebody has looked.
_COPIED: Schema = {
    "if": {"properties": {"policy": {"const": str(SharedPolicy.COPY)}}, "required": ["policy"]},
    "then": {"required": ["not_personal"]},
}


def _object(description: str, keys: Mapping[str, Schema], required: tuple[str, ...]) -> Schema:
    return {
        "description": description,
        "type": "object",
        "properties": dict(keys),
        "required": list(required),
        "additionalProperties": False,
    }


def json_schema() -> Schema:
    """The JSON Schema of the data map's file. Names and paths that only a database can judge are text to it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA_TITLE,
        **_object("For every table of a dataset, whose rows these are and what is personal in them.", TOP, tuple(TOP)),
        "$defs": {
            "subject": _object("Who moves.", SUBJECT, ("table", "key")),
            "table": {
                **_object("What the map says of one table.", RULE, ("role",)),
                "allOf": [
                    _only_with(Role.OWNED, "owner"),
                    _only_with(Role.SHARED, "policy"),
                    _COPIED,
                ],
            },
            "category": {
                "description": "A category of personal data: a key of fideslang, or one of domicile's own below it.",
                "enum": sorted(CATEGORIES),
            },
        },
    }


def _only_with(role: Role, key: str) -> Schema:
    return {
        "if": {"properties": {"role": {"const": str(role)}}},
        "then": {"required": [key]},
        "else": {"not": {"required": [key]}},
    }


def json_schema_text() -> str:
    """The schema as JSON text, the same at every call; ``schemas/datamap.schema.json`` holds it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
