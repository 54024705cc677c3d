"""The OpenMP setting for training on shared cores."""

import os
import sys


def patient_threads() -> None:
    """Restart the program with OpenMP threads that sleep instead of spin while they wait.

    If other processes use the same cores, spinning makes a training step about three times slower.
    OpenMP reads the setting when it is loaded, so the program must be restarted; call this first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
