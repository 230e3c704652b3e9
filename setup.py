"""What pyproject.toml cannot say: a wheel holds configs/ inside the package, where an installed copy finds them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConfigs(build_py):
    """Copy configs/ into the built package; a checkout reads them where they lie."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib, "balancer", "configs"), dirs_exist_ok=True)


setup(cmdclass={"build_py": WithConfigs})
