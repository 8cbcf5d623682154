"""Parts of an HTML page: text, numbers, pictures and bars, its template and its style."""

from __future__ import annotations

import base64
from html import escape
from typing import Any


def fill_page(title: str, body: str) -> str:
    """Returns a page that needs no other file: no script, no link, no font."""
    return PAGE.format(title=text(title), style=STYLE, body=body)


def text(value: Any) -> str:
    """Returns the value as escaped text: numbers to five digits, large ones in groups of three."""
    if value is None:
        return "–"

    if isinstance(value, float):
        value = f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.5g}"
    elif isinstance(value, int) and abs(value) >= 10_000:
        value = f"{value:,}"
    return escape(str(value))


def duration(seconds: float) -> str:
    """Returns a time in the units that suit it: "1.23 ms", "59.9 s", "1 min 00 s", "1 h 01 min"."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"

    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def bar(share: float) -> str:
    """Returns a bar of which this share, limited to [0, 1], is filled."""
    percent = 100 * min(max(share, 0.0), 1.0)
    return f'<div class="bar"><div style="width:{percent:.1f}%"></div></div>'


def picture(png: bytes, alt: str, caption: str = "") -> str:
    """Returns a PNG as a part of the page itself; `alt` and `caption` are escaped already."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{alt}">{caption}</figure>'


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}</body>
</html>
"""

# A backslash at the end of a line continues it: the page gets one line.
STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #656d76; --page: #fff; \
--line: #d8dee4; --fill: #f3f5f7;
  --accent: #2f6db3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa3ad; --page: #16191d; \
--line: #333a42;
  --fill: #20252b; --accent: #6ba6e8; } }
body { max-width: 52rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; background: var(--page); \
color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem; \
border-bottom: 1px solid var(--line); }
h3 { font-size: .9rem; font-weight: 400; color: var(--soft); margin: 1rem 0 .4rem; }
p { margin: .3rem 0; color: var(--soft); }
.warn { border-left: 3px solid #d2691e; padding-left: .7rem; }
.status { color: var(--accent); } .status.finished { color: #2e8b57; } \
.status.interrupted { color: #d2691e; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.4rem .35rem 0; text-align: left; vertical-align: baseline; }
th { font-weight: 400; color: var(--soft); } tr + tr > * { border-top: 1px solid var(--line); }
.right { text-align: right; white-space: nowrap; }
.headline .big { font-size: 1.5rem; font-weight: 600; white-space: nowrap; } \
.headline td { color: var(--soft); }
.headline td.big { color: var(--ink); } .wide { overflow-x: auto; }
@media (max-width: 36rem) { .headline :is(tr, th, td) { display: block; padding: 0; border: 0; }
  .headline tr { margin-bottom: .8rem; } }
figure { margin: 0; background: #fff; color: #4a5058;
  border: 1px solid var(--line); border-radius: 8px; padding: .6rem; }
figure img { display: block; max-width: 100%; height: auto; margin: auto; }
figcaption { font-size: .8rem; text-align: center; padding-top: .4rem; }
.large { display: flex; flex-wrap: wrap; gap: .8rem; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.4rem, 1fr)); gap: .6rem; }
.share { width: 14rem; } .bar { height: .5rem; border-radius: 4px; background: var(--fill); \
overflow: hidden; }
.bar div { height: 100%; background: var(--accent); }
pre { background: var(--fill); padding: .8rem 1rem; border-radius: 8px; overflow-x: auto; \
font: 13px/1.5 ui-monospace,
  "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; } \
summary { cursor: pointer; color: var(--soft); }
"""
