"""The Markdown pages: Python blocks run, commands and flags exist, and links lead somewhere."""

import inspect
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scoresde as sd
import scoresde.cli.flags
from scoresde.cli.main import COMMANDS, main
from scoresde.data import images

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

SMALLER = [
    (r"(?<![a-z_])steps=\d+", "steps=2"),
    (r"NCSNppConfig\.(\w+)\(", r"NCSNppConfig.\1(channels=8, num_blocks=1, "),
    (r"width=384, depth=12", "width=48, depth=2"),
    (
        r"sd.pretrained\(\"digits-vp\"\)",
        "sd.ScoreModel(sd.VP(), sd.MLPConfig(width=8, depth=1).build((8, 8, 1), "
        'rngs=__import__("flax.nnx").nnx.Rngs(0)), sd.EDM(0.6))',
    ),
]
"""What training for a few steps, and small networks, change in the text of a block."""


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """(line number, text) of every fenced block of this language."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


# --- Python ---


@pytest.fixture
def outside_world(monkeypatch, tmp_path):
    """Replaces what a block needs beyond this machine: data sets, photos, a second process.

    The stand-ins take the arguments of the originals, and no others.
    """

    def instead_of(module, name, result):
        signature = inspect.signature(getattr(module, name))

        def stand_in(*args, **kwargs):
            signature.bind(*args, **kwargs)
            return result

        monkeypatch.setattr(module, name, stand_in)

    pixels = np.zeros((16, 16, 16, 3), np.uint8)
    for name in ("mnist", "fashion_mnist"):
        instead_of(images, name, images.Images(pixels))
    instead_of(images, "from_tfds", images.Images(pixels))
    instead_of(sd, "join_processes", None)

    # The settings of a U-Net are checked, and a network that compiles in a moment stands for it.
    build = sd.UNetConfig.build

    def small(config, shape, *, rngs):
        if config.channels > 8:  # that of a pretrained model
            return build(config, shape, rngs=rngs)
        mlp = sd.MLPConfig(
            width=8, depth=1, num_classes=config.num_classes, cond_dim=config.cond_dim
        )
        return mlp.build(shape, rngs=rngs)

    monkeypatch.setattr(sd.UNetConfig, "build", small)

    monkeypatch.setenv("SCORESDE_CACHE", str(tmp_path / "cache"))
    for label in ("cats", "dogs"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.fromarray(pixels[0]).save(tmp_path / "photos" / label / "0.png")


@pytest.mark.filterwarnings("ignore:JAX already runs with")  # conftest.py has called use_cpu_cores
@pytest.mark.usefixtures("outside_world", "unchecked")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_blocks_run(page, monkeypatch, tmp_path):
    """In the order of the page, with one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}

    for line, text in blocks(page, "python"):
        for long, short in SMALLER:
            text = re.sub(long, short, text)
        exec(compile("\n" * line + text, page, "exec"), namespace)


# --- Commands ---

PROGRAMS = r"(?:scoresde [a-z-]+|python (?:experiments|benchmarks)/\w+\.py|pytest )"


def commands(page):
    """Every command of the page that runs one of this repository's programs, as words."""
    lines = []
    for _, text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            lines += line.split(" && ")

    # Commands inside the text.
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`([^`]+)`", prose)

    # Environment variables may come first.
    found = []
    for line in lines:
        match = re.match(rf"(?:[A-Z_]+=\S+ )*({PROGRAMS}.*)", line.strip(), re.DOTALL)
        if match:
            found.append(shlex.split(match[1], comments=True))
    return found


COMMANDS_OF_PAGES = sorted({tuple(command) for page in ALL_PAGES for command in commands(page)})
EXPERIMENTS = [words for words in COMMANDS_OF_PAGES if words[1].startswith("experiments/")]
BENCHMARKS = [words for words in COMMANDS_OF_PAGES if words[1].startswith("benchmarks/")]
OF_SCORESDE = [words for words in COMMANDS_OF_PAGES if words[0] == "scoresde"]
PYTEST = [words for words in COMMANDS_OF_PAGES if words[0] == "pytest"]


@pytest.mark.parametrize("words", OF_SCORESDE, ids=" ".join)
def test_commands_of_scoresde_are_understood(words, monkeypatch, tmp_path, capsys):
    """The real parser reads them; what they would do is left out."""
    monkeypatch.chdir(tmp_path)
    if len(words) == 2:  # the text mentions the command by its name alone
        assert words[1] in COMMANDS
        return

    for kind in COMMANDS.values():
        monkeypatch.setattr(kind, "__call__", lambda self: {})
    assert main(words[1:]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", EXPERIMENTS, ids=" ".join)
def test_commands_of_experiments_are_understood(words, monkeypatch, capsys):
    """The script reads its flags as it would; the experiment itself is left out."""
    run_script = scoresde.cli.flags.run_script
    understood = []

    def without_the_experiment(main, *args, **kwargs):
        run_script(understood.append, *args, **kwargs)

    script = ROOT / words[1]
    monkeypatch.setattr(scoresde.cli.flags, "run_script", without_the_experiment)
    monkeypatch.setattr(sys, "argv", [str(script), *words[2:]])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0, capsys.readouterr().err
    assert len(understood) == 1


@pytest.mark.parametrize("words", BENCHMARKS, ids=" ".join)
def test_commands_of_benchmarks_have_their_flags(words):
    source = (ROOT / words[1]).read_text() + (ROOT / "benchmarks" / "bench.py").read_text()
    for word in words[2:]:
        if word.startswith("--"):
            assert f'"{word}"' in source, word


@pytest.mark.parametrize("words", PYTEST, ids=" ".join)
def test_commands_of_pytest_name_tests_that_exist(words):
    for word in words[1:]:
        if word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists(), word


def test_there_are_commands_of_every_kind():
    """Otherwise a change in the layout of the pages could leave the tests above without work."""
    counts = [len(kind) for kind in (OF_SCORESDE, EXPERIMENTS, BENCHMARKS, PYTEST)]
    assert all(count >= 2 for count in counts), counts


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_blocks_are_of_languages_that_are_checked(page):
    languages = re.findall(r"^```(.+)$", page.read_text(), re.MULTILINE)
    assert set(languages) <= {"python", "sh"}


# --- Links and layout ---


def anchors(page):
    """The anchors of a page's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in words}


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue  # another site's

        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


FOLDERS = ("scoresde", "tests", "experiments", "examples", "benchmarks", "notebooks", "docs")
FILES = [f"/{name_of(path)}" for name in FOLDERS for path in (ROOT / name).rglob("*.*")]


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_files_in_the_text_exist(page):
    """A name in backquotes that ends in .py is the end of the path of some file."""
    for name in re.findall(r"`([\w/]+\.(?:py|ipynb))`", page.read_text()):
        assert any(path.endswith(f"/{name}") for path in FILES), name


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_lines_are_short(page):
    """Tables, which cannot be broken, and links apart."""
    for line in page.read_text().splitlines():
        assert len(line) <= 120 or line.startswith("|"), line


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    for page in [*PAGES[2:], *(ROOT / "notebooks").glob("*.ipynb")]:
        assert page.name == "README.md" or page in linked, page


def test_the_readme_is_short_and_has_the_test_command():
    """.ci/run runs the line that starts with `pip install` and ends with `pytest`."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert any(re.match(r"pip install .*pytest$", line) for line in lines)
