"""Links are relative, end at what is there, and hold when the folder of runs is copied."""

import json
import re
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from balancer.core.environment import environment
from balancer.core.marker import MARKER
from balancer.core.sealed import write_json
from balancer.reporting import links
from balancer.reporting.document import Document, Link, to_markdown
from balancer.reporting.pages import to_html, without_links


def make(folder: Path, file: str = "report.html") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("x")
    return folder


def test_runs_of_one_folder_are_linked_and_the_folder_can_be_copied(tmp_path: Path) -> None:
    page, target = make(tmp_path / "a/runs/ablate/one"), make(tmp_path / "a/runs/synthesize/b c")
    found = [*links.link_to("set", target / "report.html", page), *links.link_to("run", target, page)]
    assert [link.path for link in found] == ["../../synthesize/b%20c/report.html", "../../synthesize/b%20c/"]
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert (tmp_path / "moved/runs/ablate/one" / found[0].path.replace("%20", " ")).exists()


def test_nothing_absent_and_nothing_outside_is_linked(tmp_path: Path) -> None:
    page = make(tmp_path / "runs/ablate/one")
    assert links.link_to("absent", tmp_path / "runs/synthesize/none/report.html", page) == []
    assert links.link_to("outside", make(tmp_path / "elsewhere/two") / "report.html", page) == []


def test_runs_side_by_side_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    page = make(tmp_path / "mine/one")
    assert links.link_to("set", make(tmp_path / "mine/two"), page) == [Link("set", "../two/")]
    assert links.link_to("set", make(tmp_path / "other/two"), page) == []


def audit_run(folder: Path, fingerprint: str) -> Path:
    make(folder, "audit.html")
    write_json(folder / "env.json", environment("audit", "cpu", data={"fingerprint": fingerprint}))
    (folder / MARKER).write_text("")
    return folder


def test_the_audit_of_the_same_data_alone(tmp_path: Path) -> None:
    page = make(tmp_path / "runs/synthesize/one")
    assert links.run_on_same_data("audit", "f" * 16, page) is None
    audit_run(tmp_path / "runs/audit/other", "0" * 16)
    assert links.run_on_same_data("audit", "f" * 16, page) is None
    same = audit_run(tmp_path / "runs/audit/same", "f" * 16)
    (make(tmp_path / "runs/audit/damaged") / "env.json").write_text("{")
    (tmp_path / "runs/audit/damaged" / MARKER).write_text("")
    assert links.run_on_same_data("audit", "f" * 16, page) == same
    (same / MARKER).unlink()
    assert links.run_on_same_data("audit", "f" * 16, page) is None, "unfinished"


@pytest.mark.parametrize(
    ("entries", "path"),
    [
        (["Source, https://a.example", "Documentation, https://b.example/docs/"], "https://b.example/docs/gan/"),
        (["Source, https://a.example"], ""),
        (None, ""),
    ],
)
def test_the_documentation_is_linked_where_the_metadata_have_its_address(
    entries: list[str] | None, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Metadata:
        def get_all(self, name: str) -> list[str] | None:
            assert name == "Project-URL"
            return entries

    monkeypatch.setattr(metadata, "metadata", lambda name: Metadata())
    shown = links.documentation("gan", "runs")
    assert [link.path for link in shown] == [path, path.replace("gan", "runs")]
    document = Document("t", [], "v", links=shown)
    assert ("<a href=" in to_html(document, {})) == ("](" in to_markdown(document)) == bool(path)
    assert "docs/gan.md" in to_html(document, {})
    assert "docs/gan.md" in to_markdown(document)


def test_a_copied_page_has_no_link_that_ends_nowhere() -> None:
    document = Document("t", [], "v", links=[Link("GAN run", "../../gan-train/x/")])
    page = to_html(document, {})
    assert re.findall(r'href="([^"]*)"', page) == ["../../gan-train/x/"]
    assert re.findall(r'href="([^"]*)"', without_links(page)) == []
    assert json.dumps(page) != json.dumps(without_links(page))
