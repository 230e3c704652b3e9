"""Imports go one way (design.md, Layout), and the heavy ones wait until a command runs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# A module may import from lower layers, and from its own package or layer.
LAYERS = (
    (
        "errors",
        "progress",
        "console",
        "config",
        "settings",
        "run",
        "seeding",
        "device",
        "grids",
        "plots",
        "pages",
        "manifest",
        "events",
        "presets",
        "__init__",
    ),
    ("data",),
    ("augmentation",),
    ("metrics",),
    ("gan",),
    ("synthesis", "evaluation", "quality", "readings", "report", "figures", "audit_report", "audit_figures"),
    ("cli", "__main__"),
)
HEAVY = ("torch", "torchvision", "torchmetrics", "albumentations", "matplotlib", "sklearn", "scipy", "cv2")


def sources() -> dict[str, ast.Module]:
    """Dotted module name -> syntax tree, of both packages."""
    found = {}
    for path in sorted(p for package in ("balancer", "classifier") for p in (REPOSITORY / package).rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


SOURCES = sources()


def imported(module: str, tree: ast.AST, known: set[str]) -> set[str]:
    """Every module that ``tree`` imports, also inside functions; ``from balancer import run`` gives balancer.run."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                names.add(full if {full, f"{full}.__init__"} & known else origin)
    return names


def own_imports(module: str) -> set[str]:
    """The modules of this repository that ``module`` imports."""
    return {n for n in imported(module, SOURCES[module], set(SOURCES)) if n.split(".")[0] in {"balancer", "classifier"}}


def layer(module: str) -> int:
    parts = module.split(".")
    part = parts[1] if len(parts) > 1 else "__init__"
    found = [i for i, names in enumerate(LAYERS) if part in names]
    assert found, f"{module} is in no layer: add it to LAYERS here and to design.md"
    return found[0]


def test_the_reader_of_imports_reads_all_forms() -> None:
    code = "import a.b\nfrom balancer import run, version\ndef f():\n    from .x import y\n    from .. import z\n"
    known = {"balancer.run", "balancer.data.x"}
    found = imported("balancer.data.m", ast.parse(code), known)
    assert found == {"a.b", "balancer.run", "balancer", "balancer.data.x"}


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("balancer.")])
def test_balancer_imports_go_one_way(module: str) -> None:
    for name in own_imports(module):
        assert name.split(".")[0] == "balancer", f"{module} imports {name}: balancer never imports classifier"
        assert layer(name) <= layer(module), f"{module} imports {name}, which is above it"


def test_grids_needs_run_only() -> None:
    assert own_imports("balancer.grids") <= {"balancer.run"}


def test_no_cycles() -> None:
    graph = {module: own_imports(module) & set(SOURCES) for module in SOURCES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"import cycle: {' -> '.join([*path, module])}"
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("classifier.")])
def test_the_classifier_does_not_know_the_gan(module: str) -> None:
    assert not {n for n in own_imports(module) if n == "balancer.gan" or n.startswith("balancer.gan.")}


def test_albumentations_is_imported_in_one_file_only() -> None:
    users = [m for m in SOURCES if any(n.split(".")[0] == "albumentations" for n in imported(m, SOURCES[m], set()))]
    assert set(users) <= {"balancer.augmentation.classical"}


def test_only_device_asks_for_hardware() -> None:
    users = set()
    for module, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in {"is_available", "device_count"}:
                users.add(module)
    assert users <= {"balancer.device"}


def fresh(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


@pytest.mark.parametrize("package", ["balancer", "classifier"])
def test_help_imports_nothing_heavy(package: str) -> None:
    if f"{package}.cli" not in SOURCES:
        pytest.skip(f"{package}.cli is not written yet")
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
    base = "config, console, errors, progress, run, seeding"
    done = fresh(
        f"import sys\nfrom balancer import {base}\nimport balancer.data.dataset\nprint('torch' in sys.modules)"
    )
    assert done.stdout.strip() == "False", done.stderr
