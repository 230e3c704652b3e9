"""Heavy packages wait until a command runs. import-linter (`make lint`) checks which module may import which."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "torchmetrics", "albumentations", "matplotlib", "sklearn", "scipy", "cv2")


def fresh(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


@pytest.mark.parametrize("package", ["balancer", "classifier"])
def test_help_imports_nothing_heavy(package: str) -> None:
    done = fresh(
        f"import sys; sys.argv = ['{package}', '--help']\n"
        f"from {package}.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('HEAVY', sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY!r})))"
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert done.stderr == ""


def test_the_base_layers_import_no_torch() -> None:
    """A data set can be read and split, and a config checked, without the seconds that torch takes."""
    base = "command, config, errors, progress, run, seeding"
    done = fresh(
        f"import sys\nfrom balancer.core import {base}\nimport balancer.data.dataset\nprint('torch' in sys.modules)"
    )
    assert done.stdout.strip() == "False", done.stderr
