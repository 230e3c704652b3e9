"""Progress in a notebook: one output a cell, which is empty once the work is done."""

import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest

from balancer.core import notebook, progress


class Notebook:
    """Stands for IPython in a kernel; keeps what each output showed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outputs: list[list[str]] = []
        self.shell = SimpleNamespace(execution_count=1, kernel=object())
        ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
        ipython.get_ipython = lambda: self.shell  # type: ignore[attr-defined]
        display.HTML, display.display = str, self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        monkeypatch.setattr(notebook, "_current", None)
        monkeypatch.setattr(progress, "FIRST_LINE", 0)

    def display(self, html: str, display_id: bool) -> SimpleNamespace:
        shown = [html]
        self.outputs.append(shown)
        return SimpleNamespace(update=shown.append)


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Notebook:
    caplog.set_level(logging.INFO, "balancer")  # a fixture of a whole session may have run a command with -q
    return Notebook(monkeypatch)


def work(what: str = "training", total: int = 3, **more: bool) -> None:
    with progress.bar(total, what, "step", **more) as bar:
        for _ in range(total):
            bar.refresh()
            bar.update()


def test_a_bar_is_drawn_in_the_cell_and_goes_away(cells: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    work()
    (shown,) = cells.outputs
    assert any('max="3" value="2"' in html and "training: 2 of 3 steps" in html for html in shown)
    assert shown[-1] == ""
    assert capsys.readouterr() == ("", ""), "nothing is written where a notebook shows errors"


def test_bars_of_one_cell_share_an_output_and_the_next_cell_has_its_own(cells: Notebook) -> None:
    with progress.bar(2, "trials", "trial") as outer:
        outer.refresh()
        work("drawing")
        outer.update()
    assert len(cells.outputs) == 1
    both = [html for html in cells.outputs[0] if "trials" in html and "drawing" in html]
    assert both
    assert both[0].index("trials") < both[0].index("drawing")
    cells.shell.execution_count = 2
    work("<b>")
    assert len(cells.outputs) == 2
    assert any("&lt;b&gt;" in html for html in cells.outputs[1])


def test_hidden_and_quiet_work_draws_nothing(cells: Notebook) -> None:
    work(show=False)
    logging.getLogger("balancer").setLevel(logging.WARNING)  # as -q does
    work()
    assert not any(html for shown in cells.outputs for html in shown)


def test_a_terminal_has_no_board(cells: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    del cells.shell.kernel
    assert notebook.board() is None
    monkeypatch.delitem(sys.modules, "IPython")
    assert notebook.board() is None
