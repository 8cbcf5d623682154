"""The report of a run, `report.html`: one page made of what the run's folder holds so far."""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

from scoresde.reading import read_file
from scoresde.runs.description import model_rows, training_rows
from scoresde.runs.files import read_results, read_rows
from scoresde.runs.likelihoods import read_likelihoods
from scoresde.runs.manifest import newest_manifest
from scoresde.runs.page import bar, duration, fill_page, picture, text
from scoresde.runs.training_curve import curves, training_curve
from scoresde.runs.yaml_files import LARGEST
from scoresde.writing import write_atomically

EARLIER = 6
"""How many pictures of earlier samples are shown; if there are more, these are evenly spaced."""
LARGEST_PICTURES = 2**26
"""The bytes that all pictures of a page may hold together: 64 MB."""


def write_report(
    run_dir: str | Path, title: str | None = None, out: str | Path | None = None
) -> Path:
    """Writes the page of a run, by default `run_dir/report.html`, and returns its path.

    The page is made of config.yaml, metrics.jsonl, results.json, samples/*.png, figures/*.png,
    likelihood/*.json
    and what the newest checkpoint says about itself. Any of them may be missing or still growing,
    so it can be called while the run proceeds: the page appears whole or not at all. title: by
    default the folder's name. out: the file to write instead.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    run = Path(run_dir)
    if not run.is_dir():
        raise FileNotFoundError(
            f"no folder {str(run)!r} in {Path.cwd()}: write_report wants the folder of a run, such "
            f"as 'runs/digits_vp'. A script under experiments/ makes one: "
            f"python experiments/<name>.py"
        )

    rows, notes = read_rows(run / "metrics.jsonl")
    results, result_notes = read_results(run / "results.json")
    notes = [*notes, *result_notes]
    sections = _sections(run, results, rows, notes)

    body = _status(results, rows)
    for note in notes:
        body += f'<p class="warn">{escape(note)}</p>\n'
    for heading, content in sections:
        if content:
            body += f"<section>\n<h2>{text(heading)}</h2>\n{content}\n</section>\n"

    path = run / "report.html" if out is None else Path(out)
    page = fill_page(title or run.absolute().name, body)
    write_atomically(path, page.encode(errors="replace"))  # texts and names may be no Unicode
    return path


def _sections(
    run: Path, results: dict, rows: list[dict], notes: list[str]
) -> list[tuple[str, str]]:
    """Returns the headings of the page, in order, with their content; "" where there is none.

    It adds notes on files that were left out.
    """
    manifest = newest_manifest(run / "checkpoints")
    likelihoods, left_out = read_likelihoods(run / "likelihood")
    notes += left_out
    room = LARGEST_PICTURES
    samples, room = _whole_pictures(run / "samples", room, notes)
    figures, room = _whole_pictures(run / "figures", room, notes)
    tables = [
        (table.get("title") or "Table", _table(table)) for table in results.get("tables") or []
    ]
    return [
        ("Results", _headline(results.get("headline") or [])),
        ("Likelihood", _headline(likelihoods)),
        ("Samples", _samples(samples)),
        ("Training", _training(rows)),
        ("Figures", _named_pictures(figures)),
        *tables,
        ("Model and data", _rows(model_rows(manifest)) if manifest else ""),
        ("Training settings", _rows(training_rows(manifest)) if manifest else ""),
        ("Time", _timings(results.get("timings") or {}) + _resumes(rows)),
        ("Made with", _made_with(results)),
        ("Settings", _config(run / "config.yaml", notes)),
    ]


def _status(results: dict, rows: list[dict]) -> str:
    """Returns a line with the run's status, step and the time, and a bar while it is training."""
    status = results.get("status")
    total = results.get("total_steps")
    step = results.get("step", rows[-1]["step"] if rows else None)

    parts = []
    if status:
        parts.append(f'<b class="status {text(status)}">{text(status)}</b>')
    if step is not None:
        parts.append(f"step {text(step)}" + (f" of {text(total)}" if total else ""))
    parts.append(f"page of {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")
    line = f"<p>{' · '.join(parts)}</p>\n"

    if total and step is not None and status != "finished":
        line += f"<div>{bar(step / total)}</div>\n"
    return line


def _headline(entries: Sequence[Sequence[Any]]) -> str:
    """Returns the main results: rows of a label, a value in large type and a note."""
    if not entries:
        return ""

    rows = ""
    for entry in entries:
        label, value, note = (text(cell) for cell in (*entry, "", "")[:3])
        rows += f'<tr><th>{label}</th><td class="big">{value}</td><td>{note}</td></tr>'
    return f'<table class="headline">{rows}</table>'


# --- Samples ---


def _samples(pictures: dict[str, bytes]) -> str:
    """Returns the pictures of samples: large ones, then a row of earlier ones.

    Large are the newest `step_<number>.png`, which comes first, and those with any other name.
    """
    if not pictures:
        return ""

    steps = _steps(pictures)
    by_step = sorted(steps, key=steps.__getitem__)
    newest = by_step[-1:]
    earlier = by_step[:-1]
    others = [stem for stem in pictures if stem not in steps]

    large = [*newest, *others]
    html = f'<div class="large">{_figures(large, pictures, steps)}</div>\n'
    if earlier:
        count = min(len(earlier), EARLIER)
        shown = [earlier[i * len(earlier) // count] for i in range(count)]
        some = f" ({count} of {len(earlier)})" if count < len(earlier) else ""
        html += f'<h3>Earlier{some}</h3>\n<div class="row">{_figures(shown, pictures, steps)}</div>'
    return html


def _named_pictures(pictures: dict[str, bytes]) -> str:
    """Returns all pictures, each under its name."""
    html = "".join(picture(png, text(stem), text(stem)) for stem, png in pictures.items())
    return f'<div class="large">{html}</div>' if html else ""


def _whole_pictures(folder: Path, room: int, notes: list[str]) -> tuple[dict[str, bytes], int]:
    """Returns the PNG files by name, without those that are still being written, and the bytes of
    `room` that they leave. It adds notes on files that were left out, which are old ones where
    there is not room for all."""
    pictures = {}
    for path in _newest_first(folder.glob("*.png")):
        try:
            png = read_file(path, room, inside=folder.parent)
        except (OSError, ValueError) as error:
            notes.append(f"{folder.name}/{path.name} was left out: {error}")
            continue
        if png.startswith(b"\x89PNG") and b"IEND" in png[-12:]:
            pictures[path.stem] = png
            room -= len(png)
    return dict(sorted(pictures.items())), room


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    """Returns pictures in the order in which they matter: those of no step, then of later steps."""
    named = {path.stem: path for path in paths}
    steps = _steps(named)
    others = sorted(named.keys() - steps.keys())
    return [named[stem] for stem in (*others, *sorted(steps, key=lambda stem: -steps[stem]))]


def _steps(stems: Iterable[str]) -> dict[str, int]:
    """Returns the training step of each name `step_<number>`."""
    steps = {}
    for stem in stems:
        match = re.fullmatch(r"step_(\d+)", stem)
        if match:
            steps[stem] = int(match[1])
    return steps


def _figures(stems: Iterable[str], pictures: dict[str, bytes], steps: dict[str, int]) -> str:
    html = ""
    for stem in stems:
        name = f"step {text(steps[stem])}" if stem in steps else text(stem)
        html += picture(pictures[stem], f"samples, {name}", name)
    return html


# --- Training, tables, time and settings ---


def _training(rows: list[dict]) -> str:
    if not curves(rows):
        return ""

    buffer = io.BytesIO()
    training_curve(rows).savefig(buffer, format="png")
    return picture(buffer.getvalue(), "loss, gradient norm and learning rate by training step")


def _table(table: dict) -> str:
    """Returns a table whose columns of numbers are aligned right."""
    rows = table.get("rows") or []
    if not rows:
        return ""

    right = [all(_is_numeric(value) for value in column) for column in zip_longest(*rows)]
    body = _table_row("th", table.get("columns") or [], right)
    for row in rows:
        body += _table_row("td", row, right)
    return f'<div class="wide"><table>{body}</table></div>'


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    """Returns a table of names and texts."""
    body = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
    return f"<table>{body}</table>" if body else ""


def _is_numeric(value: Any) -> bool:
    """Whether the value is a number, text that begins with one, or None for a missing number."""
    return bool(re.match(r"[-+]?(\d|nan|inf)|None$", str(value)))


def _table_row(tag: str, cells: Iterable[Any], right: Sequence[bool]) -> str:
    row = ""
    for cell, is_right in zip(cells, right, strict=False):
        align = " class=right" if is_right else ""
        row += f"<{tag}{align}>{text(cell)}</{tag}>"
    return f"<tr>{row}</tr>"


def _timings(timings: dict[str, float]) -> str:
    """Returns the times, longest first, with their shares of the entry "total", or of their sum."""
    total = timings.get("total") or sum(timings.values())
    if not total:
        return ""

    parts = [(seconds, name) for name, seconds in timings.items() if name != "total"]
    body = ""
    for seconds, name in [*sorted(parts, reverse=True), (total, "total")]:
        share = seconds / total
        body += (
            f"<tr><th>{text(name)}</th>"
            f"<td class=right>{duration(seconds)}</td>"
            f"<td class=right>{share:.1%}</td>"
            f"<td class=share>{'' if name == 'total' else bar(share)}</td></tr>"
        )
    return f"<table>{body}</table>"


def _resumes(rows: list[dict]) -> str:
    """Returns how often the run was resumed, and the time that this took."""
    found = [row["resume_seconds"] for row in rows if "resume_seconds" in row]
    seconds = [value for value in found if isinstance(value, int | float)]
    if not seconds:
        return ""
    times = "once" if len(seconds) == 1 else f"{len(seconds)} times"
    return f"<p>Resumed {times}, which took {duration(sum(seconds))}.</p>"


def _made_with(results: dict) -> str:
    """Returns the command, and a table of the device and the versions of the packages."""
    command = results.get("command")
    device = results.get("device")
    versions = results.get("versions") or {}

    lines = f"<tr><th>device</th><td>{escape(str(device))}</td></tr>" if device else ""
    for name, version in sorted(versions.items()):
        lines += f"<tr><th>{text(name)}</th><td>{escape(str(version))}</td></tr>"

    html = f"<pre>{text(command)}</pre>\n" if command else ""
    if lines:
        html += f"<table>{lines}</table>"
    return html


def _config(path: Path, notes: list[str]) -> str:
    """Returns the settings as they are written; it adds a note if they were left out."""
    if not path.exists():
        return ""
    try:
        config = read_file(path, LARGEST, inside=path.parent).decode("utf-8", errors="replace")
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} was left out: {error}")
        return ""
    if not config.strip():
        return ""
    return f"<details><summary>config.yaml</summary><pre>{escape(config)}</pre></details>"
