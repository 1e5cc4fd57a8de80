"""Copies ``conf/`` into the package when a wheel is built. Everything else about the package is in pyproject.toml.

In a checkout ``conf/`` is next to ``train.py``, where people look for it. Mapping it with ``package-dir`` would make
``pip install -e .`` install an import hook, which is slower than a path and which mypy and Hydra do not understand.
"""

from pathlib import Path
from shutil import copytree, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Builds the packages, and ``digitlab/conf`` among them unless the installation is editable."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "digitlab" / "conf"
            # An earlier build may have left files that no longer exist.
            rmtree(target, ignore_errors=True)
            copytree(Path(__file__).parent / "conf", target)


setup(cmdclass={"build_py": BuildWithConf})
