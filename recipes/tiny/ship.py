"""Copy a finished training run into the package: python -m recipes.tiny.ship --run DIR

It copies DIR/target, the drafters in DIR/hivis, DIR/vispec, DIR/eagle and DIR/draft_vlm, and
DIR/evaluation.json; weights are converted to bfloat16.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hivis.bundled.paths import DRAFT_VLM, EAGLE, HIVIS, TARGET, VISPEC, WEIGHTS
from hivis.drafters.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from hivis.drafters.draft_vocab import DRAFT_VOCAB_FILE
from hivis.errors import HivisError, run_cli

TARGET_FILES = (
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "chat_template.jinja",
)
DRAFTERS = {
    **dict.fromkeys((HIVIS, VISPEC, EAGLE), (CONFIG_FILE, DRAFT_VOCAB_FILE)),
    DRAFT_VLM: (CONFIG_FILE, "tokenizer.json", "tokenizer_config.json"),
}
#: The largest size of all weights together, in megabytes.
LIMIT = 40.0


def copy_files(source: Path, destination: Path, names: tuple[str, ...]) -> None:
    """Copy the files `names`, and the weights as bfloat16; HivisError if a file is missing."""
    for name in (*names, WEIGHTS_FILE):
        if not (source / name).is_file():
            raise HivisError(f"{source}: wanted {name}, got none")
    destination.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, destination / name)
    tensors = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(source / WEIGHTS_FILE).items()
    }
    save_file(tensors, destination / WEIGHTS_FILE, metadata={"format": "pt"})


def collect_figures(run: Path) -> dict[str, object]:
    """The figures of the run: the target's training and evaluation, the drafters' metrics."""
    sources = {
        "target": run / "evaluation.json",
        "target_training": run / "target" / "history.jsonl",
    } | {drafter.name: run / drafter.name / "metrics.json" for drafter in DRAFTERS}
    for path in sources.values():
        if not path.is_file():
            raise HivisError(f"--run {run}: wanted {path}, got no such file")
    texts = {name: path.read_text() for name, path in sources.items()}
    history = [json.loads(line) for line in texts.pop("target_training").splitlines()]
    last = {record["stage"]: record for record in history}  # the last record of each stage
    figures: dict[str, object] = {name: json.loads(text) for name, text in texts.items()}
    return figures | {"target_training": list(last.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    run = parser.parse_args().run
    figures = collect_figures(run)
    copy_files(run / "target", TARGET, TARGET_FILES)
    for drafter, names in DRAFTERS.items():
        copy_files(run / drafter.name, drafter, names)
    (WEIGHTS / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    size = sum(path.stat().st_size for path in WEIGHTS.rglob("*.safetensors")) / 1e6
    print(f"{size:.1f} MB of weights in {WEIGHTS}")
    if size > LIMIT:
        raise HivisError(f"{WEIGHTS}: wanted at most {LIMIT:g} MB of weights, got {size:.1f}")


if __name__ == "__main__":
    run_cli(main)
