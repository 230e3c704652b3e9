"""Heavy packages wait until a command runs. import-linter (`make lint`) checks which module may import which."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARIES = ("numpy", "scipy", "sklearn", "matplotlib", "PIL", "joblib", "jinja2", "requests", "cv2", "pydicom")
HEAVY = ("torch", "torchvision", "torchmetrics", "albumentations", *LIBRARIES)


def fresh(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


def test_help_imports_nothing_heavy() -> None:
    """Of both programs and of every command."""
    done = fresh(
        "import sys\nsys.path.insert(0, 'tests')\n"
        "from click.testing import CliRunner\nfrom test_help import COMMANDS, PROGRAMS\n"
        "runs = [(main, []) for main in PROGRAMS.values()] + [(main, name.split()) for main, name in COMMANDS]\n"
        "for main, words in runs:\n"
        "    result = CliRunner().invoke(main, [*words, '--help'])\n"
        "    assert result.exit_code == 0 and 'Usage:' in result.stdout and not result.stderr, words\n"
        f"print('HEAVY', sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY!r})))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert done.stderr == ""


def test_the_base_layers_import_neither_torch_nor_pydicom() -> None:
    """A data set can be read and split, and a config checked, without the seconds that torch takes, or an extra."""
    base = "command, config, errors, progress, run, seeding"
    done = fresh(
        f"import sys\nfrom balancer.core import {base}\nimport balancer.data.dataset\n"
        "print({'torch', 'pydicom'} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()", done.stderr
