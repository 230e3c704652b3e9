"""The commands of a federation, as a user types them: a comparison on one machine; a server and two sites."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import Result
from commands import done, refused

from balancer.core.errors import BalancerError
from balancer.core.jsonl import read_jsonl
from balancer.core.loopback import listener
from balancer.core.run import RunDir
from balancer.core.sealed import read_json, save_arrays
from balancer.core.settings import FederateServeConfig
from classifier.federation.addresses import HostPort, ServerSecurity
from classifier.federation.serve import ROUND_FILE, serve

Run = Callable[..., Result]
Args = tuple[str, ...]
ROOT = Path(__file__).resolve().parents[3]
BRIEF = ("--rounds", "2", "--seeds", "1", "--val-fraction", "0.3")
ARMS = ["pooled", "alone", "alone", "fedavg", "fedavg", "fedbn", "fedbn"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from classifier.cli import main; main()", *map(str, arguments)]


def started(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.nightly
def test_a_comparison_from_start_to_end(classifier: Run, small_args: Args, runs_cwd: Path) -> None:
    out = runs_cwd / "run"
    result = done(classifier("federate", *small_args, *BRIEF, "--algorithms", "fedavg,fedbn", "--out", out))
    assert "fedavg: against each site alone" in result.stdout
    rows = read_jsonl(out / "results.jsonl")
    assert [row["regime"] for row in rows] == ARMS
    assert [row.get("site") for row in rows[:7]] == [None, 0, 1, 0, 1, 0, 1]
    pooled, alone = rows[0]["n_train"], rows[1:3]
    assert pooled == {cls: sum(row["n_train"][cls] for row in alone) for cls in pooled}
    fedavg, fedbn = rows[3:5], rows[5:7]
    assert fedavg[0]["test"]["auroc"] == fedavg[1]["test"]["auroc"]  # one classifier, two thresholds
    assert fedbn[0]["test"]["nll"] != fedbn[1]["test"]["nll"]

    federation = read_json(out / "federation.json")
    names = ["fedavg - alone", "fedbn - alone", "fedavg - pooled", "fedbn - pooled", "pooled - alone", "fedbn - fedavg"]
    assert [c["name"] for c in federation["contrasts"]] == names
    mean = {arm: np.mean([r["test"]["auroc"] for r in rows if r["regime"] == arm]) for arm in set(ARMS)}
    assert federation["contrasts"][0]["estimate"] == pytest.approx(mean["fedavg"] - mean["alone"])
    rounds = read_jsonl(out / "metrics.jsonl")
    assert [(r["trial"], r["round"], r["sites"], r["lost"]) for r in rounds[:2]] == [
        ("fedavg-0", 1, [0, 1], []),
        ("fedavg-0", 2, [0, 1], []),
    ]
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (
        "What left the sites",
        "patients of the training fold",
        "why the site refuses",
        "federated GAN is out of scope",
    ):
        assert words in page
    assert (out / "done").exists()

    lines = (out / "results.jsonl").read_text().splitlines()
    (out / "results.jsonl").write_text("\n".join(lines[:-1]) + "\n")  # a site of a federation is lost
    done(classifier("federate", "--resume", out, "-q"))
    again = read_jsonl(out / "results.jsonl")
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in again] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in rows
    ]


@pytest.mark.nightly
def test_a_site_that_dies_in_a_round_leaves_it_to_the_rest(small_args: Args, runs_cwd: Path) -> None:
    out = runs_cwd / "run"
    steps = ("--steps", "240", "--rounds", "12", "--seeds", "1", "--val-fraction", "0.3", "--algorithms", "fedavg")
    args = [a for a in small_args if a != "-q"]
    args = args[: args.index("--steps")] + args[args.index("--steps") + 2 :]
    process = started("federate", *args, *steps, "--out", out, cwd=runs_cwd)
    try:
        killed, end = False, time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            if not killed and (out / "metrics.jsonl").exists() and read_jsonl(out / "metrics.jsonl"):
                workers = [
                    p for p in psutil.Process(process.pid).children(True) if "federation.worker" in str(p.cmdline())
                ]
                workers[-1].kill()
                killed = True
            time.sleep(0.05)
        _, stderr = process.communicate(timeout=5)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    assert killed
    assert re.search(r"site \d .*does not answer in round \d+ of fedavg-0: the round goes on with the rest", stderr)
    lost = [r for r in read_jsonl(out / "metrics.jsonl") if r["lost"]]
    assert len(lost) == 1
    assert len(read_jsonl(out / "metrics.jsonl")) == 12  # all rounds
    assert sum(row["regime"] == "fedavg" for row in read_jsonl(out / "results.jsonl")) == 1
    assert "went on with the rest" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.nightly
def test_a_server_and_two_sites(classifier: Run, chest_folder: Path, runs_cwd: Path) -> None:
    recipe = ("--image-size", "16", "--steps", "4", "--batch-size", "8", "--device", "cpu")
    server = started(
        "federate-serve", *recipe, "--rounds", "2", "--address", "127.0.0.1:0", "--out", "served", cwd=runs_cwd
    )
    sites: list[subprocess.Popen[str]] = []
    try:
        log, end = runs_cwd / "served" / "log.txt", time.monotonic() + 30
        while not (match := re.search(r"waiting at (\S+) for", log.read_text() if log.exists() else "")):
            assert time.monotonic() < end, "no address"
            assert server.poll() is None, server.communicate()
            time.sleep(0.05)
        for k in range(2):
            data = ("--data", chest_folder, "--val-fraction", "0.3")
            sites.append(
                started("federate-join", "--server", match[1], *data, *recipe, "--out", f"site-{k}", cwd=runs_cwd)
            )
        outputs = [p.communicate(timeout=60) for p in (server, *sites)]
    finally:
        for process in (server, *sites):
            process.kill()
    assert [p.returncode for p in (server, *sites)] == [0, 0, 0], outputs
    served = read_json(runs_cwd / "served" / "federation.json")
    assert len(served["sites"]) == 2
    assert {"patients", "images_of_class_0", "val_right_of_class_1"} <= next(iter(served["sites"].values())).keys()
    assert "2 rounds with 2 sites" in served["verdict"]
    assert (runs_cwd / "served" / "model.pt").exists()
    for k in range(2):
        result = read_json(runs_cwd / f"site-{k}" / "result.json")
        assert result["test"]["n"] == 26
    predicted = done(classifier("predict", runs_cwd / "site-1", chest_folder / "test" / "NORMAL", "--json", "-q"))
    assert json.loads(predicted.stdout)


def test_a_dry_run_names_the_sites_time(
    classifier: Run, small_args: Args, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classifier.federation.flower.prepare", lambda: None)
    monkeypatch.setattr("classifier.federation.commands.estimate_seconds", lambda study, device: 60.0)
    result = done(classifier("federate", *small_args, *BRIEF, "--dry-run", "--json"))
    assert json.loads(result.stdout)["estimated_seconds"] > 60 * 3
    assert not (runs_cwd / "runs").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--sites", "3"), 2, "simulate"),
        (("--simulate", "dirichlet", "--sites", "40"), 1, "sites"),
        (("--simulate", "dirichlet", "--alpha", "0.001", "--val-fraction", "0.3"), 1, "site"),
        (("--rounds", "7"), 2, "rounds"),
        (("--regime", "gan"), 2, "regime"),
        (("--algorithms", "fedsgd"), 2, "fedsgd"),
        (("--set", "selection=best_val_nll"), 2, "selection"),
    ],
)
def test_what_cannot_be_federated_is_refused(
    classifier: Run,
    small_args: Args,
    runs_cwd: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Args,
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr("classifier.federation.flower.prepare", lambda: None)
    rounds = () if "--rounds" in options else ("--rounds", "2")
    refused(classifier("federate", *small_args, *rounds, *options), code, words)
    assert not (runs_cwd / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("federate-serve", "--address", "0.0.0.0:9092"), "--certificate"),
        (("federate-serve", "--address", "nowhere"), "--address"),
        (("federate-join", "--server", "nowhere"), "--server"),
        (("federate-join", "--server", "127.0.0.1:0"), "--server"),
    ],
)
def test_insecure_or_wrong_addresses_are_refused(classifier: Run, runs_cwd: Path, arguments: Args, words: str) -> None:
    refused(classifier(*arguments), 2, words)
    assert not (runs_cwd / "runs").exists()


@pytest.mark.parametrize("names", ["NORMAL", "NORMAL,NORMAL", ","])
def test_a_server_of_fewer_than_two_classes_is_refused(
    classifier: Run, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    """Else it would wait for the sites, which would all refuse."""
    monkeypatch.setattr("classifier.federation.flower.prepare", lambda: None)
    refused(classifier("federate-serve", "--class-names", names, "--wait", "0.1"), 2, "class_names")


def test_a_port_that_is_taken_is_refused_in_a_dry_run_too(
    classifier: Run, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classifier.federation.flower.prepare", lambda: None)
    with listener("127.0.0.1", 0, "--address") as bound:
        bound.listen()
        port = bound.getsockname()[1]
        refused(classifier("federate-serve", "--address", f"127.0.0.1:{port}", "--dry-run"), 1, "--address", str(port))


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("federate-serve", "--certificate", "no.pem", "--certificate-key", "no.key"), "--certificate no.pem"),
        (("federate-join", "--server", "127.0.0.1:9092", "--ca", "no.pem"), "--ca no.pem"),
    ],
)
def test_a_missing_certificate_is_found_by_a_dry_run(
    classifier: Run, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch, arguments: Args, option: str
) -> None:
    monkeypatch.setattr("classifier.federation.flower.prepare", lambda: None)
    refused(classifier(*arguments, "--dry-run"), 1, option)


def test_a_server_of_sites_that_kept_batch_norm_is_not_resumed(tmp_path: Path) -> None:
    """The sites have ended with the server, and their layers with them."""
    config = FederateServeConfig(algorithm="fedbn", steps=4, rounds=2, wait=0.05)
    with RunDir(tmp_path / "run", resumed=True) as run:
        (tmp_path / "run").mkdir()
        nothing = np.zeros(1, np.float32)
        save_arrays(run / ROUND_FILE, {"rounds": np.array(1), "weights": nothing, "average": nothing})
        with pytest.raises(BalancerError, match=r"stopped after round 1 of fedbn.*start a new run"):
            serve(config, run, HostPort("127.0.0.1", 0), ServerSecurity())
