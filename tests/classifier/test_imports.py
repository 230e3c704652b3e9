"""A command waits for no package that it does without. What `--help` leaves out: tests/test_startup.py."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PLOTS = {"matplotlib"}
STATISTICS = {"sklearn", "scipy.stats", "scipy.optimize", "scipy.signal", "scipy.ndimage"}
TRAINING = {"torchvision", "torchmetrics", "albumentations", "cv2", "torch._dynamo", "joblib"}
# What each command leaves out. They share one process, to save the seconds that torch takes.
COMMANDS = (
    ("classifier", "thresholds {run} --dry-run", {"torch"} | PLOTS | STATISTICS | TRAINING),
    ("classifier", "predict {run} {image}", PLOTS | STATISTICS | TRAINING),
    ("balancer", "audit --data {data} --dry-run", PLOTS | STATISTICS | TRAINING),
)


def test_a_command_imports_no_more_than_it_needs(trained: Path, template: Path) -> None:
    names = {"run": trained, "image": next((template / "test" / "NORMAL").iterdir()), "data": template}
    runs = [(program, words.format(**names).split(), left_out) for program, words, left_out in COMMANDS]
    code = (
        "import sys\nfrom importlib import import_module\nfrom click.testing import CliRunner\n"
        f"for program, words, left_out in {runs!r}:\n"
        "    result = CliRunner().invoke(import_module(f'{program}.cli').main, words)\n"
        "    print(program, words[0], result.exit_code, sorted(left_out & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.stdout.splitlines() == [f"{program} {words[0]} 0 []" for program, words, _ in runs], done.stderr
