"""The page about a run: read back with a parser, and held against the run."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

import hivis
from hivis.bundled import paths
from hivis.cli import generate as command
from hivis.cli.main import main
from hivis.core.sampling import SamplingParams
from hivis.engine.results import CycleTrace, Statistics
from hivis.errors import HivisError
from hivis.page import write_page
from hivis.page.assemble import page
from hivis.page.charts import ABOUT_PHASES
from hivis.page.labels import label, token_texts
from hivis.page.run import Cycle, Piece, Run, collect_run
from hivis.page.tree import OWN, TreeDrawing, lay_out
from hivis.page.write import replace_file

IMAGE = paths.EVAL / "scene00.png"
QUICK = ("--max-new-tokens", "16", "--dtype", "float32", "--device", "cpu", "--policy", "fixed")
VOID = {"meta", "img", "br"}
#: As HTML, quotes, markup of other kinds, line ends, emoji, right to left, signs without a look.
HOSTILE = (
    "<script>alert(1)</script>", '" onload="alert(1)', "' x='", "</style>", "</title>", "-->",
    "&lt;&amp;", "]]>", "</svg>", " שלום", "\u202eabc", " 😀", "👨\u200d👩", "\r\n", "\n\n  ",
    "\ufffd", "", " a", "javascript:alert(1)", "\u0301", "{}\\",
)  # fmt: skip


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    #: Of the element and all below it.
    text: str = ""

    def all(self, tag: str = "", **wanted: str) -> list[Element]:
        """Elements below this one, in order; a class is one of several."""
        found = []
        for child in self.children:
            attributes = child.attributes
            if tag in ("", child.tag) and all(
                value in attributes.get(name.rstrip("_"), "").split()
                for name, value in wanted.items()
            ):
                found.append(child)
            found += child.all(tag, **wanted)
        return found


class Reader(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(source.replace("\r\n", "\n").replace("\r", "\n"))  # as browsers read a page
        self.close()

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes)
        element = Element(tag, {name: value or "" for name, value in attributes})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag  # every element is closed where it should be

    def handle_data(self, data):
        for element in self.open:
            element.text += data


def read(source: str) -> Element:
    reader = Reader(source)
    assert reader.open == [reader.root]
    return reader.root


def cycle(texts: dict[int, str], emitted: int = 3) -> Cycle:
    """A tree of 8 nodes, the last one padding, of which nodes 1 and 4 were accepted."""
    trace = CycleTrace(
        tokens=(5, 6, 7, 8, 9, 10, 11, -1),
        parents=(-1, 0, 0, 0, 1, 1, 4, 0),
        scores=(0.0, -0.5, -1.0, -3.0, -0.6, float("-inf"), float("-inf"), float("nan")),
        path=(0, 1, 4),
        emitted=(6, 9, 12)[:emitted],
    )
    pieces = [Piece(token, texts[token], i < 2) for i, token in enumerate(trace.emitted)]
    return Cycle(trace, tuple(pieces))


def made_run(cycles: int = 2, emitted: int = 3, words: tuple[str, ...] = ("one",)) -> Run:
    texts = {token: words[token % len(words)] for token in range(40)}
    made = [cycle(texts, 3 if i + 1 < cycles else emitted) for i in range(cycles)]
    phases = {"prefill": 10.0, "draft": 2.0, "verify": 5.5, "later": 1.25}
    took = Statistics(
        cycles,
        tuple(len(c.pieces) - 1 for c in made),
        20,
        5,
        11.0,
        20.0,
        phases,
        trace=tuple(c.trace for c in made),
    )
    return Run(
        model=words[0],
        drafter="HiViS",
        device=words[-1],
        prompt=tuple(("user", word) for word in words),
        images=(),
        first=(Piece(5, texts[5], False),),
        cycles=tuple(made),
        rest=words[0],
        params=SamplingParams(temperature=1.0, top_k=3),
        finish="length",
        statistics=took,
        texts=texts,
        special=frozenset({12}),
    )


def shown_tokens(root: Element) -> list[Element]:
    (text,) = root.all("p", id="text")
    return [span for span in text.all("span") if "title" in span.attributes]


@pytest.mark.parametrize("emitted", [1, 2, 3])
@pytest.mark.parametrize("shift", range(len(HOSTILE)))
def test_hostile_text_stays_text(shift, emitted):
    words = HOSTILE[shift:] + HOSTILE[:shift]
    run = made_run(emitted=emitted, words=words)
    source = page(run)
    root = read(source)
    (text,) = root.all("p", id="text")
    assert text.text == run.text
    pieces = [*run.first, *(piece for each in run.cycles for piece in each.pieces)]
    assert [span.text for span in shown_tokens(root)] == [piece.text for piece in pieces]
    prompt = [turn.all("p")[0].text for turn in root.all("div", class_="turn")]
    assert prompt == list(words)
    assert len(root.all("script")) == 1 and len(root.all("style")) == 1
    assert not [e for e in root.all() if any(name.startswith("on") for name in e.attributes)]
    assert shown_labels(root, "1")["1"] == label(run.texts[6])
    # The same elements as with harmless text, but for the marks around the words.
    kinds = [e.tag for e in root.all() if e.tag not in ("i", "u")]
    harmless = made_run(emitted=emitted, words=("one",) * len(words))
    harmless = read(page(replace(harmless, rest=run.rest and "one")))
    assert kinds == [e.tag for e in harmless.all() if e.tag not in ("i", "u")]


def shown_labels(root: Element, number: str) -> dict[str, str]:
    """The labels of a cycle's nodes by their number."""
    (tree,) = (e for e in root.all("details") if e.attributes["data-c"] == number)
    nodes = [g for g in tree.all("g") if "data-n" in g.attributes]
    return {g.attributes["data-n"]: g.all("text")[-1].text for g in nodes}


def test_what_cannot_be_in_html_becomes_a_sign():
    run = made_run(words=("a\0b", "\ud83d"))
    source = page(run)
    source.encode("utf-8")
    assert "a␀b" in read(source).all("p", id="text")[0].text and "\0" not in source


@pytest.mark.parametrize("emitted", [1, 2, 3])
def test_trees_are_those_of_the_trace(emitted):
    run = made_run(cycles=3, emitted=emitted)
    trees = read(page(run)).all("details")
    assert [tree.attributes["data-c"] for tree in trees] == ["1", "2", "3"]
    for tree, made in zip(trees, run.cycles, strict=True):
        nodes = {g.attributes["data-n"]: g for g in tree.all("g") if "data-n" in g.attributes}
        own = nodes.pop(str(OWN), None)
        assert set(nodes) == {str(n) for n, token in enumerate(made.trace.tokens) if token >= 0}
        kept = [int(n) for n, g in nodes.items() if g.attributes["class"] == "a"]
        assert kept == list(made.trace.path[1 : 1 + len(made.pieces)])
        behind = [int(n) for n, g in nodes.items() if g.attributes["class"] == "x"]
        assert behind == list(made.trace.path[1 + len(made.pieces) :])
        assert (own is not None) == (len(made.pieces) == 3)
        for n, g in nodes.items():
            assert f"token {made.trace.tokens[int(n)]}" in g.all("title")[0].text
    titles = [g.all("title")[0].text for g in trees[0].all("g")]
    assert "p 0.905, whole path 0.549, token 9" in titles  # exp(-0.1), exp(-0.6)
    assert "p 0, whole path 0, token 11" in titles  # after a parent that had none either
    assert "drawn by the target itself, token 12" in titles


def random_tree(rng: random.Random, nodes: int) -> tuple[list[int], list[int], list[int]]:
    parents = [-1, *(rng.randrange(n) for n in range(1, nodes))]
    tokens = [rng.randrange(50) for _ in range(nodes)]
    path = [0]
    while below := [n for n in range(nodes) if parents[n] == path[-1]]:
        path.append(rng.choice(below))
        if rng.random() < 0.2:
            break
    return tokens, parents, path


TREES = [random_tree(random.Random(seed), 1 + 17 * seed % 256) for seed in range(20)] + [
    ([1] * 256, list(range(-1, 255)), list(range(256))),  # a chain
    ([1] * 256, [-1] + [0] * 255, [0, 200]),  # a star
]


@pytest.mark.parametrize(("tokens", "parents", "path"), TREES)
def test_layout(tokens, parents, path):
    """The path is the top line; no two nodes share a place; no two edges cross."""
    layout = lay_out(tokens, parents, path, own=True)
    line, depth = layout.line, layout.depth
    assert set(line) == {*range(len(tokens)), OWN}
    assert {line[node] for node in path} == {0} == {line[OWN]}
    assert [depth[node] for node in [*path, OWN]] == list(range(len(path) + 1))
    assert len({(line[n], depth[n]) for n in line}) == len(line)
    assert sorted({*line.values()}) == list(range(layout.lines))
    below = {n: {line[n]} for n in line}  # lines of each node's descendants
    for node in sorted(set(line) - {0, OWN}, reverse=True):
        below[parents[node]] |= below[node]
    below[path[-1]] |= {line[OWN]}
    for lines in (below[n] for n in range(1, len(tokens))):
        assert lines == set(range(min(lines), max(lines) + 1))  # no other line between them
    trace = CycleTrace(tuple(tokens), tuple(parents), None, tuple(path), (1,) * len(path))
    drawn = read(TreeDrawing(trace, {token: "word" for token in range(50)}).svg("a tree"))
    assert len(drawn.all("g")) == len(tokens) + 1
    marked = [int(g.attributes["data-n"]) for g in drawn.all("g", class_="a")]
    assert sorted(marked) == sorted(path[1:])
    assert not drawn.all("text", class_="p")  # a drafter without scores has no probabilities


def test_nothing_outside_is_referred_to():
    images = (Image.new("RGB", (900, 300), "red"), Image.new("RGB", (20, 30)))
    source = page(replace(made_run(), images=images))
    root = read(source)
    assert root.children[0].attributes == {"lang": "en"} and root.all("title")[0].text
    for element in root.all():
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "style"):
            if name in element.attributes:
                allowed = "data:image/" if name == "src" else "#"
                assert element.attributes[name].startswith(allowed), (element.tag, name)
    assert not [word for word in ("url(", "@import", "://") if word in source]
    ids = {e.attributes["id"] for e in root.all() if "id" in e.attributes}
    links = {e.attributes["href"][1:] for e in root.all("a")}
    assert links == {"cycle-1", "cycle-2"} <= ids
    images = root.all("img")
    assert all(image.attributes["alt"] for image in images)
    sizes = []
    for image in images:
        data = base64.b64decode(image.attributes["src"].split(",", 1)[1])
        sizes.append(Image.open(io.BytesIO(data)).size)
    assert sizes == [(640, 213), (20, 30)]


def test_the_policy_allows_this_script_and_style_and_nothing_else():
    root = read(page(made_run()))
    (policy,) = (e for e in root.all("meta") if "http-equiv" in e.attributes)
    said = dict(part.split(" ", 1) for part in policy.attributes["content"].split("; "))
    assert said["default-src"] == "'none'" and said["img-src"] == "data:"
    for kind in ("style", "script"):
        (element,) = root.all(kind)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert said[f"{kind}-src"] == f"'sha256-{digest}'"


def test_times_and_figures():
    root = read(page(made_run()))
    rows = [[cell.text for cell in row.children[:3]] for row in root.all("tr")[1:]]
    assert [row[:2] for row in rows] == [
        ["prefill", "10.0"],
        ["draft", "2.0"],
        ["verify", "5.5"],
        ["later", "1.2"],
        ["rest", "1.2"],
        ["total", "20.0"],
    ]
    widths = [float(r.attributes["width"]) for r in root.all("svg", class_="bar")[0].all("rect")]
    assert widths == pytest.approx([500, 100, 275, 62.5, 62.5], abs=0.01)
    tiles = {tile.children[0].text: tile.children[1].text for tile in root.all("dl")[0].children}
    assert tiles == {
        "tokens/s": "350",
        "tokens per cycle": "3.00",
        "accepted length": "2.00",
        "ms to the first token": "11",
        "ms in total": "20",
    }
    said = root.all("p", class_="how")[0].text
    assert said.startswith("temperature 1, top-k 3, seed 0")
    bars = root.all("svg", class_="bars")[0].all("a")
    heights = [[float(r.attributes["height"]) for r in bar.all("rect")[1:]] for bar in bars]
    assert heights == [[2.0, 1.0]] * 2  # drafted, and the target's own


def test_runs_without_much():
    """A single token; and nothing drafted."""
    root = read(page(made_run(cycles=0)))
    assert root.all("h1")[0].text.startswith("1 token") and not root.all("details")
    assert not root.all("img") and not root.all("svg", class_="bars")
    run = made_run()
    alone = CycleTrace((5,), (-1,), None, (0,), (6,))
    plain = replace(run, drafter=None, cycles=(Cycle(alone, (Piece(6, "one", False),)),) * 2)
    root = read(page(plain))
    assert root.all("h1")[0].text == "3 tokens, one at a time"
    assert [len(tree.all("g")) for tree in root.all("details")] == [2, 2]
    assert not root.all("span", class_="d")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (" the", "·the"),
        ("\n", "⏎"),
        ("\t\r", "⇥␍"),
        ("\u202ex", "U+202Ex"),
        ("\x00", "U+0000"),
        ("\u0301", "◌\u0301"),
        ("x" * 40, "x" * 17 + "…"),
        ("漢" * 40, "漢" * 8 + "…"),
        ("\u200d", "\u200d"),
        ("<b>", "<b>"),
    ],
)
def test_labels(text, seen):
    assert label(text) == seen


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    place = tmp_path / "run.html"
    replace_file(place, "old")
    link = tmp_path / "link.html"
    link.symlink_to(place)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError):
            replace_file(place, "new")
    assert place.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    replace_file(link, "new \u2028 😀")
    assert place.read_text(encoding="utf-8") == "new \u2028 😀" and link.is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "^--html: wanted the path of a file, got ''$"),
        (".", "^--html: wanted the path of a file, got '.'$"),
        ("no/where.html", "^--html no/where.html: wanted a folder that exists, got no$"),
        ("/dev/null", "^--html /dev/null: wanted a file, got a device or a pipe$"),
        ("/proc/run.html", "^--html /proc/run.html: wanted a folder that can be written to, got: "),
    ],
)
def test_refused_before_the_model_loads(place, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "load_model", lambda options: pytest.fail("it was loaded"))
    with pytest.raises(HivisError, match=message):
        main(["generate", "--html", place])


def test_an_installed_page_has_its_style_and_script():
    root = Path(__file__).resolve().parents[2]
    listed = re.search(r'^"hivis.page" = (\[.*\])$', (root / "pyproject.toml").read_text(), re.M)
    patterns = json.loads(listed[1])
    others = [p for p in (root / "hivis" / "page").iterdir() if p.is_file() and p.suffix != ".py"]
    assert len(others) == 2 and all(any(p.match(each) for each in patterns) for p in others)


@pytest.fixture(scope="module")
def model() -> hivis.Model:
    return hivis.load(dtype="float32", device="cpu", policy="fixed")


def test_a_real_run(model, tmp_path):
    turns = [("user", "<image>What is it?"), ("assistant", "A scene."), ("user", "Explain it all.")]
    settings = {"max_new_tokens": 24, "temperature": 1.0, "seed": 3, "stop": ["never"]}
    stream = model.stream(turns, [IMAGE], traced=True, **settings)
    text = "".join(stream)
    result, place = stream.result, tmp_path / "run.html"
    write_page(place, model, stream, turns, [IMAGE])
    root = read(place.read_text(encoding="utf-8"))
    assert root.all("p", id="text")[0].text == text == result.text
    spans = shown_tokens(root)
    ids = [int(re.match(r"token (\d+),", span.attributes["title"])[1]) for span in spans]
    assert tuple(ids) == result.tokens
    trees = root.all("details")
    assert len(trees) == result.statistics.cycles == len(result.statistics.trace)
    for tree, trace in zip(trees, result.statistics.trace, strict=True):
        assert len([g for g in tree.all("g") if g.attributes["class"] != "o"]) == len(trace.tokens)
        kept = sorted(int(g.attributes["data-n"]) for g in tree.all("g", class_="a"))
        assert kept == sorted(trace.path[1 : 1 + len(trace.emitted)])
    drafted = sum(min(len(t.emitted), len(t.path) - 1) for t in result.statistics.trace)
    assert len([span for span in spans if "d" in span.attributes["class"].split()]) == drafted > 5
    assert [turn.text for turn in root.all("div", class_="turn")] == [a + b for a, b in turns]
    assert str(paths.WEIGHTS) not in place.read_text()


class Sentences:
    """A tokenizer that drops the space at the start of a text, and has tokens of single bytes."""

    names = ["a", "▁the", "the", "<0xE2>", "</s>", "▁"]

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [4, self.names.index(text)]

    def decode(self, ids: list[int], **settings: bool) -> str:
        assert settings == {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        names = [self.names[i] for i in ids]
        text = "".join("\ufffd" if name.startswith("<0x") else name for name in names)
        return text.replace("▁", " ").removeprefix(" ")

    def convert_ids_to_tokens(self, token: int) -> str | None:
        return self.names[token] if token < len(self.names) else None


def test_tokens_of_a_tokenizer_that_drops_the_first_space():
    texts = token_texts(Sentences(), [5, 4, 3, 2, 1, 0, 1, 77], frozenset({4}))
    assert texts == {0: "a", 1: " the", 2: "the", 3: "<0xE2>", 4: "</s>", 5: " ", 77: "#77"}


def test_a_folder_is_called_by_its_own_name(model, monkeypatch):
    stream = model.stream("Explain it.", [IMAGE], traced=True, max_new_tokens=2)
    list(stream)
    names = {
        str(paths.TARGET): "the bundled model",
        str(paths.EAGLE): "eagle",
        "some-hub/some-model": "some-hub/some-model",
    }
    for given, shown in names.items():
        monkeypatch.setattr(model.target.model.config, "_name_or_path", given)
        assert collect_run(model, stream, "Explain it.").model == shown


def test_a_token_by_itself_keeps_its_space(model):
    stream = model.stream("Explain it.", [IMAGE], traced=True, max_new_tokens=12)
    text = "".join(stream)
    run = collect_run(model, stream, "Explain it.", [IMAGE])
    assert "".join(run.texts[token] for token in stream.result.tokens) == text
    ends = run.special & set(model.target.eos_token_ids)
    assert ends and collect_run(model, stream, "x").images == ()


def test_streams_that_have_no_page(model, tmp_path):
    stream = model.stream("Explain it.", [IMAGE], max_new_tokens=4)
    place = tmp_path / "run.html"
    with pytest.raises(HivisError, match="^result: wanted a stream read to its end"):
        write_page(place, model, stream, "Explain it.", [IMAGE])
    list(stream)
    with pytest.raises(HivisError, match="^stream: wanted one made with traced=True"):
        write_page(place, model, stream, "Explain it.", [IMAGE])
    stream = model.stream("Explain it.", [IMAGE], max_new_tokens=4, traced=True)
    list(stream)
    with pytest.raises(HivisError, match="^image nowhere.png: wanted one that can be read"):
        write_page(place, model, stream, "Explain it.", ["nowhere.png"])
    assert not list(tmp_path.iterdir())


def test_the_command(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "load_model", lambda options: model)
    place = tmp_path / "run.html"
    main(["generate", *QUICK, "--html", str(place), "--json"])
    captured = capsys.readouterr()
    text = read(place.read_text(encoding="utf-8")).all("p", id="text")[0].text
    assert json.loads(captured.out)["text"] == text
    assert captured.err == f"page: {place}\n"
    place.unlink()
    main(["generate", *QUICK, "--html", str(place), "--show-tree"])
    captured = capsys.readouterr()
    assert captured.out == text.lstrip() + "\n" and place.stat().st_size > 5000
    assert captured.err.splitlines()[1:] == [f"page: {place}"]


def test_an_interrupted_text_has_no_page(model, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load_model", lambda options: model)
    monkeypatch.setattr(command, "print_stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["generate", *QUICK, "--html", str(tmp_path / "run.html")])
    assert not list(tmp_path.iterdir())


def test_every_phase_has_a_color() -> None:
    style = (Path(hivis.__file__).parent / "page" / "page.css").read_text()
    for phase in ABOUT_PHASES:
        color = re.search(rf"\.ph-{phase} {{ fill: var\((--\w+)\)", style)
        assert color is not None, phase
        assert f"{color[1]}: #" in style, phase
