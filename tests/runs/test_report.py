"""The page is read back: its text in order, its pictures byte by byte."""

import base64
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from scoresde.runs import report
from scoresde.runs.plots import image_grid, training_curve
from scoresde.runs.report import write_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Text, tags and pictures of a page; checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.tags = []
        self.text = []
        self.pictures = []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(
                base64.b64decode(dict(attrs)["src"].removeprefix("data:image/png;base64,"))
            )
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style" and data.strip():
            self.text.append(data.strip())


def read(run) -> Page:
    return Page(write_report(run).read_text("utf-8"))


def headings(run) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", (run / "report.html").read_text("utf-8"))


@pytest.fixture
def run(tmp_path):
    """A run in progress."""
    run = tmp_path / "digits_vp"
    for step in (500, 900, 1500):
        image_grid(np.full((4, 8, 8, 1), step / 1500), run / "samples" / f"step_{step}.png")
    (run / "config.yaml").write_text("sde:\n  beta_max: 20.0\n")
    (run / "metrics.jsonl").write_text(
        "".join(f'{{"step": {s}, "loss": {9 - s}}}\n' for s in range(5))
    )
    results = {
        "status": "running",
        "step": 12500,
        "total_steps": 50000,
        "headline": [["bits/dim", "2.41 ± 0.01", "held-out digits"], ["distance", 3.14159265]],
        "tables": [
            {
                "title": "Samplers",
                "columns": ["sampler", "nfe"],
                "rows": [["Heun", 35], ["ODE", None]],
            }
        ],
        "timings": {"sampling": 0.25, "training": 3661.75, "compilation": 1220.0},
        "versions": {"jax": "0.8.1"},
        "command": "python experiments/digits_vp.py",
        "device": "NVIDIA H100",
    }
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_the_page_shows_what_the_run_found(run):
    page = read(run)
    assert page.text[:4] == ["digits_vp", "digits_vp", "running", page.text[3]]
    assert "step 12,500 of 50,000" in page.text[3]
    assert headings(run) == [
        "Results",
        "Samples",
        "Training",
        "Samplers",
        "Time",
        "Made with",
        "Settings",
    ]
    text = "\n".join(page.text)
    assert "bits/dim\n2.41 ± 0.01\nheld-out digits\ndistance\n3.1416" in text
    assert "sampler\nnfe\nHeun\n35\nODE\n–" in text
    times = [
        "training\n1 h 01 min\n75.0%",
        "compilation\n20 min 20 s\n25.0%",
        "sampling\n250 ms\n0.0%",
        "total\n1 h 21 min",
    ]
    assert "\n".join(times) in text
    assert "python experiments/digits_vp.py\ndevice\nNVIDIA H100\njax\n0.8.1" in text
    assert "config.yaml\nsde:\n  beta_max: 20.0" in text
    assert {"details", "pre"} <= set(page.tags)


def test_the_page_needs_no_other_file(run):
    page = read(run)
    text = (run / "report.html").read_text("utf-8")
    assert not {"script", "link", "a", "iframe"} & set(page.tags)
    assert not re.search(r"https?:|@import|url\(", text)
    assert sorted(path.name for path in run.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "report.html",
        "results.json",
        "samples",
    ]


def test_newest_sample_first_then_earlier_ones_in_order(run):
    samples = run / "samples"
    # This one is still being written.
    (samples / "step_1600.png").write_bytes((samples / "step_1500.png").read_bytes()[:-9])
    (samples / "inpainted.png").write_bytes((samples / "step_900.png").read_bytes())

    page = read(run)
    names = ["step_1500", "inpainted", "step_500", "step_900"]  # by number: 500 < 900 < 1500
    assert page.pictures[:4] == [(samples / f"{name}.png").read_bytes() for name in names]
    assert [t for t in page.text if re.match("step \\d+$|inpainted", t)] == [
        name.replace("_", " ") for name in names
    ]
    assert len(page.pictures) == 5
    assert page.pictures[4].startswith(b"\x89PNG")


def test_where_there_is_not_room_for_all_pictures_old_ones_are_left_out(run, monkeypatch):
    samples = run / "samples"
    png = (samples / "step_500.png").read_bytes()
    for path in samples.glob("*.png"):
        path.unlink()
    for step in (90, 1000, 1500):
        (samples / f"step_{step:06d}.png").write_bytes(png)
    monkeypatch.setattr(report, "LARGEST_PICTURES", 2 * len(png))

    page = read(run)
    steps = [t for t in page.text if re.match("step \\d+$", t)]
    assert steps == ["step 1500", "step 1000"]
    assert "samples/step_000090.png was left out" in " ".join(page.text)


def test_of_many_earlier_samples_some_evenly_spaced(run):
    png = (run / "samples" / "step_500.png").read_bytes()
    for step in range(0, 1500, 100):
        (run / "samples" / f"step_{step:06d}.png").write_bytes(png)
    (run / "samples" / "step_500.png").unlink()
    (run / "samples" / "step_900.png").unlink()

    page = read(run)
    steps = [int(t.removeprefix("step ")) for t in page.text if re.match("step \\d+$", t)]
    assert steps == [1500, 0, 200, 500, 700, 1000, 1200]
    assert "Earlier (6 of 15)" in page.text


def test_a_repeated_step_keeps_its_later_row(run, monkeypatch):
    # The run was killed and resumed from step 2; it is still writing its last line.
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": -2.0}\n')
        file.write('{"step": 3, "loss": -3.0, "valid_loss": 1.0}\n')
        file.write('{"step": 4, "lo')

    drawn = []
    monkeypatch.setattr(
        report, "training_curve", lambda rows: drawn.extend(rows) or training_curve(rows)
    )
    page = read(run)

    losses = [(row["step"], row["loss"]) for row in drawn]
    assert losses == [(0, 9), (1, 8), (2, -2.0), (3, -3.0), (4, 5)]
    assert drawn[3]["valid_loss"] == 1.0
    assert "left out" not in " ".join(page.text)  # the last line is no fault


def test_what_cannot_be_read_is_noted(run):
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "lo{"step": 1, "loss": 2.0}\n[1]\n{"step": 2, "loss": 1.0}\n'
    )
    (run / "results.json").write_text('{"status": ')

    text = " ".join(read(run).text)
    assert "Line 1 of metrics.jsonl" in text
    assert "Line 2 of" in text
    assert "Line 3" not in text
    assert "results.json is not JSON" in text
    assert "step 2 " in text  # from the metrics
    assert headings(run) == ["Samples", "Training", "Settings"]


@pytest.mark.parametrize(
    "content",
    ["[]", "5", '{"tables": [5]}', '{"headline": 5}', '{"headline": [["a"]]}', '{"step": "x"}'],
)
def test_what_no_run_writes_is_left_out(run, content):
    (run / "results.json").write_text(content)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": "abc"}\n{"step": 10, "loss": 1.0}\n')
    text = " ".join(read(run).text)
    assert "results.json" in text
    assert "is not a row" in text
    assert "left out" in text


def test_files_from_outside_of_the_run_are_left_out(run, tmp_path, monkeypatch):
    """Neither the settings nor the pictures may be another's, or endless."""
    secret = tmp_path / "secret"
    secret.write_text("password: 1234")
    (run / "config.yaml").unlink()
    (run / "config.yaml").symlink_to(secret)
    (run / "figures").mkdir()
    (run / "figures" / "a.png").symlink_to(run.parent / "b.png")
    (run / "samples" / "step_900.png").replace(run.parent / "b.png")
    os.mkfifo(run / "figures" / "pipe.png")
    (run / "figures" / "text.png").write_bytes(b"1234 IEND")

    page = read(run)
    text = " ".join(page.text)
    assert "1234" not in (run / "report.html").read_text("utf-8")
    assert "Settings" not in headings(run)
    assert len(page.pictures) == 3  # the other samples, and the curve
    for name in ("config.yaml", "figures/a.png", "figures/pipe.png"):
        assert f"{name} was left out" in text

    monkeypatch.setattr(report, "LARGEST_PICTURES", 10)
    page = read(run)
    assert len(page.pictures) == 1
    assert "samples/step_500.png was left out" in " ".join(page.text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timings", {"total": float("nan")}),
        ("timings", {"total": 10**400}),
        ("tables", [{"columns": 5, "rows": [[1]]}]),
        ("tables", [{"rows": [[{}]]}]),
        ("headline", [[["a"], 1]]),
        ("step", 10**400),
        ("status", {}),
    ],
)
def test_results_of_another_form_are_left_out(run, name, value):
    (run / "results.json").write_text(json.dumps({"total_steps": 5, name: value}))
    assert f"{name} is not what a run writes and was left out" in " ".join(read(run).text)


def test_everything_is_escaped(tmp_path):
    evil = "<script>alert('1' & \"2\")</script>"
    png = tmp_path / "samples" / "<b>.png"
    image_grid(np.zeros((1, 8, 8, 1)), png)
    (tmp_path / "config.yaml").write_text(evil)
    results = {
        "status": evil,
        "step": 1,
        "total_steps": 2,
        "headline": [[evil] * 3],
        "command": evil,
        "device": evil,
        "tables": [{"title": evil, "columns": [evil], "rows": [[evil]]}],
        "timings": {evil: 1.0},
        "versions": {evil: evil},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))

    text = write_report(tmp_path, title=evil).read_text("utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "b" in page.tags
    assert page.tags.count("b") == 1
    assert page.text.count(evil) == 2 + 1 + 3 + 3 + 1 + 1 + 1 + 2 + 1
    assert len(page.pictures) == 1


def test_missing_parts_leave_no_headings(tmp_path):
    path = write_report(str(tmp_path))
    assert path == tmp_path / "report.html"
    page = Page(path.read_text("utf-8"))
    assert page.text[:2] == [tmp_path.name] * 2
    assert len(page.text) == 3

    (tmp_path / "results.json").write_text(
        '{"headline": [], "tables": [{"title": "x", "rows": []}], "timings": {}}'
    )
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "accuracy": 1}\n')
    (tmp_path / "samples").mkdir()

    page = read(tmp_path)
    assert headings(tmp_path) == []
    assert not page.pictures
    assert "table" not in page.tags


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00123, "1.23 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
    ],
)
def test_durations_in_human_units(tmp_path, seconds, text):
    (tmp_path / "results.json").write_text(
        json.dumps({"timings": {"step": seconds, "total": 2 * seconds}})
    )
    page = read(tmp_path)
    assert page.text[page.text.index("step") :][:3] == ["step", text, "50.0%"]


def test_no_folder_is_an_error_that_says_how_runs_are_made(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"runs/digits.*experiments"):
        write_report(tmp_path / "runs/digits")
