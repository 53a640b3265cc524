"""The wheel carries the repository's dvc.yaml, from which ``ccd init`` makes projects. All else is in setup.cfg."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPipeline(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file("dvc.yaml", str(Path(self.build_lib, "ccd/project/pipeline.yaml")))


setup(cmdclass={"build_py": BuildWithPipeline})
