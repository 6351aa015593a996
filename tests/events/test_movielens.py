from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from exfm.errors import DataError
from exfm.events.acceptance import sort_out_feedback, sort_out_impressions
from exfm.events.feedback import FeedbackSimulation
from exfm.events.history import Arrivals, histories
from exfm.events.log import RawLog
from exfm.events.movielens import MovieLensSource, load_movielens
from exfm.features.keys import keys_of_integers
from exfm.schema import Schema

SCHEMA = Schema.read(Path(__file__).parents[2] / "examples" / "movielens" / "schema.yaml")

AT_ONCE = FeedbackSimulation(mean_delay_s=0, late_share=0, duplicate_share=0, orphan_share=0)

RATINGS = [(1, 10, 5, 1000), (2, 10, 1, 1010), (1, 20, 2, 1020), (1, 30, 3, 1030), (2, 30, 4, 1040)]
"""user, item, stars, timestamp"""


def write(path: Path, lines: list[str], *, encoding: str = "utf-8") -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)


def write_recbole(folder: Path) -> None:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    write(folder / "ml-100k.inter", [header, *("\t".join(map(str, row)) for row in RATINGS)])
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    write(folder / "ml-100k.user", [header, "1\t24\tM\ttechnician\t85711", "2\t53\tF\tother\t94043"])
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    items = ["10\tToy Story\t1995\tAnimation Comedy", "20\tMépris, Le\t1963\tDrama", "30\tunkonwn\tunkonwn\tunknown"]
    write(folder / "ml-100k.item", [header, *items])


def write_grouplens_100k(folder: Path) -> None:
    write(folder / "u.data", ["\t".join(map(str, row)) for row in RATINGS])
    write(folder / "u.user", ["1|24|M|technician|85711", "2|53|F|other|94043"])
    items = [
        "10|Toy Story (1995)|01-Jan-1995||http://x|0|0|0|1|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0",
        "20|Mépris, Le (1963)|01-Jan-1963||http://x|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0",
        "30|unkonwn||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
    ]
    write(folder / "u.item", items, encoding="latin-1")


def write_dat(folder: Path) -> None:
    write(folder / "ratings.dat", ["::".join(map(str, row)) for row in RATINGS])
    items = [
        "10::Toy Story (1995)::Animation|Comedy",
        "20::Mépris, Le (1963)::Drama",
        "30::unkonwn::(no genres listed)",
    ]
    write(folder / "movies.dat", items, encoding="latin-1")


def write_dat_with_users(folder: Path) -> None:
    write_dat(folder)
    write(folder / "users.dat", ["1::M::24::17::85711", "2::F::53::0::94043"])


def write_csv(folder: Path) -> None:
    write(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in RATINGS)])
    items = ["10,Toy Story (1995),Animation|Comedy", '20,"Mépris, Le (1963)",Drama', "30,unkonwn,(no genres listed)"]
    write(folder / "movies.csv", ["movieId,title,genres", *items])


ALL_LAYOUTS = [write_recbole, write_grouplens_100k, write_dat, write_dat_with_users, write_csv]
WITH_USERS = [write_recbole, write_grouplens_100k, write_dat_with_users]
WITHOUT_USERS = [write_dat, write_csv]

Writer = Callable[[Path], None]


def load_ratings(folder: Path, ratings: list[tuple[int, int, float, int]], feedback: FeedbackSimulation) -> RawLog:
    write_csv(folder)
    lines = [",".join(map(str, row)) for row in ratings]
    write(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *lines])
    return load_movielens(MovieLensSource(folder=str(folder), feedback=feedback))


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_every_published_layout_gives_the_same_events(tmp_path: Path, layout: Writer) -> None:
    layout(tmp_path)
    log = load_movielens(MovieLensSource(folder=str(tmp_path), feedback=AT_ONCE))
    impressions = log.impressions
    assert impressions["impression_id"].to_list() == [0, 1, 2, 3, 4]
    assert impressions["event_time_s"].to_list() == [1000, 1010, 1020, 1030, 1040]
    assert impressions["user_id"].to_list() == [1, 2, 1, 1, 2]
    assert impressions["item_id"].to_list() == [10, 10, 20, 30, 30]
    assert impressions["genres"].to_list() == [["Animation", "Comedy"], ["Animation", "Comedy"], ["Drama"], [], []]
    assert impressions["release_year"].to_list() == [1995, 1995, 1963, None, None]
    assert impressions["liked_items"].to_list() == [[], [], [10], [10], []]
    assert impressions["disliked_items"].to_list() == [[], [], [], [20], [10]]
    assert log.feedback.rows() == [(i, row[3], "rating", float(row[2])) for i, row in enumerate(RATINGS)]
    assert dict(log.names["item_id"].rows()) == {10: "Toy Story (1995)", 20: "Mépris, Le (1963)", 30: "unkonwn"}


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_every_layout_fits_the_schema_of_the_example(tmp_path: Path, layout: Writer) -> None:
    layout(tmp_path)
    log = load_movielens(MovieLensSource(folder=str(tmp_path)))
    assert sort_out_impressions(log.impressions, SCHEMA, of="impressions").accepted.height == len(RATINGS)
    assert sort_out_feedback(log.feedback, SCHEMA, of="feedback").accepted.height == log.feedback.height


@pytest.mark.parametrize("layout", WITH_USERS)
def test_a_users_occupation_gives_the_domain(tmp_path: Path, layout: Writer) -> None:
    layout(tmp_path)
    log = load_movielens(MovieLensSource(folder=str(tmp_path)))
    users = log.impressions.select("user_id", "domain", "age", "gender").unique().sort("user_id")
    assert users.rows() == [(1, "technologists", 24, "M"), (2, "others", 53, "F")]


@pytest.mark.parametrize("layout", WITHOUT_USERS)
def test_a_layout_without_users_gets_domains_by_hash_and_says_so(tmp_path: Path, layout: Writer) -> None:
    layout(tmp_path)
    log = load_movielens(MovieLensSource(folder=str(tmp_path), num_hashed_domains=7))
    users = log.impressions.select("user_id", "domain", "age", "gender", "occupation").unique().sort("user_id")
    one, two = (int(key) % 7 for key in keys_of_integers(np.array([1, 2])))
    assert users.rows() == [(1, f"group{one}", None, None, None), (2, f"group{two}", None, None, None)]
    assert "one of 7 groups by a hash of the user's id" in log.notes[-4]


def test_a_liked_item_is_in_the_history_only_after_its_feedback_is_known(tmp_path: Path) -> None:
    times = range(1000, 3000, 10)
    ratings = [(1, 10, 5.0, 1000), *((1, 30, 3.0, time) for time in times[1:])]
    log = load_ratings(tmp_path, ratings, FeedbackSimulation(mean_delay_s=400, late_share=0))
    known_s = log.feedback.filter(pl.col("impression_id") == 0)["event_time_s"].min()
    assert isinstance(known_s, int)
    assert 1000 < known_s < 2990
    for time_s, liked in log.impressions.select("event_time_s", "liked_items").rows():
        assert liked == ([10] if time_s > known_s else []), time_s


def test_late_feedback_is_in_the_history_when_it_has_come(tmp_path: Path) -> None:
    always_late = FeedbackSimulation(mean_delay_s=0, late_share=1, min_late_s=500, max_late_s=500)
    log = load_ratings(tmp_path, [(1, 10, 5, 1000), (1, 20, 3, 1500), (1, 20, 3, 1501)], always_late)
    assert log.impressions["liked_items"].to_list() == [[], [], [10]]


def test_repeated_and_orphaned_feedback_is_in_no_history(tmp_path: Path) -> None:
    planted = FeedbackSimulation(mean_delay_s=0, late_share=0, duplicate_share=1, orphan_share=1)
    log = load_ratings(tmp_path, [(1, 10, 5, 1000), (1, 20, 1, 1010), (1, 30, 3, 1020)], planted)
    assert log.feedback.height == 9
    assert (log.feedback["impression_id"] < 0).sum() == 3
    assert log.impressions["liked_items"].to_list() == [[], [10], [10]]
    assert log.impressions["disliked_items"].to_list() == [[], [], [20]]


def test_a_history_has_the_latest_items_oldest_first() -> None:
    rng = np.random.default_rng(3)
    users, times = rng.integers(0, 5, 300), rng.integers(0, 100, 300)
    arrivals = Arrivals(users=rng.integers(0, 5, 200), items=np.arange(200), times=rng.integers(0, 100, 200))
    found = histories(users, times, arrivals=arrivals, max_length=4)
    for user, time, items in zip(users, times, found, strict=True):
        before = [i for i in range(200) if arrivals.users[i] == user and arrivals.times[i] < time]
        assert items.to_list() == sorted(before, key=lambda i: (arrivals.times[i], i))[-4:]


def test_the_planted_faults_are_counted_in_the_notes(tmp_path: Path) -> None:
    ratings = [(1, 10, 5.0, 1000 + second) for second in range(2000)]
    log = load_ratings(tmp_path, ratings, FeedbackSimulation())
    notes = " ".join(log.notes)
    assert "2,000 ratings of 1 movies by 1 users, 1970-01-01 to 1970-01-01 (UTC)" in notes
    assert "feedback delays are simulated (exponential, mean 120 s, seed 0)" in notes
    assert "20 feedback rows were made late on purpose, by 3 to 10 days" in notes
    assert "10 feedback rows were repeated on purpose" in notes
    assert "4 feedback rows of impressions that do not exist" in notes
    assert log.feedback.height == 2000 + 10 + 4
    delays_s = log.feedback.head(2000)["event_time_s"] - log.impressions["event_time_s"]
    assert (delays_s > 2 * 86_400).sum() == 20
    assert 105 < delays_s.filter(delays_s < 86_400).mean() < 135


def test_the_same_seed_gives_the_same_movielens_log(tmp_path: Path) -> None:
    write_recbole(tmp_path)
    logs = [load_movielens(MovieLensSource(folder=str(tmp_path), seed=seed)) for seed in (5, 5, 6)]
    assert logs[0].impressions.equals(logs[1].impressions)
    assert logs[0].feedback.equals(logs[1].feedback)
    assert not logs[0].feedback.equals(logs[2].feedback)


def test_a_folder_without_ratings_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path)
    (tmp_path / "ratings.csv").unlink()
    with pytest.raises(DataError, match=r"looked for .*ratings\.csv, movies\.csv; found movies\.csv"):
        load_movielens(MovieLensSource(folder=str(tmp_path)))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_movielens(MovieLensSource(folder=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("row", ["1,x,3,1000", "1,10,3", "1,10,6,1000", "1,10,nan,1000", "", ",10,3,1000"])
def test_a_malformed_rating_is_refused_with_its_line(tmp_path: Path, row: str) -> None:
    write_csv(tmp_path)
    write(tmp_path / "ratings.csv", ["userId,movieId,rating,timestamp", "1,10,3,1000", row, "2,10,3,1000"])
    expected = f"1 of 3 rows are malformed, the first in line 3: '{row}'; expected user_id, item_id, rating, timestamp"
    with pytest.raises(DataError) as caught:
        load_movielens(MovieLensSource(folder=str(tmp_path)))
    assert expected in str(caught.value)


def test_a_rating_with_too_many_fields_is_refused(tmp_path: Path) -> None:
    write_grouplens_100k(tmp_path)
    write(tmp_path / "u.data", ["1\t10\t3\t1000\t7"])
    expected = r"the columns user_id, item_id, rating, timestamp: some line has other fields; copy the file again$"
    with pytest.raises(DataError, match=r"u\.data: cannot be read as " + expected):
        load_movielens(MovieLensSource(folder=str(tmp_path)))


def test_a_file_with_another_header_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path)
    write(tmp_path / "ratings.csv", ["movieId,userId,rating,timestamp", "10,1,3,1000"])
    with pytest.raises(DataError, match="the header is 'movieId,userId,rating,timestamp', expected 'userId,movieId"):
        load_movielens(MovieLensSource(folder=str(tmp_path)))


def test_ratings_that_are_empty_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path)
    write(tmp_path / "ratings.csv", ["userId,movieId,rating,timestamp"])
    with pytest.raises(DataError, match=r"ratings\.csv: there are no ratings"):
        load_movielens(MovieLensSource(folder=str(tmp_path)))


def test_a_rating_of_an_unknown_movie_or_user_is_refused(tmp_path: Path) -> None:
    write_grouplens_100k(tmp_path)
    write(tmp_path / "u.data", ["1\t10\t3\t1000", "1\t99\t3\t1000"])
    with pytest.raises(DataError, match=r"1 of 2 ratings name an unknown item_id \(for example 99\)"):
        load_movielens(MovieLensSource(folder=str(tmp_path)))
    write(tmp_path / "u.data", ["77\t10\t3\t1000"])
    with pytest.raises(DataError, match=r"name an unknown user_id \(for example 77\)"):
        load_movielens(MovieLensSource(folder=str(tmp_path)))


def test_an_occupation_code_that_1m_does_not_have_is_refused(tmp_path: Path) -> None:
    write_dat(tmp_path)
    write(tmp_path / "users.dat", ["1::M::24::17::85711", "2::F::53::21::94043"])
    with pytest.raises(DataError, match="user 2 has occupation code 21; expected 0 to 20"):
        load_movielens(MovieLensSource(folder=str(tmp_path)))
