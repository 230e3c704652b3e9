"""`balancer runs`: every run is listed, whatever its state; descent is told; only runs are removed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import filelock
import numpy as np
import pytest
from commands import balancer, done, refused
from PIL import Image

from balancer.catalog import page, records
from balancer.catalog.figures import READERS
from balancer.core.config import dump
from balancer.core.files import remove
from balancer.core.jsonl import append_jsonl
from balancer.core.marker import write_marker
from balancer.core.sealed import write_json, write_yaml
from balancer.core.settings import COMMANDS

SNAPSHOT = {
    "step": 40,
    "kid": 1.5,
    "kid_real_baseline": 0.25,
    "frechet": 9.0,
    "frechet_real_baseline": 3.0,
    "diversity": 1,
}
FINDING = {"metric": "FID", "figure": "48.38", "real_baseline": "19.23"}
FILES: dict[str, dict[str, Any]] = {
    "gan-train": {"summary.json": {"class": "NORMAL", "chosen": SNAPSHOT}},
    "synthesize": {"report.json": {"n": 3, "quality": {"interpretation": [FINDING], "verdict": "Alike."}}},
    "evaluate": {"report.json": {"n": 3, "quality": {"interpretation": [], "verdict": "Alike."}}},
    "audit": {"audit.json": {"leaks": ["2 patients both in train and in test"]}},
    "ablate": {"analysis.json": {"verdict": "No.", "headline": ["gan - baseline: -.002 AUROC"]}},
    "train": {"result.json": {"regime": "gan", "test": {"auroc": 0.9375}}},
    "tune": {"tune.json": {"trials": {"complete": 3, "pruned": 1}, "best": {"trial": 2, "value": 0.25}}},
    "crossvalidate": {
        "table.json": {
            "folds": 3,
            "figures": {"auroc": {"mean": 0.9, "sd": 0.01, "pooled": 0.89, "low": 0.85, "high": 0.92}},
        }
    },
    "components": {"table.json": {"entries": [{}, {}]}},
    "reproduce": {"table.json": {"entries": [{"error": None}, {"error": "no weights"}]}},
    "study": {"study.json": {"verdict": "gan - baseline helps at 50 images.", "sizes": []}},
    "federate": {"federation.json": {"verdict": "fedavg: against each site alone, a gain (+.031).", "arms": []}},
    "federate-serve": {"federation.json": {"verdict": "fedavg: 20 rounds with 2 sites", "sites": {}}},
    "federate-join": {"result.json": {"regime": "baseline", "test": {"auroc": 0.9375}}},
}
FIGURES = {
    "gan-train": "KID 1.500 at step 40 (real against real 0.250)",
    "synthesize": "3 images: FID 48.38 (real against real 19.23)",
    "evaluate": "3 images: Alike.",
    "audit": "leaks: 2 patients both in train and in test",
    "ablate": "gan - baseline: -.002 AUROC",
    "train": "test AUROC .938, regime gan",
    "tune": "validation NLL 0.2500, the best of 4 trials",
    "crossvalidate": "AUROC .900 ± .010 over 3 folds, pooled .890 [.850, .920]",
    "components": "a table of 2",
    "reproduce": "a table of 2, 1 failed",
    "study": "gan - baseline helps at 50 images.",
    "federate": "fedavg: against each site alone, a gain (+.031).",
    "federate-serve": "fedavg: 20 rounds with 2 sites",
    "federate-join": "test AUROC .938, regime baseline",
}


def make(path: Path, command: str, finished: bool = True, minute: int = 0, **settings: Any) -> Path:
    """A run as a command leaves it."""
    path.mkdir(parents=True)
    write_yaml(path / "config.yaml", dump(COMMANDS[command.replace("-", "_")](**settings)))
    data = {"source": "phantom", "split_hash": "0123456789abcdef"}
    started = f"2026-11-28T12:{minute:02d}:00+0000"
    write_json(path / "env.json", {"command": command, "started": started, "balancer": "1.2.3", "data": data})
    for name, content in FILES[command].items() if finished else ():
        write_json(path / name, content)
    if finished:
        write_marker(path)
    return path


@pytest.fixture
def chain(runs_cwd: Path) -> Path:
    """GAN -> synthesis -> ablation and training; an unfinished GAN; a run that was moved away from its source."""
    runs = runs_cwd / "runs"
    gan = make(runs / "gan-train" / "g", "gan-train", minute=1)
    synthesis = make(runs / "synthesize" / "s", "synthesize", minute=2, gan_run=str(gan))
    make(runs / "ablate" / "a", "ablate", minute=3, synthetic=(str(synthesis),), seeds=3)
    make(runs / "train" / "t", "train", minute=4, synthetic=("/gone/synthesize/s",), regime="gan")
    make(runs / "gan-train" / "h", "gan-train", finished=False, minute=5, steps=10)
    return runs


def listed(*args: object) -> dict[str, dict[str, Any]]:
    runs = json.loads(done(balancer("runs", *args, "--json")).stdout)["runs"]
    return {Path(run["run"]).name: run for run in runs}


def test_every_command_has_a_main_figure() -> None:
    assert {name.replace("_", "-") for name in COMMANDS} | {"reproduce-smoke"} == READERS.keys()


@pytest.mark.parametrize("command", FIGURES)
def test_main_figures(command: str, tmp_path: Path) -> None:
    record = records.read_run(make(tmp_path / "run", command))
    assert (record.figure, record.state, record.reason) == (FIGURES[command], "finished", "")


def test_figures_of_earlier_versions(tmp_path: Path) -> None:
    gan = make(tmp_path / "g", "gan-train")
    old = {key.replace("real_baseline", "floor"): value for key, value in SNAPSHOT.items()}
    write_json(gan / "summary.json", {"chosen": old})
    assert records.read_run(gan).figure == FIGURES["gan-train"]
    synthesis = make(tmp_path / "s", "synthesize")
    finding = {"metric": "FID", "figure": "48.38", "floor": "19.23"}
    write_json(synthesis / "report.json", {"n": 3, "quality": {"readings": [finding]}})
    assert records.read_run(synthesis).figure == FIGURES["synthesize"]


def test_a_synthesis_of_several_classes_has_a_figure_of_each(tmp_path: Path) -> None:
    synthesis = make(tmp_path / "s", "synthesize")
    finding = {"metric": "FID", "figure": "48.38", "real_baseline": "19.23"}
    classes = {name: {"n": n, "interpretation": found} for name, n, found in (("a", 3, [finding]), ("b", 1, []))}
    write_json(synthesis / "report.json", {"n": 4, "quality": {"verdict": "a: long. b: long."}, "classes": classes})
    figure = records.read_run(synthesis).figure
    assert figure == "a, 3 images: FID 48.38 (real against real 19.23); b, 1 image"


def test_a_data_folder_holds_no_runs(chest: Path) -> None:
    assert records.find_runs(chest) == []
    assert records.find_runs(chest / "train") == []


def test_how_far_unfinished_runs_are(tmp_path: Path) -> None:
    gan = make(tmp_path / "g", "gan-train", finished=False)
    assert records.read_run(gan).figure == "no snapshot yet"
    append_jsonl(gan / "metrics.jsonl", SNAPSHOT)
    assert records.read_run(gan).figure == FIGURES["gan-train"]
    study = make(tmp_path / "a", "ablate", finished=False)
    assert records.read_run(study).figure == ""
    append_jsonl(study / "results.jsonl", {"any": "trial"})
    assert records.read_run(study).figure == "1 trial so far"


def test_the_list_tells_descent(chain: Path) -> None:
    runs = listed()
    assert list(runs) == ["g", "s", "a", "t", "h"], "in the order of their start"
    assert {name: [Path(s).name for s in run["sources"]] for name, run in runs.items()} == {
        "g": [],
        "s": ["g"],
        "a": ["s"],
        "t": ["s"],
        "h": [],
    }
    assert Path(runs["t"]["sources"][0]) == Path("runs/synthesize/s"), "found by its name after a move"
    *text, closing = done(balancer("runs")).stdout.splitlines()[2:]
    assert "balancer runs show" in closing
    assert [(len(line) - len(line.lstrip())) // 2 for line in text] == [0, 1, 2, 2, 0]
    assert [line.split()[0] for line in text] == ["gan-train/g", "synthesize/s", "ablate/a", "train/t", "gan-train/h"]
    assert "unfinished" in text[-1]


def test_copies_in_the_store_of_mlflow_are_no_runs(chain: Path) -> None:
    shutil.copytree(chain / "ablate" / "a", chain / "mlflow" / "files" / "1" / "artifacts")
    (chain / "mlflow" / "mlflow.db").touch()
    assert listed().keys() == {"g", "s", "a", "t", "h"}


def test_no_run_at_all(runs_cwd: Path) -> None:
    assert listed() == {}
    assert "balancer gan-train" in done(balancer("runs")).stdout
    refused(balancer("runs", "list", "nowhere"), 1, "nowhere")


def test_a_run_in_use(chain: Path) -> None:
    with filelock.FileLock(chain / "gan-train" / ".h.lock"):
        assert listed()["h"]["state"] == "running"
        refused(balancer("runs", "remove", "h", "--yes"), 1, "in use")
    assert listed()["h"]["state"] == "unfinished", "a lock that a killed process left"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


DANCE = {"command": "dance", "data": {}}
DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no env.json": ("env.json", lambda p: p.unlink()),
    "no config.yaml": ("config.yaml", lambda p: p.unlink()),
    "cut env.json": ("env.json", _cut),
    "cut config.yaml": ("config.yaml", _cut),
    "a folder for env.json": ("env.json", lambda p: (p.unlink(), p.mkdir())),
    "cut result": ("analysis.json", _cut),
    "no result": ("analysis.json", lambda p: p.unlink()),
    "another shape": ("analysis.json", lambda p: write_json(p, {"verdict": 3, "headline": {}})),
    "another command": ("env.json", lambda p: write_json(p, DANCE)),
    "another command, unfinished": ("env.json", lambda p: (write_json(p, DANCE), p.with_name("done").unlink())),
    "unknown setting": ("config.yaml", lambda p: write_yaml(p, "sleep: 8\n")),
    "settings that are none": ("config.yaml", lambda p: write_yaml(p, "- 8\n")),
    "a pipe": ("env.json", lambda p: (p.unlink(), os.mkfifo(p))),
    "pipes": ("env.json", lambda p: [(q.unlink(), os.mkfifo(q)) for q in (p, p.with_name("config.yaml"))]),
    "damaged marker": ("done", _cut),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_runs_are_listed_with_the_reason(chain: Path, name: str) -> None:
    file, damage = DAMAGE[name]
    damage(chain / "ablate" / "a" / file)
    run = listed()["a"]
    assert run["state"] == "damaged"
    assert ("'dance'" if "unfinished" in name else file) in run["reason"]
    assert "\n" not in run["reason"]
    assert listed().keys() == {"g", "s", "a", "t", "h"}
    shown = done(balancer("runs", "show", chain / "ablate" / "a" if records.is_run(chain / "ablate" / "a") else "a"))
    assert "damaged" in shown.stdout
    done(balancer("runs", "index"))


def test_a_torn_line_of_a_running_training_is_no_damage(tmp_path: Path) -> None:
    gan = make(tmp_path / "g", "gan-train", finished=False)
    append_jsonl(gan / "metrics.jsonl", SNAPSHOT)
    with (gan / "metrics.jsonl").open("ab") as handle:
        handle.write(b'{"step": 50, "lo')
    assert records.read_run(gan).state == "unfinished"


def test_show(chain: Path) -> None:
    shown = json.loads(done(balancer("runs", "show", "s", "--json")).stdout)
    assert [Path(child).name for child in shown["led_to"]] == ["a", "t"]
    assert shown["settings"] == {"gan_run": str(chain / "gan-train" / "g")}
    text = done(balancer("runs", "show", "gan-train/h")).stdout
    assert "balancer gan-train --resume runs/gan-train/h" in text
    assert "steps=10" in text
    (chain / "ablate" / "a" / "report.html").write_text("<p>")
    assert str(Path("runs/ablate/a/report.html")) in done(balancer("runs", "show", "a")).stdout
    (chain / "ablate" / "latest").symlink_to(chain / "ablate" / "a")
    for name in ("runs/ablate/latest", "ablate/latest"):
        assert "seeds=3" in done(balancer("runs", "show", name)).stdout, "a link is shown, and not listed"
    assert len(listed()) == 5
    refused(balancer("runs", "show", "nothing-like-this"), 1, "nothing-like-this")
    refused(balancer("runs", "show", "gan-train/"), 1, "gan-train/g", "gan-train/h")


def test_open(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("click.launch", opened.append)
    (chain / "ablate" / "a" / "report.html").write_text("<p>")
    done(balancer("runs", "open", "a"))
    assert opened == [(chain / "ablate" / "a" / "report.html").as_uri()]
    refused(balancer("runs", "open", "g"), 1, "no report")


def test_remove_asks(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(balancer("runs", "remove", "a"), 1, "--yes")
    assert (chain / "ablate" / "a").exists()
    for answer, left in (("n\n", True), ("y\n", False)):
        monkeypatch.setattr("balancer.catalog.commands.can_ask", lambda: True)
        result = done(balancer("runs", "remove", "a", input=answer))
        assert "ablate/a" in result.stderr
        assert (chain / "ablate" / "a").exists() == left
    assert listed().keys() == {"g", "s", "t", "h"}
    assert not list(chain.rglob(".*")), "no lock is left"


def test_remove_refuses_what_others_came_from(chain: Path) -> None:
    refused(balancer("runs", "remove", "s", "--yes"), 1, "ablate/a", "--force")
    refused(balancer("runs", "remove", "a", "s", "--yes"), 1, "train/t")
    assert len(listed()) == 5, "all or nothing"
    done(balancer("runs", "remove", "a", "t", "s", "--yes"))
    (chain / "gan-train" / "latest").symlink_to("h")
    done(balancer("runs", "remove", "g", "h", "--yes", "--force"))
    assert not (chain / "gan-train" / "latest").is_symlink(), "no link to nothing is left"
    assert listed() == {}


def test_remove_takes_runs_alone(chain: Path, runs_cwd: Path) -> None:
    """Not the user's own folder, not a link to a run, not what the folder of runs holds besides, no run in a run."""
    own = runs_cwd / "thesis"
    own.mkdir()
    (own / "config.yaml").write_text("chapters: 5\n")
    (own / "env.json").write_text("{}")
    (chain / "notes").mkdir()
    (chain / "ablate" / "mine").mkdir()
    (chain / "ablate" / "mine" / "notes.txt").write_text("keep")
    (chain / "link").symlink_to(chain / "ablate" / "a")
    for name in (own, chain, chain / "notes", "mine", chain / "link", runs_cwd, "/", Path.home()):
        refused(balancer("runs", "remove", name, "--yes", "--force"), 1, "run")
    shutil.copytree(chain / "train" / "t", chain / "ablate" / "a" / "inner")
    refused(balancer("runs", "remove", "ablate/a", "--yes", "--force"), 1, "inner")
    assert (chain / "ablate" / "mine" / "notes.txt").read_text() == "keep"
    assert (chain / "ablate" / "a" / "analysis.json").exists()


def test_a_study_is_removed_with_its_steps(runs_cwd: Path) -> None:
    """Unless a run came from one of its steps, however deep that lies."""
    run = make(runs_cwd / "runs" / "study" / "x", "study")
    step = make(run / "size-50" / "others" / "B" / "synthesis-0", "synthesize")
    heir = make(runs_cwd / "runs" / "ablate" / "b", "ablate", synthetic=(str(step),))
    refused(balancer("runs", "remove", "study/x", "--yes"), 1, str(heir.name), "--force")
    done(balancer("runs", "remove", "study/x", "ablate/b", "--yes"))
    assert not run.exists()


def test_a_damaged_run_can_be_removed(chain: Path) -> None:
    """Its sealed config.yaml still names it a run."""
    _cut(chain / "ablate" / "a" / "env.json")
    done(balancer("runs", "remove", chain / "ablate" / "a", "--yes"))
    assert not (chain / "ablate" / "a").exists()


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values["href"] or ""] if tag == "a" else []
        self.ids += [values["id"] or ""] if "id" in values else []
        self.pictures += [values["src"] or ""] if tag == "img" else []


def test_the_index(chain: Path) -> None:
    (chain / "ablate" / "a" / "report.html").write_text("<p>")
    Image.fromarray(np.zeros((900, 700), np.uint8)).save(chain / "synthesize" / "s" / "grid.png")
    (chain / "synthesize" / "s" / "report.html").write_text("<p>")
    (chain / "gan-train" / "g" / "grid.png").write_bytes(b"no picture")
    done(balancer("runs", "index"))
    text = (chain / "index.html").read_text(encoding="utf-8")
    read = _Links()
    read.feed(text)
    assert len(read.ids) == len(set(read.ids)) == 5
    assert {link.removeprefix("#") for link in read.links if link.startswith("#")} <= set(read.ids)
    assert all((chain / link).exists() for link in read.links if not link.startswith("#"))
    assert len(read.pictures) == 1
    assert read.pictures[0].startswith("data:image/jpeg;base64,")
    assert "PHANTOM" in text
    assert "http" not in text, "nothing is fetched"
    done(balancer("runs", "index"))


def test_the_index_shows_names_as_text(runs_cwd: Path) -> None:
    nasty = "runs/train/<img src=x onerror=alert(1)> & ü"
    run = make(runs_cwd / nasty, "train", synthetic=("/gone/<b>/x",), regime="gan")
    (run / "report.html").write_text("<p>")
    done(balancer("runs", "index"))
    text = (runs_cwd / "runs" / "index.html").read_text(encoding="utf-8")
    read = _Links()
    read.feed(text)
    assert not read.pictures
    assert "<b>" not in text
    (link,) = (link for link in read.links if link.startswith("./"))
    assert "%3Cimg" in link


def test_runs_of_several_people(chain: Path) -> None:
    """The same name in two folders: the list, the page and the messages tell them apart."""
    for owner in ("ada", "bob"):
        shutil.copytree(chain / "ablate" / "a", chain / owner / "ablate" / "first")
    lines = done(balancer("runs")).stdout
    assert "ada/ablate/first" in lines
    assert "bob/ablate/first" in lines
    refused(balancer("runs", "show", "first"), 1, "ada/ablate/first", "bob/ablate/first")
    assert "bob/ablate/first" in done(balancer("runs", "show", "bob/ablate/first")).stdout
    done(balancer("runs", "index"))
    read = _Links()
    read.feed((chain / "index.html").read_text(encoding="utf-8"))
    assert len(read.ids) == len(set(read.ids)) == 7
    assert {unquote(link.removeprefix("#")) for link in read.links if link.startswith("#")} <= set(read.ids)
    done(balancer("runs", "remove", "ada/ablate/first", "--yes"))
    assert (chain / "bob" / "ablate" / "first" / "done").exists()


def test_an_interrupted_removal_can_be_repeated(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has gone by then, the folder is a run, not a finished one, and is removed by the same command."""
    run = chain / "ablate" / "a"
    files = sum(1 for _ in run.iterdir())
    for number in range(files - 1):
        calls = iter(range(files))

        def interrupt(path: Path, calls: Iterator[int] = calls, number: int = number) -> None:
            if next(calls) == number:
                raise KeyboardInterrupt
            remove(path)

        shutil.copytree(run, chain / "ablate" / f"cut{number}")
        monkeypatch.setattr("balancer.core.run.remove", interrupt)
        assert balancer("runs", "remove", f"cut{number}", "--yes").exit_code == 130
        monkeypatch.undo()
        monkeypatch.chdir(chain.parent)
        assert listed()[f"cut{number}"]["state"] in ("unfinished", "damaged")
        assert not (chain / "ablate" / f".cut{number}.lock").exists()
        done(balancer("runs", "remove", f"cut{number}", "--yes"))
        assert not (chain / "ablate" / f"cut{number}").exists()


def test_tall_pictures_are_cut(tmp_path: Path) -> None:
    """A sheet of images that is far taller than wide would be dots."""
    Image.fromarray(np.zeros((4000, 500), np.uint8)).save(tmp_path / "tall.png")
    assert page.thumbnail(tmp_path / "tall.png")
    assert page.thumbnail(tmp_path / "none.png") is None
