"""How the kernel lets a shard run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from serving_requests import make_request, offline_scores, scores_of

from exfm.serving.config import RankerConfig, ShardConfig
from exfm.serving.local import serve_local

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="no other system has such policies"),
]

REFUSING = """
import os, runpy

def refuse(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")

os.sched_setscheduler = refuse
runpy.run_module("exfm.serving.shard", run_name="__main__", alter_sys=True)
"""


def policies(pid: int) -> dict[str, int]:
    """Return the policy of each of a process's threads, by their names."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return {(one / "comm").read_text().strip(): os.sched_getscheduler(int(one.name)) for one in threads}


def test_shards_that_share_cores_never_interrupt_their_ranker(
    bundle: Path, transport: Literal["grpc", "stream"]
) -> None:
    shard = ShardConfig(scheduling_policy="batch")
    with serve_local(bundle, ranker=RankerConfig(transport=transport), shard=shard) as serving:
        found = scores_of(serving.ask(make_request()))
        ranker, *shards = (policies(server.process.pid) for server in serving.servers)
    for of_shard in shards:
        answering = {name: policy for name, policy in of_shard.items() if name in {"python", "event_engine"}}
        assert answering
        assert set(answering.values()) == {os.SCHED_BATCH}
    assert set(ranker.values()) == {os.SCHED_OTHER}
    for task, scores in offline_scores(bundle, make_request()).items():
        np.testing.assert_allclose(found[task], scores, atol=1e-6)


def test_a_policy_that_is_refused_is_one_clear_error(bundle: Path, tmp_path: Path) -> None:
    settings = tmp_path / "shard.json"
    settings.write_text(json.dumps({"scheduling_policy": "batch"}))
    command = [sys.executable, "-c", REFUSING, "--bundle", str(bundle), "--shard", "0", "--settings", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: scheduling_policy is 'batch', which is refused (Operation not permitted); set 'other'\n"
    )
