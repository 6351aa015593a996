"""The manual's example of a deployment has the words and figures of now."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig
from exfm.deploy.release import Release
from exfm.deploy.rollout import roll_out
from simulated_cluster import SimulatedCluster

MANUAL = Path(__file__).parents[2] / "docs/operating.md"
DEMO = {"shard_bytes": (72 * 2**10, 51 * 2**10), "replicas": (1, 1)}
"""Sizes of the demo's model `students`."""


def test_the_manual_shows_what_a_deployment_prints(release: Callable[[int], Release], config: DeployConfig) -> None:
    _, _, text = MANUAL.read_text(encoding="utf-8").partition("$ exfm deploy")
    shown = text.partition("```")[0].splitlines()[1:]
    cluster, lines = cast(Cluster, SimulatedCluster()), list[str]()
    for version in (1, 2):
        demo = Release.parse(release(version).to_dict() | DEMO, source="the demo")
        lines.clear()
        roll_out(cluster, demo, config, report=lines.append)
    assert len(shown) == 4
    assert [line for line in lines if line in shown] == shown
