"""Tables for the terminal and for Markdown."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table as RichTable

__all__ = ["Table", "markdown", "show"]


@dataclass(frozen=True)
class Table:
    """A table that prints in a terminal and in Markdown.

    Attributes:
        title: heading.
        columns: heading of each column; none for a section of text, in Markdown alone.
        rows: cells, the first of each row to the left, the others to the right.
        note: paragraph below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def rich(self) -> RichTable:
        """The table for the terminal."""
        table = RichTable(
            title=self.title, title_justify="left", caption=escape(self.note) or None,
            caption_justify="left",
        )  # fmt: skip
        for k, column in enumerate(self.columns):
            table.add_column(column, justify="right" if k else "left")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """The table as Markdown, below its heading."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        cells = ("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in lines)
        table = "\n".join(cells) if self.columns else ""
        return "\n\n".join(filter(None, [f"## {self.title}", table, self.note]))


def markdown(
    title: str,
    lead: Sequence[str],
    tables: Sequence[Table],
    figures: Mapping[str, Sequence[str]],
) -> str:
    """A report as Markdown.

    Args:
        title: heading.
        lead: paragraphs on top.
        tables: the tables in their order.
        figures: title of a table -> file names of the figures behind it.

    Returns:
        The text.
    """
    blocks = [f"# {title}", *lead]
    for table in tables:
        blocks.append(table.markdown())
        blocks += [f"![{name}]({name})" for name in figures.get(table.title, [])]
    return "\n\n".join(blocks) + "\n"


def show(tables: Sequence[Table], text: str = "", alarm: bool = False) -> None:
    """Print tables on the terminal.

    Args:
        tables: the tables in their order.
        text: what to print in a panel above them, if anything.
        alarm: make the panel one that nobody overlooks.
    """
    console = Console(width=None if sys.stdout.isatty() else 110)
    if text:
        style, title = ("bold red", "WARNING") if alarm else ("green", None)
        console.print(Panel(escape(text), style=style, title=title))
    for table in tables:
        if table.columns:
            console.print(table.rich())
