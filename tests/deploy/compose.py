"""Reads docker-compose.yml as Compose would: variables filled in, merges applied, validated."""

import re
from pathlib import Path
from typing import Any

import compose_spec

ROOT = Path(__file__).resolve().parents[2]
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


def read_compose_text() -> str:
    return (ROOT / "docker-compose.yml").read_text()


def interpolate(text: str, variables: dict[str, str]) -> str:
    """Raises KeyError for a required variable that is not given."""

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        if variables.get(match["name"]):
            return variables[match["name"]]
        if match["kind"] == "?":
            raise KeyError(match["name"])
        return match["text"] or ""

    return _VARIABLE.sub(fill, text)


def parse(text: str) -> dict[str, Any]:
    """Raises ValueError for what the Compose specification does not allow."""
    options = compose_spec.PyOptions()
    options.apply_merge = True
    compose = options.from_yaml(text)
    compose.validate()
    parsed: dict[str, Any] = compose.to_dict()
    return parsed
