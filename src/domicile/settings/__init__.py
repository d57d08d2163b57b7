"""Floor 5, below the faces: ``domicile.yaml`` and the environment, read once, checked, and turned into
plain data.
"""

from domicile.settings.load import CONFIG_NAME, load, secrets_of
from domicile.settings.schema import SCHEMA_NAME, json_schema_text

__all__ = ["CONFIG_NAME", "SCHEMA_NAME", "json_schema_text", "load", "secrets_of"]
