"""MovieLens as an event log: a rating is an impression of the movie and, some time later, its feedback."""

from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, StringConstraints

from exfm.config import Config
from exfm.events.feedback import FeedbackSimulation, describe_faults, draw_delays, plant_faults
from exfm.events.history import Arrivals, histories
from exfm.events.log import RawLog
from exfm.events.movielens_files import MovieLensTables, read_movielens
from exfm.features.keys import keys_of_integers

HISTORY_LENGTH = 20
LIKED_FROM = 4.0
DISLIKED_UP_TO = 2.0

DOMAINS = {
    "students": ("student", "none", "college/grad student", "K-12 student"),
    "technologists": ("engineer", "programmer", "technician", "scientist", "technician/engineer"),
    "educators": ("educator", "librarian", "writer", "artist", "entertainment", "academic/educator"),
}
"""Occupations (as 100K and 1M name them) by domain; all others are in the domain `others`."""


class MovieLensSource(Config):
    """A folder of MovieLens files, in any published layout."""

    kind: Literal["movielens"] = "movielens"
    """Chooses this source."""
    folder: Annotated[str, StringConstraints(min_length=1)]
    """Folder with ratings and movies, and users where the layout has them; a path or an s3:// URL."""
    feedback: FeedbackSimulation = FeedbackSimulation()
    """MovieLens has one time for impression and feedback, so the arrival of feedback is simulated."""
    num_hashed_domains: Annotated[int, Field(ge=1, le=1000)] = 3
    """Number of domains that users are hashed to, if the layout has no data about users; 1 to 1,000."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the simulated delays and faults."""


def load_movielens(source: MovieLensSource) -> RawLog:
    """Return the log of a MovieLens folder: examples/movielens/schema.yaml names its columns.

    Impressions are numbered in order of time, user and item. The movies that a user is known to like or dislike are
    those whose feedback had arrived, after its simulated delay, strictly before the impression.

    Raises: as `read_movielens`.
    """
    tables = read_movielens(source.folder)
    rng = np.random.default_rng(source.seed)
    ratings = tables.ratings.sort("timestamp", "user_id", "item_id").with_row_index("impression_id")
    ratings = ratings.with_columns(pl.col("impression_id").cast(pl.Int64))
    delays = draw_delays(ratings.height, mean_delay_s=source.feedback.mean_delay_s, simulation=source.feedback, rng=rng)
    known_s = ratings["timestamp"].to_numpy() + delays.delay_s
    feedback = ratings.select(
        "impression_id",
        pl.Series("event_time_s", known_s),
        pl.lit("rating").alias("kind"),
        pl.col("rating").alias("value"),
    )
    faulty = plant_faults(feedback, simulation=source.feedback, rng=rng)

    users = _users(tables, num_hashed_domains=source.num_hashed_domains)
    impressions = (
        ratings.with_columns(
            _history(ratings, known_s, ratings["rating"] >= LIKED_FROM).alias("liked_items"),
            _history(ratings, known_s, ratings["rating"] <= DISLIKED_UP_TO).alias("disliked_items"),
        )
        .join(users, on="user_id", how="left", maintain_order="left")
        .join(tables.items, on="item_id", how="left", maintain_order="left")
        .select(
            "impression_id", pl.col("timestamp").alias("event_time_s"), "domain",
            "user_id", "age", "gender", "occupation", "liked_items", "disliked_items",
            "item_id", "genres", "release_year",
        )
    )  # fmt: skip
    titles = tables.items.select(pl.col("item_id").alias("id"), pl.col("title").alias("name"))
    return RawLog(
        impressions=impressions,
        feedback=faulty.rows,
        source=f"{tables.edition} by GroupLens",
        notes=(
            *_describe(tables, source),
            *describe_faults(faulty, num_late=delays.num_late, simulation=source.feedback),
        ),
        names=dict.fromkeys(("item_id", "liked_items", "disliked_items"), titles),
    )


def _history(ratings: pl.DataFrame, known_s: npt.NDArray[np.int64], chosen: pl.Series) -> pl.Series:
    arrivals = Arrivals(
        users=ratings["user_id"].filter(chosen).to_numpy(),
        items=ratings["item_id"].filter(chosen).to_numpy(),
        times=known_s[chosen.to_numpy()],
    )
    return histories(
        ratings["user_id"].to_numpy(),
        ratings["timestamp"].to_numpy(),
        arrivals=arrivals,
        max_length=HISTORY_LENGTH,
    )


def _users(tables: MovieLensTables, *, num_hashed_domains: int) -> pl.DataFrame:
    if tables.users is not None:
        domain_of = {occupation: domain for domain, occupations in DOMAINS.items() for occupation in occupations}
        domain = pl.col("occupation").replace_strict(domain_of, default="others", return_dtype=pl.String)
        return tables.users.with_columns(domain.alias("domain"))
    users = tables.ratings.select(pl.col("user_id").unique().sort())
    group = keys_of_integers(users["user_id"].to_numpy()) % np.uint64(num_hashed_domains)
    return users.with_columns(
        pl.format("group{}", pl.Series(group)).alias("domain"),
        pl.lit(None, dtype=pl.Int64).alias("age"),
        pl.lit(None, dtype=pl.String).alias("gender"),
        pl.lit(None, dtype=pl.String).alias("occupation"),
    )


def _describe(tables: MovieLensTables, source: MovieLensSource) -> tuple[str, ...]:
    ratings = tables.ratings
    first, last = (_day(ratings["timestamp"].min()), _day(ratings["timestamp"].max()))
    notes = (
        f"The data is {tables.edition} by GroupLens: {ratings.height:,} ratings of {ratings['item_id'].n_unique():,} "
        f"movies by {ratings['user_id'].n_unique():,} users, {first} to {last} (UTC).",
        "Every rating counts as an impression; movies that were shown and not rated are not in the data.",
        "MovieLens has one timestamp for impression and feedback, so feedback delays are simulated "
        f"(exponential, mean {source.feedback.mean_delay_s:g} s, seed {source.seed}).",
    )
    if tables.users is not None:
        return notes
    hashed = (
        f"This layout says nothing of users: a user's domain is one of {source.num_hashed_domains} groups "
        "by a hash of the user's id, and age, gender and occupation are missing."
    )
    return (*notes, hashed)


def _day(timestamp_s: object) -> str:
    assert isinstance(timestamp_s, int)
    return datetime.fromtimestamp(timestamp_s, tz=UTC).date().isoformat()
