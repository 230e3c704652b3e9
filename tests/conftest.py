"""What all tests share: a cache of their own, an environment without data sets, a tiny data set, the real one."""

import functools
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image

pytest_plugins = ["chromium"]  # its fixture
REPOSITORY = Path(__file__).resolve().parents[1]
# Workers of pytest-xdist inherit the environment below: the real data's path needs a name that is not deleted.
os.environ.setdefault(
    "XRAY_TEST_DATA",
    str(Path(os.environ.get("BALANCER_DATA") or REPOSITORY.parent / "shared" / "data" / "chest_xray").resolve()),
)
REAL_DATA = Path(os.environ["XRAY_TEST_DATA"])
for variable in [v for v in os.environ if v.startswith(("BALANCER_", "CLASSIFIER_"))]:
    del os.environ[variable]  # the settings of the developer's shell must not reach a test

# Networks as small as those of the tests gain nothing from a second thread, and lose minutes by it on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"  # torch, limit_threads() and worker processes read it

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell script; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis keeps notes while tests are collected, before any fixture: not in the repository.
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "xray-balancer-hypothesis")
settings.register_profile("toolkit", deadline=None, database=None, derandomize=True, max_examples=60)
settings.load_profile("toolkit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests: one that begins last keeps one of two processes waiting for a minute."""
    items.sort(key=lambda item: item.path.name != "test_end_to_end.py")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The toolkit's cache, away from the user's."""
    os.environ["BALANCER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def threads() -> None:
    """Undo what an earlier test did to torch's threads. Torch is not imported for this alone, which costs seconds."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def toolkit_log() -> Iterator[None]:
    """Undo what a command line does to the logger, else later tests see no log."""
    log = logging.getLogger("balancer")
    before = list(log.handlers), log.propagate, log.level
    yield
    log.handlers, log.propagate = before[0], before[1]
    log.setLevel(before[2])


def _names(label: int, split: int, count: int) -> Iterator[str]:
    """Real-scheme names, one to four images a patient; numbers never shared between splits of a class."""
    patient = 0
    while count > 0:
        number, views = 3 * patient + split + 1, min(1 + patient % 4, count)
        for view in range(views):
            if label:
                yield f"person{number}_{'virus' if patient % 3 == 0 else 'bacteria'}_{10 * number + view}.png"
            else:
                yield f"{'NORMAL2-' if patient % 2 else ''}IM-{number:04d}-{view + 1:04d}.png"
        patient, count = patient + 1, count - views


@pytest.fixture(scope="session")
def _chest_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("template") / "chest", np.random.default_rng(0)
    for split, (name, counts) in enumerate({"train": (24, 60), "val": (2, 2), "test": (10, 16)}.items()):
        for label, cls in enumerate(("NORMAL", "PNEUMONIA")):
            (root / name / cls).mkdir(parents=True)
            for file in _names(label, split, counts[label]):
                Image.fromarray(rng.integers(0, 256, (32, 40), dtype=np.uint8)).save(root / name / cls / file)
    return root


@pytest.fixture
def chest_folder(_chest_template: Path, tmp_path: Path) -> Path:
    """A Kaggle-layout folder of noise, 40 x 32 px: train 24 + 60, val 2 + 2, test 10 + 16. The test may change it."""
    return Path(shutil.copytree(_chest_template, tmp_path / "chest"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real chest X-rays, from BALANCER_DATA or beside the repository; mark such a test ``realdata``."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no chest X-rays at {REAL_DATA}; set BALANCER_DATA")
    return REAL_DATA


@pytest.fixture(scope="session")
def busi() -> Path:
    """The breast ultrasound set of Al-Dhabyani et al. 2020, beside the chest X-rays; mark such a test ``realdata``."""
    if not (folder := REAL_DATA.parent / "busi").is_dir():
        pytest.skip(f"no ultrasound images at {folder}")
    return folder


@pytest.fixture
def five_pixel_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the two-sample test's pixel network for 5 steps a fold, not 200: this test is not about its power."""
    from balancer.metrics import two_sample

    monkeypatch.setattr(two_sample, "pixel_two_sample", functools.partial(two_sample.pixel_two_sample, steps=5))


@pytest.fixture
def runs_cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, where ``runs/`` will be made."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
