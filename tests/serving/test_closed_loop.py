"""What a ranker served becomes examples, by way of its log and an exporter, with the scores that were answered."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pods import LONG_S, Pods
from serving_requests import make_request

from exfm.das.advance import advance
from exfm.das.closing import LogState, accounts
from exfm.das.log_tables import Das
from exfm.events.parquet import LogSource
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.scoring import UnshardedScorer
from exfm.schema import Schema
from exfm.serving.oip.rest.client import infer

pytestmark = pytest.mark.slow

HOUR_S = 3_600
NUM_REQUESTS, NUM_CANDIDATES, NUM_SHOWN = 20, 12, 3


def test_what_was_served_is_learned_from_with_the_scores_of_its_answers(
    bundle: Path, pods: Pods, tmp_path: Path
) -> None:
    log, to = tmp_path / "log", tmp_path / "exported"
    exporter = subprocess.Popen(
        [sys.executable, "-m", "exfm.serving.exporter", "--folder", str(log), "--to", str(to), "--every-s", "1"]
    )
    try:
        shards = [pods.shard(bundle, shard).lookup_address for shard in range(2)]
        settings = {"request_log": {"domain": "shop", "sampling_rate": 1.0, "file_s": 1}}
        ranker = pods.ranker(bundle, shards, settings=settings, arguments=[f"--request-log-folder={log}"])
        ranker.wait_until_ready()
        served: dict[str, dict[str, float]] = {}
        clicked = []
        for number in range(NUM_REQUESTS):
            request = make_request(num_candidates=[1 + number, NUM_CANDIDATES])
            answer = infer(ranker.rest_url, "students", request | {"parameters": {"shown": NUM_SHOWN}})
            scores = {output["name"]: output["data"] for output in answer["outputs"]}
            ids = [f"{answer['parameters']['logged_as']}-{place}" for place in range(1 + number + NUM_CANDIDATES)]
            served |= {id_: {task: scores[task][place] for task in scores} for place, id_ in enumerate(ids)}
            of_last_user = np.argsort(scores["like"][1 + number :])
            best, worst = ids[1 + number + of_last_user[-1]], ids[1 + number + of_last_user[0]]
            clicked += [best, worst]  # the worst was not shown
        ranker.server.process.send_signal(signal.SIGTERM)
        exporter.send_signal(signal.SIGTERM)  # as a pod ends: both at once
        assert ranker.exit_code() == exporter.wait(LONG_S) == 0
    finally:
        exporter.kill()
        exporter.wait()

    assert not list(log.rglob("*.parquet"))
    assert len(list((to / "students" / "impressions").iterdir())) >= 1
    (to / "feedback").mkdir()
    now_s = int(time.time())
    told_s = pl.lit(now_s + 60, dtype=pl.Int64)
    clicks = {"event_time_s": told_s, "kind": pl.lit("rating"), "value": pl.lit(5.0)}
    feedback = pl.DataFrame({"impression_id": clicked}).with_columns(**clicks)
    feedback.write_parquet(to / "feedback" / f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}.parquet")

    schema = Schema.read(to / "students" / "schema.json")
    das = Das(root=str(tmp_path / "root"), schema=schema, window_length=HOUR_S)
    source = LogSource(impressions=str(to / "students" / "impressions"), feedback=str(to / "feedback"))
    longest = max(label.attribution_window for label in schema.labels)
    list(advance(das, source, foundation_models={}, until=das.ticks(now_s + longest + 2 * HOUR_S)))
    state = LogState.of(das)

    num_shown = sum(min(NUM_SHOWN, 1 + number) + NUM_SHOWN for number in range(NUM_REQUESTS))
    examples = state.examples.read(state.examples.files)
    assert examples.height == num_shown
    assert set(examples.filter(pl.col("label.like") == 1)["impression_id"]) == set(clicked[::2])
    of_impressions = [account for account in accounts(state) if account.part == "impressions"]
    assert sum(account.unshown for account in of_impressions) == len(served) - num_shown
    of_feedback = [account.states or {} for account in accounts(state) if account.part == "feedback"]
    assert sum(states["orphan"] for states in of_feedback) == NUM_REQUESTS

    raw = raw_columns(examples.to_arrow(), schema)
    scores_NT = UnshardedScorer.load(bundle).scores(encode_examples(raw, schema))
    for column, task in enumerate(schema.tasks()):
        answered = [served[id_][task] for id_ in examples["impression_id"]]
        np.testing.assert_allclose(scores_NT[:, column], answered, rtol=0, atol=1e-6)
    assert np.ptp(scores_NT[:, 0]) > 0.01
