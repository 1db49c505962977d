"""The bricks of the report's page: text, tables, pictures and the sheet they are laid out with."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

#: All the page needs is in it: no script, no font and no picture comes from elsewhere.
STYLE = """
:root { --ink: #22302b; --soft: #5f6d67; --line: #dfe5e1; --wash: #f4f7f5; --accent: #2f6b3a;
  --ground: #fff; --warn: #fdf4e3; color-scheme: light; }
* { box-sizing: border-box; }
html { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
body { margin: 0; background: var(--ground); color: var(--ink); font: .95rem/1.55 system-ui, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.6rem 1.6rem 4rem; }
h1, h2 { font-family: Charter, "Iowan Old Style", Georgia, "DejaVu Serif", serif; line-height: 1.2; }
h1 { font-size: 2.3rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.4rem; margin: 3rem 0 .7rem; padding-top: 1.1rem; border-top: 2px solid var(--ink); }
h3 { font-size: .95rem; margin: 1.6rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead { color: var(--soft); margin: 0 0 1.6rem; }
.small, figcaption, caption { color: var(--soft); font-size: .84rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); margin: 1.4rem 0 .6rem;
  border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.figures div { padding: .85rem 1.1rem; border-right: 1px solid var(--line); }
.figures div:last-child { border-right: 0; }
.figures b { display: block; font-size: 1.75rem; line-height: 1.25; font-weight: 600; letter-spacing: -.02em;
  white-space: nowrap; }
.figures span { display: block; color: var(--soft); font-size: .84rem; }
.warning { background: var(--warn); border-left: 4px solid #d99a2b; padding: .55rem .9rem; max-width: none; }
figure { margin: 0; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .45rem; }
.map { display: grid; grid-template-columns: minmax(0, 1fr) 18.5rem; gap: 1.8rem; align-items: start;
  margin-top: 1.6rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.8rem; align-items: start; margin: 1rem 0; }
.plot { max-width: 46rem; margin: 1rem 0; }
.plot svg { max-width: 100%; height: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); gap: 1.1rem 1.6rem;
  margin: .8rem 0 1rem; }
.charts figcaption { margin: 0 0 .2rem; color: var(--ink); font-weight: 600; }
.long { grid-template-columns: minmax(0, 1fr); }
.long .chart { max-width: none; }
.bars { grid-template-columns: minmax(0, 30rem); }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; font-size: .88rem; max-width: none; }
.chart { display: block; width: 100%; max-width: 30rem; height: auto; }
.chart text { fill: var(--soft); font-size: 9.5px; font-variant-numeric: tabular-nums; }
.chart :is(.case, .line) { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.chart .rule { stroke: var(--line); stroke-width: .8; }
.chart .floor { stroke: var(--soft); stroke-width: .8; stroke-linecap: butt; }
.chart .spread { fill-opacity: .2; stroke: none; }
.chart .case { stroke: var(--ink); stroke-opacity: .45; stroke-width: 2.9; }
.chart .line { stroke-width: 1.8; }
.chart .bar { fill: var(--accent); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
table.wide { width: 100%; }
th, td { text-align: right; padding: .34rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 500; font-size: .8rem; vertical-align: bottom;
  border-bottom: 1px solid var(--ink); }
tbody th { font-weight: 500; }
table.prose :is(th, td) { white-space: normal; text-align: left; vertical-align: top; }
table.prose td small { max-width: 24rem; }
tr.chosen td, tr.chosen th { background: var(--wash); font-weight: 600; }
td small { display: block; color: var(--soft); font-weight: 400; font-size: .74rem; line-height: 1.2; }
table.confusion td, table.confusion tbody th { border: 2px solid var(--ground); }
table.confusion td { text-align: center; min-width: 5.2rem; }
table.confusion td small { color: inherit; opacity: .75; }
table.confusion thead th { text-align: center; white-space: normal; border: 0; }
table.confusion thead th:first-child { text-align: left; }
i.swatch { display: inline-block; width: .85rem; height: .85rem; border-radius: 3px; margin-right: .55rem;
  vertical-align: -.08rem; border: 1px solid #00000022; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.4rem; font-size: .9rem; margin: .6rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .86em ui-monospace, "DejaVu Sans Mono", monospace; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e3eae6; --soft: #9caaa3; --line: #313b36; --wash: #1f2924; --accent: #6fae7d; --ground: #141a17;
    --warn: #33291a; color-scheme: dark; }
  :is(figure img, .plot svg) { background: #fff; border-radius: 6px; padding: .3rem; }
  i.swatch { border-color: #ffffff33; }
  .chart .spread { fill-opacity: .3; }
}
@media (max-width: 46rem) { .map, .pair { grid-template-columns: 1fr; } }
@media print {
  @page { size: A4; margin: 14mm; }
  html { font-size: 11px; }
  body { font-size: 1rem; }
  main { max-width: none; padding: 0; }
  h1 { font-size: 1.9rem; }
  h2 { margin-top: 1.6rem; break-after: avoid; }
  h3, caption { break-after: avoid; }
  tr, .figures, table { break-inside: avoid; }
  .map { grid-template-columns: minmax(0, 1fr) 18.5rem; }
  .scroll { overflow: visible; }
  th, td { padding: .22rem .4rem; }
}
"""


def document(title: str, body: Sequence[str]) -> str:
    """Write a whole page."""
    content = "\n".join(part for part in body if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """Write a section under its heading; nothing where it has no part."""
    content = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>" if content else ""


def text(words: str, kind: str = "") -> str:
    """Write a paragraph; nothing where there are no words."""
    return f"<p{_class(kind)}>{escape(words)}</p>" if words else ""


def heading(words: str) -> str:
    """Write a heading within a section."""
    return f"<h3>{escape(words)}</h3>"


def picture(png: bytes | None, caption: str, kind: str = "") -> str:
    """Put a picture within the page's own bytes; nothing where there is none."""
    if png is None:
        return ""
    data = base64.b64encode(png).decode("ascii")
    alt = escape(caption, quote=True)
    return (
        f'<figure{_class(kind)}><img alt="{alt}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def figure(drawing: str, caption: str, kind: str = "") -> str:
    """Put a drawing that is part of the page (SVG) under its name."""
    return f"<figure{_class(kind)}><figcaption>{escape(caption)}</figcaption>{drawing}</figure>"


def key(entries: Sequence[tuple[str, str]]) -> str:
    """Tell which colour stands for what, in a line: (colour, name)."""
    return f'<p class="key">{"".join(f"<span>{swatch(color, name)}</span>" for color, name in entries)}</p>'


def grid(kind: str, *parts: str) -> str:
    """Put parts side by side."""
    content = "\n".join(part for part in parts if part)
    return f"<div{_class(kind)}>\n{content}\n</div>" if content else ""


def figures(entries: Sequence[tuple[str, str, str]]) -> str:
    """Show the few figures that matter most: value, what it is, its interval or unit."""
    cells = [
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span><span>{escape(detail)}</span></div>"
        for value, name, detail in entries
    ]
    return grid("figures", *cells)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", chosen: int | None = None) -> str:
    """Write a table of cells that are HTML already (`cell`, `swatch`); the first of a row is its heading."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = []
    for number, row in enumerate(rows):
        mark = ' class="chosen"' if number == chosen else ""
        first = f'<th scope="row">{row[0]}</th>'
        body.append(f"<tr{mark}>{first}{''.join(_td(value) for value in row[1:])}</tr>")
    inner = f"<thead><tr>{top}</tr></thead>\n<tbody>\n{chr(10).join(body)}\n</tbody>"
    return f'<div class="scroll"><table{_class(kind)}>\n{inner}\n</table></div>'


def cell(value: str, below: str = "") -> str:
    """Write the content of a cell with a smaller line below."""
    return escape(value) + (f"<small>{escape(below)}</small>" if below else "")


def shaded(value: str, below: str, strength: float, right: bool) -> str:
    """Write a whole cell, the deeper in colour the nearer ``strength`` is to 1: green where right, else red."""
    color = "47,107,58" if right else "184,66,44"
    return f'<td style="background:rgba({color},{0.72 * strength:.3f})">{cell(value, below)}</td>'


def swatch(color: str, name: str) -> str:
    """Write a class name behind its colour."""
    return f'<i class="swatch" style="background:{escape(color, quote=True)}"></i>{escape(name)}'


def facts(entries: Sequence[tuple[str, str]]) -> str:
    """List terms and what is said of them; what is empty is left out."""
    rows = [f"<dt>{escape(term)}</dt><dd>{escape(said)}</dd>" for term, said in entries if said]
    return f"<dl>{''.join(rows)}</dl>" if rows else ""


def _td(content: str) -> str:
    return content if content.startswith("<td") else f"<td>{content}</td>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
