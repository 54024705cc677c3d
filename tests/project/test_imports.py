"""Who may import whom: the rules that keep the layers apart, checked on the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "hivis").rglob("*.py"))

# What a layer may import of hivis. A name stands for itself and everything below it.
BASICS = {"errors", "tree", "sampling", "policy", "handoff", "noise", "clock"}
ALLOWED = {
    "errors": set(),
    "reference": set(),
    "noise": set(),
    "clock": set(),
    "generation": {"errors", "policy", "sampling"},
    "text": {"errors"},
    "settings": {"errors", "sampling"},
    "ops": {"_C", "growth_ops"},
    "growth_ops": {"_C"},
    "tree": {"errors"},
    "policy": {"errors", "tree"},
    "policies": {"errors", "tree", "policy", "policies"},
    "sampling": {"errors"},
    "handoff": {"tree"},
    "cache": BASICS | {"ops"},
    "targets": BASICS | {"ops", "cache", "targets"},
    "drafters": BASICS | {"ops", "cache", "drafters"},
    "training": BASICS | {"ops", "cache", "drafters", "training"},
    "walk": BASICS | {"ops", "generation"},
    "graphs": {"clock", "errors"},
    "cycle": BASICS | {"cache", "graphs", "targets.base", "drafters.base", "walk"},
    "loop": BASICS
    | {"cache", "cycle", "generation", "graphs", "targets.base", "drafters.base", "walk"},
    "decode": BASICS | {"generation", "loop", "policies", "targets.base", "drafters.base"},
    "batch": BASICS | {"generation", "loop", "policies", "targets.base", "drafters.base"},
    "machine": {"errors", "ops"},
    "stream": BASICS | {"decode", "drafters.base", "generation", "targets.base", "text"},
    "model": BASICS | {"batch", "drafters.base", "loop", "settings", "stream", "targets", "text"},
    "loading": {
        "graphs",
        "draft_models",
        "drafters.base",
        "drafters.layer",
        "drafters.quantize",
        "drafters.short_head",
        "errors",
        "machine",
        "model",
        "policies",
        "policy",
        "targets",
        "tiny.paths",
    },  # fmt: skip
    "draft_models": {"errors", "targets", "drafters"},
    "options": set(),
    "collect": {"errors", "options", "targets", "training"},
    "train": {"errors", "options", "collect", "drafters", "targets", "training"},
    "head_list": {"collect", "drafters", "errors", "targets", "training"},
    "chat": {"errors", "model", "stream", "targets"},
    "page": {
        "__version__",
        "errors",
        "generation",
        "machine",
        "model",
        "page",
        "sampling",
        "stream",
        "targets.vocabulary",
        "tiny.paths",
    },  # fmt: skip
    "commands": {
        "_C",
        "chat",
        "collect",
        "commands",
        "drafters.coarse",
        "drafters.quantize",
        "errors",
        "generation",
        "head_list",
        "loading",
        "machine",
        "model",
        "ops",
        "options",
        "page",
        "settings",
        "targets",
        "tiny.paths",
        "train",
        "stream",
    },  # fmt: skip
    "cli": {"__version__", "commands"},
    "__main__": {"errors", "cli"},
    "tiny": BASICS | {"training", "drafters", "targets", "decode", "tiny", "ops", "cache"},
    "__init__": {"errors", "loading", "model", "policy", "sampling", "stream", "tree"},
}
ONLY_TORCH = {"reference", "noise"}
MAY_IMPORT_TRANSFORMERS = {"targets", "tiny"}


def layer(module: Path) -> str:
    return module.relative_to(ROOT / "hivis").with_suffix("").parts[0]


def imports(module: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            base = node.module or ""
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(module: Path):
    allowed = ALLOWED[layer(module)]
    for name in imports(module):
        if name == "hivis" or not name.startswith("hivis."):
            continue
        inner = name.removeprefix("hivis.")
        assert any(inner == a or inner.startswith(a + ".") or a.startswith(inner + ".")
                   for a in allowed), f"{module.name} imports {name}"  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_transformers_stays_behind_the_targets(module: Path):
    outside = {name.split(".")[0] for name in imports(module)} - {"hivis"}
    if layer(module) not in MAY_IMPORT_TRANSFORMERS:
        assert "transformers" not in outside
    if layer(module) in ONLY_TORCH:
        assert outside - {"torch"} <= set(sys.stdlib_module_names)


def test_the_rule_finds_what_it_is_for(tmp_path: Path):
    bad = tmp_path / "bad.py"
    bad.write_text("from hivis.targets import load\nimport transformers.cache_utils\n")
    assert {"hivis.targets.load", "transformers.cache_utils"} <= imports(bad)


def test_importing_hivis_does_not_import_transformers():
    code = "import sys, hivis; assert 'transformers' not in sys.modules; print(hivis.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "load"), done.stderr


@pytest.mark.parametrize("folder", ["core", "cuda", "cpu", "ops"])
def test_csrc_layers(folder: str):
    """core knows nothing; cuda and cpu know core; only ops and module.cpp know the dispatcher."""
    own = {"core": {"core"}, "cuda": {"cuda", "core"}, "cpu": {"cpu", "core"},
           "ops": {"ops", "cpu", "cuda", "core"}}[folder]  # fmt: skip
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
