"""Who may import whom: the rules that keep the layers apart, checked on the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hivis.drafters.registry import METHODS
from hivis.policies.registry import POLICIES

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "hivis").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = [
    *(
        path
        for part in ("bench", "recipes", "tools")
        for path in sorted((ROOT / part).rglob("*.py"))
    ),
    *TESTS,
    *MODULES,
    ROOT / "setup.py",
]

# What a folder of hivis may import of hivis beside itself: the table in docs/contributing.md.
EVERYDAY = {"errors", "core", "ops"}
ALLOWED = {
    "errors": set(),
    "ops": {"_C"},
    "bundled": set(),
    "core": {"errors", "ops"},
    "models": EVERYDAY,
    "drafters": EVERYDAY,
    "policies": EVERYDAY,
    "engine": EVERYDAY | {"policies"},
    "training": EVERYDAY | {"models", "drafters"},
    "api": EVERYDAY | {"models", "drafters", "policies", "engine", "bundled"},
    "page": {
        "errors",
        "core",
        "engine.results",
        "api",
        "bundled",
        "drafters.registry",
        "__version__",
    },
    "cli": EVERYDAY
    | {
        "models",
        "drafters",
        "policies.registry",
        "engine.results",
        "api",
        "training",
        "page",
        "bundled",
        "__version__",
    },
    "__init__": EVERYDAY | {"api", "policies.fixed"},
    "__main__": {"errors", "cli"},
}
ONLY_TORCH = {"ops/reference.py", "ops/noise.py"}
MAY_IMPORT_TRANSFORMERS = {"models"}
# The compiled module. It has no source here, and imports nothing.
EXTENSION = "hivis._C"
# What imports hivis, and is never imported by it.
USERS_OF_HIVIS = {"bench", "recipes", "tools", "tests"}
# Where a callable is, in a record.
REFERENCE = re.compile(r"[\w.]+:\w+")
# An import of a test module, also in the source of a child process.
IMPORTS_A_TEST = re.compile(
    r"^\W*(?:import\s+tests(?:\.\w+)*\.test_|from\s+tests(?:\.\w+)*(?:\.test_|\s+import\s.*\btest_))",
    re.MULTILINE,
)


def layer(module: Path) -> str:
    return module.relative_to(ROOT / "hivis").with_suffix("").parts[0]


def imports(module: Path) -> set[str]:
    """Modules, and what is imported out of modules, by their whole names."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def named(module: Path) -> str:
    parts = module.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circle(modules: Sequence[Path]) -> list[str]:
    """The names of modules that import each other in a circle, if there are such."""
    names = {named(module) for module in modules} | {EXTENSION}
    graph = {}
    for module in modules:
        found = imports(module)
        # What is no module comes out of one.
        found = {each if each in names else each.rpartition(".")[0] for each in found}
        graph[named(module)] = found & names
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(module: Path):
    allowed = ALLOWED[layer(module)] | {layer(module)}
    for name in imports(module):
        if name.split(".")[0] != "hivis":
            continue
        assert name != "hivis", f"{module.name} imports all of hivis"
        inner = name.removeprefix("hivis.")
        assert any(inner == a or inner.startswith(a + ".") for a in allowed), (
            f"{module.name} imports {name}"
        )


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_transformers_stays_behind_the_targets_and_nobody_imports_a_user_of_hivis(module: Path):
    outside = {name.split(".")[0] for name in imports(module)} - {"hivis"}
    assert not outside & USERS_OF_HIVIS
    if layer(module) not in MAY_IMPORT_TRANSFORMERS:
        assert "transformers" not in outside
    if str(module.relative_to(ROOT / "hivis")) in ONLY_TORCH:
        assert outside - {"torch"} <= set(sys.stdlib_module_names)


def test_no_imports_go_in_a_circle():
    assert not circle(MODULES)


def test_a_circle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    folder = tmp_path / "hivis" / "core"
    folder.mkdir(parents=True)
    for name, source in (
        ("__init__", ""),
        ("a", "from hivis.core import b"),
        ("b", "def f():\n    from hivis.core.c import x"),
        ("c", "import hivis.core.a"),
        ("d", "from hivis.core.a import x"),
        ("e", "from hivis.core.e import y"),
    ):
        (folder / f"{name}.py").write_text(source)
    modules = sorted(folder.glob("*.py"))
    assert {"hivis.core.e"} == set(circle([folder / "e.py"]))
    (folder / "e.py").write_text("")
    assert {"hivis.core.a", "hivis.core.b", "hivis.core.c"} == set(circle(modules))
    (folder / "c.py").write_text("")
    assert not circle(modules)
    (folder / "__init__.py").write_text("from hivis.core.c import x")
    (folder / "c.py").write_text("from hivis.core import x")
    assert {"hivis.core", "hivis.core.c"} == set(circle(modules))


@pytest.mark.parametrize("record", [*METHODS.records(), *POLICIES.records()], ids=lambda r: r.name)
def test_what_a_record_names_is_there(record: Any):
    """A record may name what lies in another folder, as text: no import shows that it is gone."""
    texts = [each for each in vars(record).values() if isinstance(each, str)]
    for module, _, name in (each.partition(":") for each in texts if REFERENCE.fullmatch(each)):
        assert callable(getattr(import_module(module), name))


def test_the_references_of_the_records_are_found():
    found = [text for text in vars(METHODS.get("hivis")).values() if REFERENCE.fullmatch(str(text))]
    assert len(found) == 4  # recognizes, load, learner, random


def test_no_class_name_stands_for_two_things():
    found: dict[str, set[Path]] = {}
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, set()).add(module.relative_to(ROOT))
    assert not {name: places for name, places in found.items() if len(places) > 1}


def test_the_rule_finds_what_it_is_for(tmp_path: Path):
    bad = tmp_path / "bad.py"
    bad.write_text("from hivis.models import load\nimport transformers.cache_utils\n")
    assert {"hivis.models.load", "transformers.cache_utils"} <= imports(bad)


def test_no_test_imports_a_test():
    """What several tests share lies in tests/helpers."""
    found = [path for path in TESTS if IMPORTS_A_TEST.search(path.read_text())]
    assert not found


def touches_the_path(module: Path) -> bool:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.path", "site.addsitedir"):
            return True
        if isinstance(node, ast.ImportFrom) and node.module in ("sys", "site"):
            if {"path", "addsitedir"} & {alias.name for alias in node.names}:
                return True
    return False


def test_no_script_mends_the_path():
    assert not [path for path in SCRIPTS if touches_the_path(path)]


@pytest.mark.parametrize(
    "line", ["import sys\nsys.path.insert(0, '')", "from sys import path", "site.addsitedir('')"]
)
def test_a_script_that_mends_the_path_is_found(tmp_path: Path, line: str):
    (tmp_path / "script.py").write_text(line)
    assert touches_the_path(tmp_path / "script.py")


@pytest.mark.parametrize(
    "line",
    [
        "import tests.engine.{}batch",
        "from tests.engine import {}batch",
        "from tests.engine.{}batch import alone",
        "from tests import helpers, {}all",
        'CHILD = "import sys\\nfrom tests.engine.{}batch import alone"'.replace("\\n", "\n"),
        "    from tests.engine.{}batch import alone",
    ],
)
def test_an_import_of_a_test_is_found(line: str):
    assert IMPORTS_A_TEST.search(line.format("test_"))
    assert not IMPORTS_A_TEST.search(line.format("helper_"))


def test_importing_hivis_does_not_import_transformers():
    code = "import sys, hivis; assert 'transformers' not in sys.modules; print(hivis.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "load"), done.stderr


def test_importing_hivis_registers_the_ops():
    code = "import torch, hivis; print(torch.ops.hivis.tree_attention.default)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "hivis.tree_attention.default"), (
        done.stderr
    )


def test_help_imports_no_model_code():
    """So `python -m hivis --help` costs little more than torch does."""
    code = (
        "import sys\nfrom hivis.cli.main import make_parser\nmake_parser().format_help()\n"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in"
        " ('transformers', 'huggingface_hub', 'tokenizers', 'PIL', 'rich')))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('hivis.models')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stdout + done.stderr


@pytest.mark.parametrize("folder", ["core", "cuda", "cpu", "ops"])
def test_csrc_layers(folder: str):
    """core knows nothing; cuda and cpu know core; only ops and module.cpp know the dispatcher."""
    own = {
        "core": {"core"},
        "cuda": {"cuda", "core"},
        "cpu": {"cpu", "core"},
        "ops": {"ops", "cpu", "cuda", "core"},
    }[folder]
    for source in (ROOT / "csrc" / folder).glob("*"):
        for line in source.read_text().splitlines():
            if not line.startswith("#include"):
                continue
            header = line.split(maxsplit=1)[1].strip('<>"')
            if header.split("/")[0] in {"core", "cuda", "cpu", "ops"}:
                assert header.split("/")[0] in own, f"{source.name}: {line}"
            if folder in ("core", "cuda"):
                assert not header.startswith(("torch", "ATen", "c10")), f"{source.name}: {line}"
            if folder == "core":
                assert "cuda" not in header, f"{source.name}: {line}"
