"""The named code blocks of docs/clients: the very text that the live tests run.

A block is named by the word behind its language: "```python tour.py". Knows nothing of how one is run.
"""

import re
from pathlib import Path

PAGES = Path(__file__).resolve().parents[3] / "docs" / "clients"
DOCUMENTED_URL, DOCUMENTED_KEY = "http://localhost:8000", "atr_…"

_BLOCK = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_snippets(page: str) -> dict[str, str]:
    """The named blocks of this page (its name without .md), by their names."""
    return dict(_BLOCK.findall((PAGES / f"{page}.md").read_text()))


def list_snippets() -> set[tuple[str, str]]:
    """(page, name) of every named block of all pages."""
    return {(path.stem, name) for path in PAGES.glob("*.md") for name in read_snippets(path.stem)}


def write_snippets(page: str, folder: Path, *, url: str, key: str) -> None:
    """Put the blocks of a page into files of their names, with a real address and key in place of the page's."""
    for name, text in read_snippets(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(DOCUMENTED_URL, url).replace(DOCUMENTED_KEY, key))
