"""Documents name what is there: paths, modules, options, make targets, links."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "bench", "hivis", "csrc", "tests", "recipes", "tools", ".ci")
#: Not our prose: it quotes licenses.
QUOTED = ROOT / "recipes" / "tiny" / "assets" / "LICENSES.md"
PAGES = [
    ROOT / "README.md",
    *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md"))),
]
PAGES.remove(QUOTED)
PROGRAMS = ("bench", "hivis", "recipes", "tools")
PROGRAM = "(?:" + "|".join(PROGRAMS) + ")"
#: Names of others (a line of Linux's /proc) that look like a class's.
FOREIGN = {"VmHWM"}
WIDTH = 100

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    """The page; of the tables in changes.md, whose first column has old names, only the rest."""
    text = page.read_text()
    if page.name == "changes.md":
        text = re.sub(r"^\|[^|\n]*\|", "|", text, flags=re.MULTILINE)
    return text


def prose(text: str) -> str:
    """``text`` without its fenced code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """What stands in single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


@cache
def options() -> set[str]:
    """All ``"--option"`` strings of the programs of this repository."""
    found: set[str] = set()
    for source in [*sources(), ROOT / "tests" / "conftest.py"]:
        found |= set(re.findall(r"[\"' ](--[a-z][a-z0-9-]*)", source.read_text()))
    return found


def sources() -> list[Path]:
    return [source for folder in PROGRAMS for source in (ROOT / folder).rglob("*.py")]


@cache
def words() -> set[str]:
    """All identifiers of the Python and C++ sources."""
    folders = (ROOT / "csrc", ROOT / "tests" / "emulation")
    native = [path for folder in folders for path in folder.rglob("*") if is_source(path)]
    return {word for path in [*sources(), *native] for word in re.findall(r"\w+", path.read_text())}


def is_source(path: Path) -> bool:
    return path.suffix in (".h", ".cpp", ".cu", ".py")


@every_page
def test_the_paths_it_names_exist(page: Path):
    for span in spans(text_of(page)):
        for word in span.split():
            if not re.fullmatch(rf"({'|'.join(map(re.escape, FOLDERS))})(/[\w.-]+)*/?", word):
                continue
            # A single word without a slash is a name (of a package, a method, an option's value),
            # and NAME stands for any.
            if "/" in word:
                place = ROOT / word
                found = place.parent if "NAME" in place.name else place
                assert found.exists(), f"{page.name}: {word}"


@every_page
def test_the_modules_it_runs_exist(page: Path):
    for name in re.findall(rf"python3? -m ({PROGRAM}[\w.]*)", text_of(page)):
        place = ROOT.joinpath(*name.split("."))
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), (
            f"{page.name}: python -m {name}"
        )
    for name in re.findall(rf"python ({PROGRAM}/[\w/]+\.py)", text_of(page)):
        assert (ROOT / name).is_file(), f"{page.name}: python {name}"


@every_page
def test_the_names_it_imports_exist(page: Path):
    """``hivis.a.b`` is a module, or a name that a module defines."""
    for span in spans(text_of(page)):
        match = re.fullmatch(r"((?:hivis|bench|recipes)(?:\.\w+)+)(?:\(.*\))?", span)
        if match and not span.startswith("hivis._C"):
            assert defined(match[1]), f"{page.name}: {span}"


def defined(name: str) -> bool:
    module, _, last = name.rpartition(".")
    if module_file(name) is not None:
        return True
    file = module_file(module)
    return file is not None and re.search(rf"\b{last}\b", file.read_text()) is not None


def module_file(name: str) -> Path | None:
    place = ROOT.joinpath(*name.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@every_page
def test_the_classes_it_names_exist(page: Path):
    """``Name``, ``Name.attribute`` and ``Name(...)``."""
    for span in spans(text_of(page)):
        match = re.fullmatch(r"((?:[A-Z]\w*[a-z]\w*)(?:\.\w+)*)(?:\(.*\))?", span)
        for word in match[1].split(".") if match else ():
            assert word in words() | FOREIGN, f"{page.name}: {span}"


@every_page
def test_the_options_it_names_exist(page: Path):
    ours = re.compile(r"\b(hivis|bench|recipes|tools|latency)\b|^--")
    lines = [line for block in re.findall(r"^```.*?^```", text_of(page), re.DOTALL | re.MULTILINE)
             for line in block.splitlines()]  # fmt: skip
    for words in [*spans(text_of(page)), *lines]:
        if ours.search(words):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", words):
                assert option in options(), f"{page.name}: {option}"


@every_page
def test_the_make_targets_it_names_exist(page: Path):
    makefile = (ROOT / "Makefile").read_text()
    code = [*spans(text_of(page)), *re.findall(r"^make .*", text_of(page), re.MULTILINE)]
    for words in code:
        for target in re.findall(r"^make ([\w-]+)", words):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


@every_page
def test_its_lines_are_short(page: Path):
    """Prose alone: a line of a table, of code or of an image cannot be broken."""
    for line in prose(page.read_text()).splitlines():
        if not line.startswith(("|", "    ", "<img")):
            assert len(line) <= WIDTH, f"{page.name}: {line}"


@every_page
def test_its_links_lead_somewhere(page: Path):
    text = prose(page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"src=\"([^\"]+)\"", text)
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        path, _, heading = link.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f"{page.name}: {link}"
        if heading:
            assert heading in headings(goal), f"{page.name}: {link}"


def headings(page: Path) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_python_in_the_docs_can_be_parsed():
    for page in PAGES:
        for code in re.findall(
            r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
        ):
            ast.parse(code)


def test_the_rules_find_what_they_are_for():
    assert not defined("hivis.targets.load") and not defined("hivis.api.load.lode")
    assert defined("hivis.api.load.load") and defined("hivis.models")
    assert "--no-such-option" not in options() and "--draft-vocab" in options()
    assert {"KVCache", "tree_accept"} <= words() and "TreePolicies" not in words()
    assert spans("a `b c` d\n```\n`e`\n```\n`f`") == ["b c", "f"]
