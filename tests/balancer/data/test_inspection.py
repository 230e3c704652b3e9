"""`balancer inspect`: what is understood is said, and the commands that it shows run as they stand."""

import json
import shlex
from pathlib import Path

import pytest
from commands import TINY_GAN, balancer, done, refused
from layouts import LAYOUTS, as_classes, made, write_table

from balancer.core.settings import DataConfig
from balancer.data.inspection import command_lines, inspect


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path: Path, layout: str) -> None:
    path = LAYOUTS[layout][1](made(), tmp_path / "data")
    facts = inspect(DataConfig(path=str(path), image_size=16))
    images = sum(sum(of.values()) for of in facts.classes.values())
    assert facts.images == images == len(made())
    assert set(facts.classes) == {"NORMAL", "PNEUMONIA"}
    assert facts.pictures.smallest == facts.pictures.largest == (16, 16)
    assert "16 x 16 px" in facts.describe()
    assert facts.next[0].startswith("balancer audit --data")


def test_a_table_never_seen_before(runs_cwd: Path) -> None:
    """From a spreadsheet to a running training in two commands, the second as the first one shows it."""
    for i, image in enumerate(made({"train": (30, 20)}, "ab")):
        image.save(runs_cwd / "export" / "pictures" / f"{i:03d}.png")
    rows = [
        {
            "Study": f"S{i:04d}",
            "Picture": f"D:\\pacs\\pictures\\{i:03d}.png",
            "Lung": "ill" if i % 3 else "well",
            "Heart": "big" if i % 2 else "small",
            "Site": "AB"[i % 2],
        }
        for i in range(50)
    ]
    write_table(runs_cwd / "export" / "list.csv", rows, ";")
    first = balancer("inspect", "export/list.csv", "--json")
    assert first.exit_code == 1
    lines = json.loads(first.stdout)["next"]
    assert [line.rpartition(" ")[2] for line in lines] == ["path=Picture,label=Lung", "path=Picture,label=Heart"]
    facts = done(balancer(*shlex.split(lines[0])[1:], "--json"))
    shown = json.loads(facts.stdout)
    assert shown["columns"] == {"path": "Picture", "label": "Lung", "source": "Site"}
    assert shown["other_columns"] == {"Heart": 2}
    line = next(line for line in shown["next"] if "gan-train" in line)
    assert line.endswith("--image-size 16"), "the working size is not that of the images"
    small = [str(text) for text in TINY_GAN]
    at = small.index("--image-size")
    dry = done(balancer(*shlex.split(line)[1:], *small[:at], *small[at + 2 :], "--steps", 1, "-q", "--dry-run"))
    assert "# data checked" in dry.stdout


def test_what_is_left_out_and_why(runs_cwd: Path) -> None:
    root = as_classes(made({"train": (30, 20)}, "ab"), runs_cwd / "data")
    (root / "a" / "scan.dcm").touch()
    (root / "a" / "bad.png").write_bytes(b"no picture")
    shown = done(balancer("inspect", "data", "--max-bad", ".1", "-q")).stdout
    for words in ("a/scan.dcm", "a/bad.png", "not known: every image counts by itself", "--max-bad 0.1"):
        assert words in shown
    refused(balancer("inspect", "gone"), 1, "does not exist")
    refused(balancer("inspect", "data", "--positive", "c"), 2, "positive is 'c'")


def test_notes_stand_once(runs_cwd: Path) -> None:
    root = as_classes(made({"train": (90, 70)}, "ab"), runs_cwd / "data")
    first = sorted((root / "a").iterdir())[0]
    (root / "a" / "z.png").write_bytes(first.read_bytes())
    (root / "a" / f"{first.stem}_mask.png").write_bytes(first.read_bytes())
    result = done(balancer("inspect", "data"))
    shown, log = result.stdout, result.stderr
    for words in ("named as masks", "intervals are over images", "carved from"):
        assert shown.count(words) == 1, words
        assert words not in log
    assert "split " in log, "what is no note is logged"
    for words in ("byte by byte: a/z.png", "--channels 3", "features=random", "features=chest"):
        assert words in shown


def test_images_without_a_row_are_counted(tmp_path: Path) -> None:
    images = made({"train": (30, 20)}, "ab")
    for image in images:
        image.save(tmp_path / image.name)
    images[0].save(tmp_path / "more" / "extra.png")
    rows = [{"file": image.name, "label": image.cls} for image in images]
    rows[3]["label"] = ""
    write_table(tmp_path / "list.csv", rows)
    (note,) = [note for note in inspect(DataConfig(path=str(tmp_path / "list.csv"))).notes if "no row with" in note]
    assert all(words in note for words in ("2 images", "more/extra.png", images[3].name))


def test_what_is_logged_before_an_error_is_not_lost(runs_cwd: Path) -> None:
    root = as_classes(made({"train": (30, 20)}, "ab"), runs_cwd / "data")
    (root / "a" / "bad.png").write_bytes(b"no picture")
    first = sorted((root / "a").iterdir())[0]
    first.with_name(f"{first.stem}_mask.png").write_bytes(first.read_bytes())
    result = balancer("inspect", "data", "--max-bad", "0")
    refused(result, 1, "max-bad")
    assert "named as masks" in result.stderr


def test_the_settings_are_repeated() -> None:
    config = DataConfig(
        path="/data/t.csv",
        columns={"path": "my file", "label": "x"},
        where=["view=PA", "age!=3"],
        classes="a=b,c",
        positive="b",
        strict=True,
        resize="pad",
    )
    audit, train, *_ = command_lines(config, "nih", None, 2)
    parts = shlex.split(train)
    for flags in (
        ("--data", "/data/t.csv", "--where", "view=PA", "--where", "age!=3", "--classes", "a=b,c", "--positive", "b"),
        ("--columns", "path=my file,label=x"),
        ("--strict",),
        ("--set", "data.resize=pad"),
        ("--patient-pattern", "nih"),
    ):
        assert any(tuple(parts[i : i + len(flags)]) == flags for i in range(len(parts))), flags
    assert "--strict" not in audit, "the audit has a strictness of its own"
