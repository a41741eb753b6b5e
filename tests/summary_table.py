"""A table at the end of a test run. Knows nothing of what is in it."""

import pytest


def write_table(
    terminalreporter: pytest.TerminalReporter, title: str, header: list[str], rows: list[list[str]]
) -> None:
    """Print the rows below their header, in columns as wide as what is in them."""
    lines = [header, ["---"] * len(header), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    terminalreporter.section(title)
    for line in lines:
        cells = [cell.ljust(width, "-" if cell == "---" else " ") for cell, width in zip(line, widths, strict=True)]
        terminalreporter.write_line(f"| {' | '.join(cells)} |")
