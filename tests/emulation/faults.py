"""Planted faults: one change to a source file each, and the check program that must notice it.

A test that never fails proves little, so every fault is compiled into a program of its own, which
must end with a diagnosis. The sources themselves know nothing of this. `python -m
tests.emulation.faults list` prints what CMake needs; `... write NAME FILE` writes the changed
source.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.emulation import (
    faults_emulator,
    faults_kv_compact,
    faults_shared_noise,
    faults_tree_accept,
    faults_tree_attention,
    faults_tree_grow,
    faults_tree_prune,
)
from tests.emulation.fault import Fault

FAULTS: dict[str, Fault] = {
    f"{fault.check}_{name}": fault
    for module in (
        faults_emulator,
        faults_kv_compact,
        faults_shared_noise,
        faults_tree_accept,
        faults_tree_attention,
        faults_tree_grow,
        faults_tree_prune,
    )
    for name, fault in module.FAULTS.items()
}


def main(arguments: list[str]) -> None:
    if arguments == ["list"]:
        for name, fault in FAULTS.items():
            unit = fault.unit or fault.file
            print(f"{name}|{fault.file}|{unit}|{fault.check}|{','.join(fault.builds)}")
    elif len(arguments) == 3 and arguments[0] == "write":
        path = Path(arguments[2])
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.write_text(FAULTS[arguments[1]].mutated())
        except ValueError as error:
            sys.exit(f"fault {arguments[1]}: {error}")
    else:
        sys.exit(f"faults: wanted list, or write NAME FILE, got {' '.join(arguments)}")


if __name__ == "__main__":
    main(sys.argv[1:])
