"""Tables for people that stay readable in a narrow terminal.

Nothing but sentences is wrapped. These stand in their column where that is wide enough,
otherwise below their row. Names that leave no room are cut in the middle: what tells them
apart is mostly at their ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_SENTENCES: Final = frozenset({"DETAIL", "WHY", "REMEDY", "AGREES WITH"})
_NAMES: Final = frozenset({"NAME", "SET", "USER", "NODE", "IMAGE"})
_GAP: Final = 2
_INDENT: Final = 4
_SHORTEST_NAME: Final = 8
_READABLE: Final = 32  # cells that a sentence needs to stand in a column

Colour = Callable[[str], str]


@dataclass(frozen=True)
class _Column:
    name: str
    cells: list[str]
    to_right: bool

    @property
    def width(self) -> int:
        return max(map(cell_len, [self.name, *self.cells]))

    def cut(self, width: int) -> _Column:
        return _Column(self.name, [_cut(cell, width) for cell in self.cells], self.to_right)


def draw(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str], colour: Colour
) -> None:
    """Print a table; ``numbers`` are columns set to the right, ``colour`` that of a cell."""
    cells = list(rows)
    table = [
        _Column(name, [row[at] for row in cells], name in numbers)
        for at, name in enumerate(columns)
    ]
    console = Console()
    said = [column for column in table if column.name in _SENTENCES]
    rest = [column for column in table if column.name not in _SENTENCES]
    room = console.width - _width(rest) - _GAP * len(said)
    if _width(table) <= console.width:
        _print(console, table, [], colour)
    elif said and room >= _READABLE * len(said):
        _print_wrapped(console, table, colour)
    else:
        _print(console, _fitted(rest, console.width), said, colour)


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _fitted(columns: list[_Column], width: int) -> list[_Column]:
    """The columns with names cut, the widest first, as far as it takes and helps."""
    widths = {column.name: column.width for column in columns if column.name in _NAMES}
    lacking = _width(columns) - width
    while lacking > 0 and widths and max(widths.values()) > _SHORTEST_NAME:
        widths[max(widths, key=lambda name: widths[name])] -= 1
        lacking -= 1
    return [
        column.cut(widths[column.name]) if column.name in widths else column for column in columns
    ]


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    head = width - 1 - tail
    return f"{set_cell_size(text, head)}…{set_cell_size(text[::-1], tail)[::-1]}"


def _print(
    console: Console, columns: Sequence[_Column], below: Sequence[_Column], colour: Colour
) -> None:
    """One line per row, and below it the sentences, where there are any.

    A line that is too long all the same is left to the terminal: what it wraps is still
    copied in one piece.
    """
    widths = [column.width for column in columns]

    def line(cells: Sequence[str], style: Callable[[str], str]) -> Text:
        text = Text()
        for column, cell, width in zip(columns, cells, widths, strict=True):
            space = " " * (width - cell_len(cell))
            text.append(space if column.to_right else "")
            text.append(cell, style(cell))
            text.append(" " * _GAP if column.to_right else space + " " * _GAP)
        text.rstrip()
        return text

    console.print(line([column.name for column in columns], lambda _: "bold"), soft_wrap=True)
    for at in range(len(columns[0].cells)):
        row = [column.cells[at].replace("\n", " ") for column in columns]
        console.print(line(row, colour), soft_wrap=True)
        for sentence in (column.cells[at] for column in below):
            if sentence:
                console.print(Padding(Text(sentence), (0, 0, 0, _INDENT)))


def _print_wrapped(console: Console, columns: Sequence[_Column], colour: Colour) -> None:
    """Sentences in their columns, on as many lines as they take there."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_said = column.name in _SENTENCES
        table.add_column(
            column.name,
            no_wrap=not is_said,
            overflow="fold",
            min_width=None if is_said else column.width,
            justify="right" if column.to_right else "left",
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(cell, style=colour(cell)) for cell in cells))
    console.print(table)
