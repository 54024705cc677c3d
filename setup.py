"""Hands the build to CMake and Ninja; everything else is in pyproject.toml and CMakeLists.txt.

A dev rebuild after `pip install --no-build-isolation -e .`: `python setup.py build_ext --inplace`.
Options come from the environment: HIVIS_CUDA=ON|OFF|AUTO, HIVIS_NATIVE=ON|OFF, HIVIS_WERROR=ON|OFF.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
OPTIONS = ("HIVIS_CUDA", "HIVIS_NATIVE", "HIVIS_WERROR", "CMAKE_CUDA_ARCHITECTURES")


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        options = [f"-D{name}={os.environ[name]}" for name in OPTIONS if name in os.environ]
        configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options]
        configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DHIVIS_OUTPUT={target}"]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_C"], check=True)


setup(ext_modules=[Extension("hivis._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
