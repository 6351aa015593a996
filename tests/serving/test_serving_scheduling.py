"""How the kernel lets a shard run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pods import LONG_S, children_of
from serving_requests import make_request, offline_scores, scores_of

from exfm.errors import RequestError
from exfm.serving.client import ask
from exfm.serving.config import RankerConfig, SchedulingPolicy, ShardConfig
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


def policies(pid: int, *, name: str) -> list[int]:
    """Return the policies of a process's threads of that name."""
    threads = [one for one in Path(f"/proc/{pid}/task").iterdir() if (one / "comm").read_text().strip() == name]
    return [os.sched_getscheduler(int(one.name)) for one in threads]


@pytest.mark.parametrize("policy", ["other", "batch"])
def test_shards_answer_under_the_policy_of_their_settings(
    bundle: Path, transport: Literal["grpc", "stream"], policy: SchedulingPolicy
) -> None:
    expected = {"other": os.SCHED_OTHER, "batch": os.SCHED_BATCH}[policy]
    shard = ShardConfig(scheduling_policy=policy)
    with serve_local(bundle, ranker=RankerConfig(transport=transport), shard=shard) as serving:
        found = scores_of(serving.ask(make_request()))
        ranker, *shards = (server.process.pid for server in serving.servers)
        for pid in shards:
            assert os.sched_getscheduler(pid) == expected  # its main thread, which computes
            assert set(policies(pid, name="event_engine")) == {expected}  # gRPC's
        assert os.sched_getscheduler(ranker) == os.SCHED_OTHER
    for task, scores in offline_scores(bundle, make_request()).items():
        np.testing.assert_allclose(found[task], scores, atol=1e-6)


def test_serve_starts_servers_with_the_settings_of_a_file(bundle: Path, tmp_path: Path) -> None:
    settings = tmp_path / "serve.yaml"
    settings.write_text("ranker: {max_candidates: 3}\nshard: {scheduling_policy: batch}\n")
    arguments = ["serve", str(bundle), "--http-port", "0", "--grpc-port", "0", "--settings", str(settings)]
    program = [sys.executable, "-c", "from exfm.cli.main import main; main()", *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split("REST ")[1].split("/v2/")[0]
            with pytest.raises(RequestError, match="4 candidates; max_candidates is 3"):
                ask(url, "students", make_request(num_candidates=[4]))
            found = [os.sched_getscheduler(pid) for pid in children_of(process.pid)]
            assert found == [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_BATCH]  # the ranker's, then the shards'
        finally:
            process.terminate()
        assert process.wait(LONG_S) == 0


def test_a_policy_that_is_refused_is_one_clear_error(bundle: Path, tmp_path: Path) -> None:
    settings = tmp_path / "shard.json"
    settings.write_text(json.dumps({"scheduling_policy": "batch"}))
    command = [sys.executable, "-c", REFUSING, "--bundle", str(bundle), "--shard", "0", "--settings", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: scheduling_policy is 'batch', which is refused (Operation not permitted); set 'other'\n"
    )
