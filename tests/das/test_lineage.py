"""A state says what it was made from, back to its labels, also when rows are gone."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from growing_log import GrowingLog, das_at
from test_lines import FM, VM, run

from exfm.das.closing import LogState
from exfm.das.config import DasConfig
from exfm.das.lineage import Origin, origin_of_state
from exfm.das.log_tables import Das
from exfm.das.scoring import score_window, teaching
from exfm.das.stages import remove
from exfm.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Das:
    folder = tmp_path_factory.mktemp("lineage")
    log, das = GrowingLog(folder / "log", days=7), das_at(folder / "root")
    log.arrive_all()
    run(das, log)
    return das


def texts(origin: Origin, depth: int = 0) -> Iterator[str]:
    yield "  " * depth + origin.text
    for one in origin.made_from:
        yield from texts(one, depth + 1)


def last_version(das: Das) -> str:
    versions = das.snapshots().state().read(das.snapshots().state().files, columns=["model", "version", "window"])
    return str(versions.filter(model="vm").sort("window")["version"][-1])


def test_a_vertical_models_state_leads_to_the_labels_of_its_teacher(taught: Das) -> None:
    lines = list(texts(origin_of_state(taught, last_version(taught))))
    varying = r"\d{4}-[-\dT:]+Z|version \d+|weights [0-9a-f]+|[0-9a-f]{12}-\d+|\d+ (rows|windows)"
    assert [re.sub(varying, "*", line) for line in lines] == [
        "state vm-*: learned *, * to *; *",
        "  examples of *, *: *",
        "    labels of *, *",
        "      impressions, *",
        "      feedback, *",
        "    pseudo-labels of fm, *",
        "      state fm-*: learned *, * to *; *",
        "        labels of *, *",
        "          impressions, *",
        "          feedback, *",
        "        state fm-*, its parent",
        "  state vm-*, its parent",
    ]


def test_versions_are_those_of_the_commits_that_made_the_rows(tmp_path: Path) -> None:
    """A day more makes another version of labels, by which the state of the day before was not made."""
    log, das = GrowingLog(tmp_path / "log", days=5), das_at(tmp_path / "root")
    for day in range(log.days):
        log.arrive(day)
        run(das, log)
        if day == log.days - 2:
            version, before = last_version(das), das.table("labels", {}).state().version
    lines = list(texts(origin_of_state(das, version)))
    assert das.table("labels", {}).state().version > before
    [of_labels, *_] = (line.strip() for line in lines if line.strip().startswith("labels of "))
    assert of_labels.endswith(f", version {before}")


def test_pseudo_labels_that_were_made_again_are_not_taken_for_those_that_taught(tmp_path: Path, taught: Das) -> None:
    shutil.copytree(taught.root, tmp_path / "root")
    das, version = replace(taught, root=str(tmp_path / "root")), last_version(taught)
    window = int(version.rpartition("-")[2])
    with teaching(FM, LogState.of(das)) as teacher:
        assert score_window(LogState.of(das), window, "fm", teacher, again=True)
    lines = list(texts(origin_of_state(das, version)))
    assert any("scored again since" in line for line in lines)
    assert not any("state fm-" in line for line in lines)


def test_a_lineage_outlives_the_rows(tmp_path: Path, taught: Das) -> None:
    shutil.copytree(taught.root, tmp_path / "root")
    das = replace(taught, root=str(tmp_path / "root"), config=DasConfig(keep_windows=4, max_rejected=0.05))
    version = next(iter(das.snapshots().state().read([0], part=VM.part)["version"]))
    whole = list(texts(origin_of_state(das, version)))
    assert list(remove(das, [FM, VM]))
    kept = list(texts(origin_of_state(das, version)))
    assert [line for line in kept if "removed" in line]
    assert [line for line in whole if "labels of 1970" in line] == [line for line in kept if "labels of 1970" in line]


@pytest.mark.parametrize("version", ["vm-0123456789ab-4", "vm", ""])
def test_a_state_that_is_not_there_is_refused(taught: Das, version: str) -> None:
    with pytest.raises(DataError, match="name the root of the run that trained it"):
        origin_of_state(taught, version)
