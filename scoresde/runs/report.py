"""The page of a run, `report.html`: one file without scripts or links, made of what the run's folder holds so far."""

from __future__ import annotations

import base64
import datetime
import io
import re
from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

from scoresde.runs.files import read_results, read_rows, write_atomically
from scoresde.runs.plots import curves, training_curve

EARLIER = 6  # pictures of earlier samples on the page; of more, as many, evenly spaced


def write_report(run_dir: str | Path, title: str | None = None) -> Path:
    """Write `run_dir/report.html` from config.yaml, metrics.jsonl, results.json and samples/*.png; return its path.

    Each of them may be missing or still growing, so call it as the run goes: the page is replaced in one piece.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    run = Path(run_dir)
    if not run.is_dir():
        raise FileNotFoundError(
            f"no folder {str(run)!r} in {Path.cwd()}: write_report wants the folder of a run, such as "
            "'runs/digits_vp'. A script under experiments/ makes one: python experiments/<name>.py"
        )
    notes: list[str] = []
    rows, faults = read_rows(run / "metrics.jsonl")
    notes += [
        f"Line {number} of metrics.jsonl is not a row with a step: left out." for number in faults
    ]
    results, wrong = read_results(run / "results.json")
    notes += wrong
    sections = (
        ("Results", _headline(results.get("headline") or [])),
        ("Samples", _samples(run / "samples")),
        ("Training", _training(rows)),
        *((table.get("title") or "Table", _table(table)) for table in results.get("tables") or []),
        ("Time", _timings(results.get("timings") or {})),
        ("Made with", _made_with(results)),
        ("Settings", _config(run / "config.yaml")),
    )
    body = _status(results, rows) + "".join(
        f'<p class="warn">{escape(note)}</p>\n' for note in notes
    )
    body += "".join(
        f"<section>\n<h2>{_text(name)}</h2>\n{part}\n</section>\n"
        for name, part in sections
        if part
    )
    path = run / "report.html"
    page = PAGE.format(title=_text(title or run.absolute().name), style=STYLE, body=body)
    write_atomically(path, page.encode())
    return path


def _status(results: dict, rows: list[dict]) -> str:
    status, total = results.get("status"), results.get("total_steps")
    step = results.get("step", rows[-1]["step"] if rows else None)
    parts = [f'<b class="status {_text(status)}">{_text(status)}</b>'] if status else []
    if step is not None:
        parts.append(f"step {_text(step)}" + (f" of {_text(total)}" if total else ""))
    parts.append(f"page of {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")
    bar = (
        f"<div>{_bar(step / total)}</div>\n"
        if total and step is not None and status != "finished"
        else ""
    )
    return f"<p>{' · '.join(parts)}</p>\n" + bar


def _headline(entries: Sequence[Sequence[Any]]) -> str:
    rows = [[_text(cell) for cell in (*entry, "", "")[:3]] for entry in entries]
    rows = [
        f'<tr><th>{label}</th><td class="big">{value}</td><td>{note}</td></tr>'
        for label, value, note in rows
    ]
    return f'<table class="headline">{"".join(rows)}</table>' if rows else ""


def _samples(folder: Path) -> str:
    """The newest by the step in its name large, then pictures with other names, then earlier ones in a row."""
    pictures = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}
    pictures = {
        stem: png for stem, png in pictures.items() if b"IEND" in png[-12:]
    }  # the whole file is there
    steps = {
        stem: int(match[1]) for stem in pictures if (match := re.fullmatch(r"step_(\d+)", stem))
    }
    *earlier, newest = sorted(steps, key=steps.__getitem__) or [None]
    large = [stem for stem in pictures if stem == newest or stem not in steps]
    large.sort(key=lambda stem: stem != newest)
    count = min(len(earlier), EARLIER)
    shown = [earlier[i * len(earlier) // count] for i in range(count)]

    def figures(stems):
        names = {
            stem: f"step {_text(steps[stem])}" if stem in steps else _text(stem) for stem in stems
        }
        return "".join(
            _picture(pictures[stem], f"samples, {name}", name) for stem, name in names.items()
        )

    some = f" ({count} of {len(earlier)})" if count < len(earlier) else ""
    row = f'<h3>Earlier{some}</h3>\n<div class="row">{figures(shown)}</div>' if shown else ""
    return f'<div class="large">{figures(large)}</div>\n{row}' if large else ""


def _training(rows: list[dict]) -> str:
    if not curves(rows):
        return ""
    buffer = io.BytesIO()
    training_curve(rows).savefig(buffer, format="png")
    return _picture(buffer.getvalue(), "loss, gradient norm and learning rate by training step")


def _table(table: dict) -> str:
    """A column of numbers (None: no number) stands to the right."""
    rows = table.get("rows") or []
    right = [
        all(re.match(r"[-+]?(\d|nan|inf)|None$", str(v)) for v in column)
        for column in zip_longest(*rows)
    ]
    body = ""
    for tag, row in [("th", table.get("columns") or []), *(("td", row) for row in rows)]:
        sides = zip(row, right, strict=False)
        cells = (f"<{tag}{' class=right' * side}>{_text(cell)}</{tag}>" for cell, side in sides)
        body += f"<tr>{''.join(cells)}</tr>"
    return f'<div class="wide"><table>{body}</table></div>' if rows else ""


def _timings(timings: dict[str, float]) -> str:
    """Longest first, with the share of the entry "total" where there is one, else of the sum."""
    total = timings.get("total") or sum(timings.values())
    rows = sorted(
        ((seconds, name) for name, seconds in timings.items() if name != "total"), reverse=True
    )
    body = ""
    for seconds, name in [*rows, (total, "total")] if total else []:
        share = seconds / total
        body += f"<tr><th>{_text(name)}</th><td class=right>{_duration(seconds)}</td><td class=right>{share:.1%}</td>"
        body += f"<td class=share>{_bar(share) if name != 'total' else ''}</td></tr>"
    return f"<table>{body}</table>" if body else ""


def _made_with(results: dict) -> str:
    command, device, versions = (results.get(name) for name in ("command", "device", "versions"))
    pairs = [*([("device", device)] if device else []), *sorted((versions or {}).items())]
    lines = "".join(
        f"<tr><th>{_text(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in pairs
    )
    return (f"<pre>{_text(command)}</pre>\n" if command else "") + (
        f"<table>{lines}</table>" if lines else ""
    )


def _config(path: Path) -> str:
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    return (
        f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"
        if text.strip()
        else ""
    )


def _picture(png: bytes, alt: str, caption: str = "") -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{alt}">{caption}</figure>'


def _bar(share: float) -> str:
    return (
        f'<div class="bar"><div style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></div></div>'
    )


def _text(value: Any) -> str:
    """Escaped text; numbers to five digits, large ones in groups of three."""
    if isinstance(value, float):
        value = f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.5g}"
    elif isinstance(value, int) and abs(value) >= 10_000:
        value = f"{value:,}"
    return "–" if value is None else escape(str(value))


def _duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


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
STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #656d76; --page: #fff; --line: #d8dee4; --fill: #f3f5f7;
  --accent: #2f6db3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa3ad; --page: #16191d; --line: #333a42;
  --fill: #20252b; --accent: #6ba6e8; } }
body { max-width: 52rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: .9rem; font-weight: 400; color: var(--soft); margin: 1rem 0 .4rem; }
p { margin: .3rem 0; color: var(--soft); }
.warn { border-left: 3px solid #d2691e; padding-left: .7rem; }
.status { color: var(--accent); } .status.finished { color: #2e8b57; } .status.interrupted { color: #d2691e; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.4rem .35rem 0; text-align: left; vertical-align: baseline; }
th { font-weight: 400; color: var(--soft); } tr + tr > * { border-top: 1px solid var(--line); }
.right { text-align: right; white-space: nowrap; }
.headline .big { font-size: 1.5rem; font-weight: 600; white-space: nowrap; } .headline td { color: var(--soft); }
.headline td.big { color: var(--ink); } .wide { overflow-x: auto; }
@media (max-width: 36rem) { .headline :is(tr, th, td) { display: block; padding: 0; border: 0; }
  .headline tr { margin-bottom: .8rem; } }
figure { margin: 0; background: #fff; color: #4a5058;
  border: 1px solid var(--line); border-radius: 8px; padding: .6rem; }
figure img { display: block; max-width: 100%; height: auto; margin: auto; }
figcaption { font-size: .8rem; text-align: center; padding-top: .4rem; }
.large { display: flex; flex-wrap: wrap; gap: .8rem; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.4rem, 1fr)); gap: .6rem; }
.share { width: 14rem; } .bar { height: .5rem; border-radius: 4px; background: var(--fill); overflow: hidden; }
.bar div { height: 100%; background: var(--accent); }
pre { background: var(--fill); padding: .8rem 1rem; border-radius: 8px; overflow-x: auto; font: 13px/1.5 ui-monospace,
  "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; } summary { cursor: pointer; color: var(--soft); }
"""
