"""Extra JSON schema of request bodies: examples, and the forms that OpenAI's `voice` takes."""

import json
from importlib import resources
from typing import Any

SCHEMA_EXTRA: dict[str, Any] = json.loads(
    (resources.files(__package__) / "static" / "schema_extra.json").read_text("utf-8")
)
"""By body, or by body and field."""
