"""The page of results: what it concludes from known figures, either way, and that a part is made once."""

import pickle
from pathlib import Path

import polars as pl
import pytest
from made_results import about, found_of

from exfm.artifact.manifest import read_json
from exfm.events.movielens import MovieLensSource
from exfm.metrics.intervals import Interval
from exfm_bench.results.claims import Claim, below, claims
from exfm_bench.results.found import Found
from exfm_bench.results.newcomers import IMPRESSIONS, NEWCOMERS, write_newcomers
from exfm_bench.results.over_worlds import mean_of
from exfm_bench.results.page import page
from exfm_bench.results.parts import COMPARISON, CONDITIONS, DEFAULTS, Part, make_part, parts_of
from exfm_bench.results.pictures import AGES, COSTS, SIZES, pictures

EXAMPLES = Path(__file__).parents[2] / "examples"

GOOD = found_of(
    changes={
        ("fm", "ah"): -0.02, ("fm", "auto"): -0.01, ("doubled", "kd"): 0.01, ("doubled", "ah+sa"): -0.02,
        ("2-old", "kd"): -0.01, ("2-old", "ah+sa"): -0.02, ("quarter", "ah"): -0.01, ("times-4", "ah"): -0.03,
    },
    defaults={("fm", "auto"): -0.01, ("doubled", "auto"): 0.0005},
    calibrations={("doubled", "kd"): 1.5, ("doubled", "ah"): 1.02},
)  # fmt: skip

BAD = found_of(
    changes={
        ("fm", "ah"): 0.02, ("fm", "auto"): 0.01, ("doubled", "kd"): -0.02, ("doubled", "ah+sa"): -0.01,
        ("2-old", "kd"): -0.02, ("2-old", "ah+sa"): -0.01, ("quarter", "ah"): -0.03, ("times-4", "ah"): -0.01,
    },
    defaults={("fm", "auto"): -0.01, ("doubled", "auto"): 0.01, ("shuffled", "auto"): 0.0005},
    calibrations={("doubled", "kd"): 1.1, ("doubled", "ah"): 1.2},
    over=0.05,
)  # fmt: skip


def verdicts(found: Found, part: str) -> set[str]:
    """Return the verdicts of all claims whose sentence has this part."""
    found_here = {claim.verdict() for claim in claims(found) if part in claim.sentence}
    assert found_here, part
    return found_here


@pytest.mark.parametrize(
    "part",
    [
        "base rate and logistic regression", "base rate's reaches 0", "`ah` has less NE than label-only",
        "`auto` has less NE", "`ah+sa` has less NE than tuned `kd`, teacher: pseudo-labels times 2",
        "`ah+sa` has less NE than tuned `kd`, teacher: 2 windows older", "calibration of `ah`", "calibration of `kd`",
        "costs at most 0.1% of NE by default, teacher: pseudo-labels times 2", "exactly label-only's NE",
    ],
)  # fmt: skip
def test_a_claim_holds_or_not_by_its_figures(part: str) -> None:
    assert verdicts(GOOD, part) == {"holds"}
    assert verdicts(BAD, part) == {"does not hold"}


def test_a_larger_teacher_is_better_only_where_intervals_are_apart() -> None:
    sentence = "largest foundation model teaches more"
    # Of four methods only ah differs by size.
    assert verdicts(GOOD, sentence) == {"holds in 1 of 4 cases; the contrary in 0"}
    assert verdicts(BAD, sentence) == {"holds in 0 of 4 cases; the contrary in 1"}


def test_an_interval_with_the_bound_in_it_tells_nothing() -> None:
    assert below(Interval(value=-1, low=-2, high=0.5)) == "open"
    assert below(None) == "open"
    assert Claim("x", (below(about(-1)), "open")).verdict() == "holds in 1 of 2 cases; the contrary in 0"
    assert Claim("x", ("open",)).verdict() == "not resolved"


def test_the_interval_over_worlds_is_students() -> None:
    found = mean_of([1.0, 2.0, 3.0])
    assert found is not None
    assert found.value == 2
    assert (found.low, found.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert mean_of([0.0, 0.0]) == Interval(value=0, low=0, high=0)
    assert mean_of([1.0]) is None


def test_the_page_has_every_figure_and_names_its_pictures() -> None:
    text = page(GOOD)
    assert "| 3 worlds, each | 1,000 | 5 | 2 | 1 | 1 | 2 |" in text
    assert "| MovieLens-100K | search, label-only | click | 0.8000 | **−5.00 [−5.10, −4.90]** |" in text  # noqa: RUF001
    assert "| mean of worlds |  | 0.8000 |" in text
    assert "| fm | 4000 B | 400 B | 8.00 | 1.00 |" in text
    assert "| search | 1000 B | 100 B | 2.00 | 4.00 |" in text
    assert "| search, click | new user_id | 500 | 0.8000 |" in text
    assert "50.0% of all examples" in text
    assert "nan" not in text
    drawn = pictures(GOOD)
    assert set(drawn) == {SIZES, AGES, COSTS}
    assert all(f"(images/{name})" in text for name in drawn)


def test_all_settings_are_valid_and_worlds_differ_in_their_seed(tmp_path: Path) -> None:
    parts = parts_of(EXAMPLES, tmp_path, num_worlds=3)
    assert [part.name for part in parts] == [
        "movielens", "open-bandit", "world-1", "world-2", "world-3", "new-vertical",
    ]  # fmt: skip
    for part in parts:
        part.run.check()
        assert pickle.loads(pickle.dumps(part)).run == part.run  # it is made in a process of its own
    worlds = [part.run for part in parts if part.name.startswith("world")]
    assert [world.source.seed for world in worlds if world.source.kind == "synthetic"] == [1, 2, 3]
    assert worlds[0].model_copy(update={"source": None, "root": ""}) == worlds[1].model_copy(
        update={"source": None, "root": ""}
    )
    defaults = parts[2].comparisons[DEFAULTS]
    assert "auto" in defaults.methods
    assert not defaults.is_tuned


@pytest.mark.slow
def test_a_part_is_made_once_and_again_with_other_settings(tmp_path: Path) -> None:
    part = small_world(tmp_path)
    make_part(part)
    names = [COMPARISON, DEFAULTS, "lines.json"]
    written = {name: (part.folder / name).stat().st_mtime_ns for name in names}
    conditions = read_json(part.folder / CONDITIONS)
    assert conditions["num_examples"] == 2337  # of 3,000: labels of the last windows are not known
    stages = ["ingest", "label", "teach", "join", "learn label", "learn auto"]
    assert list(conditions["cpu_s"]) == [*stages, "lines", COMPARISON, DEFAULTS]
    assert min(conditions["cpu_s"].values()) > 0
    (part.folder / DEFAULTS).unlink()  # as if it had been killed before
    make_part(part)
    now = {name: (part.folder / name).stat().st_mtime_ns for name in names}
    assert now.pop(DEFAULTS) > written.pop(DEFAULTS)
    assert now == written
    again = read_json(part.folder / CONDITIONS)["cpu_s"]
    assert again.pop(DEFAULTS) > conditions["cpu_s"].pop(DEFAULTS)
    assert again == conditions["cpu_s"]

    other = Part(part.name, part.run.model_copy(update={"window_length": 604_800}), part.comparisons)
    make_part(other)
    assert read_json(part.folder / CONDITIONS)["num_windows"] < conditions["num_windows"]


def small_world(folder: Path) -> Part:
    """Return a world of 3,000 impressions with two methods and one vertical model."""
    world = next(part for part in parts_of(EXAMPLES, folder, num_worlds=1) if part.name == "world-1")
    run = world.run
    small = {"num_impressions": 3000, "num_users": 50, "num_ads": 20}
    comparison = world.comparisons[DEFAULTS].model_copy(update={"methods": ("label", "auto"), "teachers": ()})
    return Part(
        world.name,
        run.model_copy(
            update={
                "source": run.source.model_copy(update=small),
                "window_length": 345_600,
                "foundation_models": tuple(
                    model.model_copy(update={"training": model.training.model_copy(update={"warmup_windows": 1})})
                    for model in run.foundation_models
                ),
                "vertical_models": tuple(
                    model.model_copy(update={"training": model.training.model_copy(update={"warmup_windows": 1})})
                    for model in run.vertical_models[:1]
                ),
            }
        ),
        {COMPARISON: comparison, DEFAULTS: comparison},
    )


def test_newcomers_are_users_of_one_occupation_first_seen_after_the_middle(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    log.mkdir()
    ratings = [(1, 100), (2, 110), (1, 120), (2, 130), (3, 140), (4, 150), (3, 160)]
    lines = {
        "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
        + [f"{user}\t10\t5\t{time}" for user, time in ratings],
        "user": ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
        + [f"{user}\t24\tM\t{job}\t1" for user, job in ((1, "student"), (2, "other"), (3, "other"), (4, "student"))],
        "item": ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq", "10\tX\t1995\tDrama"],
    }
    for suffix, of_file in lines.items():
        (log / f"ml-100k.{suffix}").write_text("\n".join(of_file) + "\n")
    write_newcomers(MovieLensSource(folder=str(log)), folder=out)
    written = pl.read_parquet(out / IMPRESSIONS)
    assert written.height == len(ratings)
    assert written.filter(pl.col("domain") == NEWCOMERS)["user_id"].to_list() == [3, 3]
    assert set(written["domain"]) == {NEWCOMERS, "students", "others"}
