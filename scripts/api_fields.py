"""Writes docs/api-fields.md: every request field of the endpoints we serve, and what this server does with it.

`api_endpoints.py` has the fields and our classes of them: a field that is in none of these ends the run, and the test
that compares the page with the schemas. Run `python -m scripts.api_fields` after a change of either.
"""

import json
import os
from pathlib import Path

import django

from scripts.api_endpoints import HONOURED, REFUSED, Endpoint, Table, list_tables

PAGE = Path(__file__).parent.parent / "docs" / "api-fields.md"
_HEAD = """# Request fields

Written by `python -m scripts.api_fields` from the schemas and from the request types of openai-python {openai} and
anthropic {anthropic}. What each field does is in [api.md](api.md), with the fields that other servers have at OpenAI's
endpoints, which are not listed here.

- **honoured**: it has its effect; a value that cannot have one is a 400 with the field as `param`;
- accepted: bookkeeping, without effect on the answer;
- refused: a 400 with the field as `param`, but for `null` and the values in brackets, which ask for nothing;
- empty: there is no such field; where we have none either, it is a 400 with the code `unknown_parameter`.
"""


def make_page() -> str:
    """The whole page. Raises KeyError for a field that is in no class."""
    import anthropic
    import openai

    head = _HEAD.format(openai=openai.__version__, anthropic=anthropic.__version__)
    return head + "".join(map(_write_table, list_tables()))


def _write_table(table: Table) -> str:
    endpoints = table.endpoints.values()
    lines = [
        f"| field | {' | '.join(f'`{name}`' for name in table.endpoints)} |",
        "|---" * (len(endpoints) + 1) + "|",
    ]
    for field in sorted({field for endpoint in endpoints for field in endpoint.fields}):
        lines.append(f"| `{field}` | {' | '.join(_make_cell(endpoint, field) for endpoint in endpoints)} |")
    return f"\n## {table.title}\n\n{table.about}\n\n" + "\n".join(lines) + "\n"


def _make_cell(endpoint: Endpoint, field: str) -> str:
    if field not in endpoint.fields:
        return ""
    kind = endpoint.classify(field)
    if kind == HONOURED:
        return f"**{HONOURED}**"
    if kind == REFUSED and endpoint.neutral[field]:
        values = (f"`{json.dumps(value)}`" for value in endpoint.neutral[field])
        return f"{REFUSED} ({', '.join(values)})"
    return kind


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    django.setup()
    PAGE.write_text(make_page())
