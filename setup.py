"""Puts `configs/` into the wheel as `crab_lightning/configs`; setup.cfg holds all else."""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the configs beside the modules of a build; an editable install reads those of the checkout."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            copytree("configs", Path(self.build_lib) / "crab_lightning" / "configs", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
