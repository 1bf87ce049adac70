"""Self-contained HTML: tables, pictures as data URIs, plots as inline SVG. No script, no address outside the file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from torch import Tensor

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #191920; background: #faf9f6; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } section { margin: 2.5rem 0 }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd9cf }
th { color: #5a5a64; font-weight: 600 }
td { white-space: nowrap } th:first-child, td:first-child { text-align: left; white-space: normal }
.wide { overflow-x: auto }
.grid { display: flex; flex-wrap: wrap; gap: .8rem } figure { margin: 0 }
figcaption { font-size: .85rem; color: #5a5a64; max-width: 12rem }
img { display: block; image-rendering: pixelated; width: 12rem; height: auto }
.lines { display: grid; gap: .6rem; margin: 1rem 0 } .lines img { width: 100% }
.lines figcaption { font-size: .75rem; line-height: 1.25 }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(32rem, 100%), 1fr)); gap: 1rem }
.note { color: #5a5a64; max-width: 60rem }
svg { max-width: 100%; height: auto } svg text { font: 13px system-ui, sans-serif; fill: #191920 }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A whole document around sections of HTML; the title is escaped, the sections are not."""
    icon = '<link rel="icon" href="data:,">'
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>{icon}<style>{STYLE}</style>'
    body = "\n".join(sections)
    content = f"<h1>{escape(title)}</h1>\n{body}"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{content}\n</body></html>\n'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; every cell is escaped."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def data_uri(image: Tensor) -> str:
    """A picture `[3,H,W]` or `[H,W]` in 0..1 as a PNG inside an address."""
    from PIL import Image

    array = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array if array.ndim == 2 else array.transpose(1, 2, 0)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def figure(label: str, image: Tensor) -> str:
    """A picture with its label below."""
    words = escape(label, quote=True)
    return f'<figure><img alt="{words}" src="{data_uri(image)}"><figcaption>{words}</figcaption></figure>'


def grid(panels: Sequence[tuple[str, Tensor]], columns: int = 0) -> str:
    """Pictures with labels: so many in a line, made as narrow as that takes, or (0) as many as fit."""
    figures = "".join(figure(label, image) for label, image in panels)
    if not columns:
        return f'<div class="grid">{figures}</div>'
    style = f"grid-template-columns: repeat({columns}, minmax(0, 12rem))"
    return f'<div class="lines" style="{style}">{figures}</div>'


def plots(drawings: Sequence[str]) -> str:
    """Drawings (SVG) two in a line where the window is wide enough."""
    return f'<div class="plots">{"".join(drawings)}</div>'


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(parts) + "</section>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def page_of(title: str, data: Any, pictures: Sequence[Tensor]) -> str:
    """A page for any JSON value: lists of numbers as tables, the rest as nested lists, pictures below."""
    parts = [section("Measurements", _Tables().html(data))]
    if pictures:
        parts.append(section("Pictures", grid([(f"picture {i + 1}", p) for i, p in enumerate(pictures)])))
    return page(title, parts)


class _Tables:
    """Any JSON value as HTML, where a table that stood before under another heading is only named: the mean of one
    picture, the mean of its foreground ratio and its own numbers are the same."""

    def __init__(self) -> None:
        self._headings: dict[str, str] = {}  # of the tables so far

    def html(self, data: Any, heading: str = "") -> str:
        if isinstance(data, Mapping):
            rows = _table_of(data)
            return "".join(self._part(*item) for item in data.items()) if rows is None else self._once(rows, heading)
        if isinstance(data, list):
            return "<ol>" + "".join(f"<li>{self.html(value)}</li>" for value in data) + "</ol>"
        return f"<p>{escape(_shown(data))}</p>"

    def _part(self, key: Any, value: Any) -> str:
        return f"<h3>{escape(str(key))}</h3>{self.html(value, str(key))}"

    def _once(self, rows: str, heading: str) -> str:
        if rows in self._headings:
            return note(f"The same as {self._headings[rows]}.")
        if heading:
            self._headings[rows] = heading
        return rows


def _table_of(data: Mapping[str, Any]) -> str | None:
    """The table of measurements, or of names and values; None for what holds anything deeper, and for nothing."""
    if data and all(isinstance(value, Mapping) and "value" in value for value in data.values()):
        columns = list(dict.fromkeys(key for value in data.values() for key in value if key != "name"))
        return table(["metric", *columns], [[k, *(_shown(v.get(c, "")) for c in columns)] for k, v in data.items()])
    if data and not any(isinstance(value, Mapping | list) for value in data.values()):
        return table(["name", "value"], [[key, _shown(value)] for key, value in data.items()])
    return None


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
