"""The whole job on a made example of each kind of data: GAN, synthesis with report, ablation of one seed."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import QUICK_REPORT, balancer, done, sets
from layouts import LAYOUTS, as_pacs, made

SMALL_GAN = ["--batch-size", 8, *sets(generator_width=4, discriminator_width=4, z_dim=8)]
SMALL = ["--steps", 4, "--batch-size", 8, "--seeds", 1, *sets(evaluations=1, bn_statistics="running")]
KINDS = {name: write for name, (_, write) in LAYOUTS.items() if name != "splits"} | {"pacs": as_pacs}
COUNTS = {"train": (40, 24), "val": (6, 5), "test": (12, 10)}


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_job(kind: str, runs_cwd: Path) -> None:
    from classifier.cli import main

    path = KINDS[kind](made(COUNTS), runs_cwd / "data")
    shown = json.loads(done(balancer("inspect", path, "--json")).stdout)["next"]
    audit, train = (shlex.split(line)[1:] for line in shown[:2])
    done(balancer(*audit, "-q"))
    done(balancer(*train, *SMALL_GAN, "--steps", 200, *sets(snapshot_every=100, snapshot_images=8), "-q"))
    done(balancer("synthesize", "-q", *QUICK_REPORT))
    arguments = ["ablate", "-q", *map(str, SMALL), "--regimes", "baseline,gan", "--json"]
    assert json.loads(done(CliRunner().invoke(main, arguments)).stdout)
