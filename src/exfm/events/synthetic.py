"""A seeded stream of ads with planted truth: the probability behind every label is in the log.

A user, an ad and, between them, a drawn click and conversion. Users and ads have latent vectors; what a model sees of
them is ids, interests, a category and an advertiser, two numbers, and the ads that the user clicked lately. Every user
and ad is in all segments, so each segment tells something about the others: a foundation model can know more than a
vertical model.

Legend: N impressions, S segments, U users, A ads, L latent numbers, T topics.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from exfm.config import Config
from exfm.events.feedback import DAY_S, FeedbackSimulation, describe_faults, draw_delays, plant_faults
from exfm.events.history import Arrivals, histories
from exfm.events.log import RawLog

START_S = 1_767_225_600
"""2026-01-01 UTC, when the stream starts."""

HISTORY_LENGTH = 20
NUM_LATENT = 8
NUM_TOPICS = 24
MAX_INTERESTS = 5

SEGMENTS = ("search", "feed", "video", "stories", "shop", "mail")
SEGMENT_SHARES = (0.2, 0.2, 0.15, 0.15, 0.15, 0.15)
CLICK_LOGITS = (-1.8, -2.6, -3.2, -2.2, -2.4, -2.8)
"""Logit of a click on an average ad by an average user, by segment: in `search` about one click in seven impressions,
in `video` one in 25."""
MATCH_LOGIT = 3.0
"""Factor from the match of an ad's latent vector and the user's taste to the click's logit."""
LIKING_STD = 1.2
"""Standard deviation of users' part of the click's logit."""
ADVERTISER_APPEAL_STD, AD_APPEAL_STD = 0.4, 0.6
"""Standard deviations of advertisers' and ads' parts of the click's logit."""
CONVERSION_LOGIT = -1.2
"""Logit of a conversion after a click on an average ad, in any segment."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class SyntheticSource(Config):
    """A stream of ads made up from a seed."""

    kind: Literal["synthetic"] = "synthetic"
    """Chooses this source."""
    num_impressions: Annotated[int, Field(ge=1_000, le=100_000_000)] = 100_000
    """Impressions shown, before any are left out by `negative_sampling_rate`; 1,000 to 100 million."""
    num_users: Annotated[int, Field(ge=10, le=10_000_000)] = 5_000
    """Users; 10 to 10 million."""
    num_ads: Annotated[int, Field(ge=10, le=10_000_000)] = 2_000
    """Ads; 10 to 10 million."""
    num_advertisers: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Advertisers; 1 to a million."""
    duration_s: Annotated[int, Field(ge=3_600, le=3 * 365 * DAY_S)] = 28 * DAY_S
    """Time that the impressions spread over, in seconds; an hour to three years."""
    popularity_exponent: Annotated[float, Field(ge=0, le=3)] = 0.8
    """The n-th most popular user or ad has n ** -exponent of the first one's impressions; 0 to 3. 0: all are alike."""
    segment_taste: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of a user's taste that is another in each segment; 0 to 1. 0: tastes are alike in all segments."""
    drift_turns: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Turns that the ads' latent vectors make over the whole time; 0 to 100. 0: tastes do not change; 0.25:
    at the end they have nothing in common with the start."""
    negative_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share that is kept of the impressions without a click; more than 0, at most 1. 1: all."""
    feedback: FeedbackSimulation = FeedbackSimulation()
    """When clicks arrive, and what is wrong with the feedback."""
    mean_conversion_delay_s: Annotated[float, Field(ge=0, le=30 * DAY_S)] = 6 * 3_600.0
    """Mean of the exponential time from a click's arrival to its conversion's, in seconds; 0 to 30 days."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything that is drawn."""


@dataclass(frozen=True)
class _Users:
    latent_UL: Floats
    days_active_U: Floats
    liking_U: Floats
    """Added to the click's logit: how much the user likes ads. Only the user's id and clicks tell it."""
    interests_U: pl.Series


@dataclass(frozen=True)
class _Ads:
    latent_AL: Floats
    drifted_AL: Floats
    """What the latent vectors are after a quarter turn."""
    price_A: Floats
    appeal_A: Floats
    """Added to the click's logit: the ad's and its advertiser's."""
    advertiser_A: Ints
    topic_A: Ints


def load_synthetic(source: SyntheticSource) -> RawLog:
    """Return the log of a synthetic stream: examples/synthetic/schema.yaml names its columns.

    `truth_click` and `truth_conversion` are the probabilities that an impression's click and conversion were drawn
    with; a conversion needs a click, and its truth counts both draws. Late feedback can miss a label's attribution
    window, so that positives are rarer than the truth by up to `late_share`.

    `negative_sampling_rate` states the share that was kept of rows like this one: the setting where there was no
    click, and 1 where there was one. With its inverse as the weight of negatives, both labels weigh right: a click
    without a conversion is a negative that was never left out.
    """
    rng = np.random.default_rng(source.seed)
    topics_TL = _unit_vectors(NUM_TOPICS, rng)
    users = _draw_users(source, topics_TL, rng)
    ads = _draw_ads(source, topics_TL, rng)

    time_N = START_S + np.sort(rng.integers(0, source.duration_s, source.num_impressions))
    segment_N = rng.choice(len(SEGMENTS), source.num_impressions, p=SEGMENT_SHARES)
    user_N = _draw_popular(source.num_users, source, rng)
    ad_N = _draw_popular(source.num_ads, source, rng)
    taste_NL = _tastes(source, users.latent_UL[user_N], segment_N=segment_N, rng=rng)
    match_N = _matches(source, taste_NL, ads, time_N=time_N, ad_N=ad_N)
    truth_click_N, truth_given_click_N = _truths(
        users, ads, match_N=match_N, segment_N=segment_N, user_N=user_N, ad_N=ad_N
    )
    clicked_N = rng.random(source.num_impressions) < truth_click_N
    converted_N = clicked_N & (rng.random(source.num_impressions) < truth_given_click_N)

    click_delays = draw_delays(
        int(clicked_N.sum()), mean_delay_s=source.feedback.mean_delay_s, simulation=source.feedback, rng=rng
    )
    click_known_s = time_N[clicked_N] + click_delays.delay_s
    conversion_delays = draw_delays(
        int(converted_N.sum()), mean_delay_s=source.mean_conversion_delay_s, simulation=source.feedback, rng=rng
    )
    conversion_known_s = click_known_s[converted_N[clicked_N]] + conversion_delays.delay_s
    feedback = pl.concat(
        [
            _feedback("click", np.flatnonzero(clicked_N), click_known_s),
            _feedback("conversion", np.flatnonzero(converted_N), conversion_known_s),
        ]
    )
    faulty = plant_faults(feedback, simulation=source.feedback, rng=rng)

    clicks = Arrivals(users=user_N[clicked_N], items=ad_N[clicked_N], times=click_known_s)
    rate = source.negative_sampling_rate
    kept_N = clicked_N | (rng.random(source.num_impressions) < rate)
    shown = np.flatnonzero(kept_N)
    user, ad = user_N[shown], ad_N[shown]
    impressions = pl.DataFrame(
        {
            "impression_id": shown,
            "event_time_s": time_N[shown],
            "segment": pl.Series(SEGMENTS).gather(segment_N[shown]),
            "truth_click": truth_click_N[shown],
            "truth_conversion": (truth_click_N * truth_given_click_N)[shown],
            "negative_sampling_rate": np.where(clicked_N[shown], 1.0, rate),
            "user_id": user,
            "days_active": users.days_active_U[user],
            "interests": users.interests_U.gather(user),
            "clicked_ads": histories(user, time_N[shown], arrivals=clicks, max_length=HISTORY_LENGTH),
            "ad_id": ad,
            "price": ads.price_A[ad],
            "advertiser": _labels("advertiser", source.num_advertisers).gather(ads.advertiser_A[ad]),
            "category": _labels("topic", NUM_TOPICS).gather(ads.topic_A[ad]),
        }
    )
    return RawLog(
        impressions=impressions,
        feedback=faulty.rows,
        source=f"synthetic ads, seed {source.seed}",
        notes=(
            f"The events are synthetic: {impressions.height:,} impressions made up from seed {source.seed}.",
            *_describe_sampling(source, num_left_out=source.num_impressions - len(shown)),
            *describe_faults(
                faulty, num_late=click_delays.num_late + conversion_delays.num_late, simulation=source.feedback
            ),
        ),
        names={"ad_id": _ad_names(ads)},
    )


def _draw_users(source: SyntheticSource, topics_TL: Floats, rng: np.random.Generator) -> _Users:
    latent_UL = _unit_vectors(source.num_users, rng)
    # A user's interests are the topics closest to the latent vector, as many as chance gives.
    closest_UT = np.argsort(-(latent_UL @ topics_TL.T), axis=1)[:, :MAX_INTERESTS]
    num_interests_U = rng.integers(1, MAX_INTERESTS, source.num_users, endpoint=True)
    interests = pl.DataFrame({"topic": closest_UT, "count": num_interests_U}).select(
        pl.col("topic").cast(pl.List(pl.Int64)).list.head(pl.col("count"))
    )
    names = interests.with_row_index("user").explode("topic")
    names = names.with_columns(_labels("topic", NUM_TOPICS).gather(names["topic"].to_numpy()).alias("topic"))
    return _Users(
        latent_UL=latent_UL,
        days_active_U=rng.lognormal(3.0, 1.0, source.num_users).astype(np.float32),
        liking_U=rng.normal(0, LIKING_STD, source.num_users).astype(np.float32),
        interests_U=names.group_by("user", maintain_order=True).agg("topic")["topic"],
    )


def _draw_ads(source: SyntheticSource, topics_TL: Floats, rng: np.random.Generator) -> _Ads:
    latent_AL = _unit_vectors(source.num_ads, rng)
    across_AL = _unit_vectors(source.num_ads, rng)
    across_AL -= (across_AL * latent_AL).sum(axis=1, keepdims=True) * latent_AL
    advertiser_A = rng.integers(0, source.num_advertisers, source.num_ads)
    appeal = rng.normal(0, ADVERTISER_APPEAL_STD, source.num_advertisers)
    return _Ads(
        latent_AL=latent_AL,
        drifted_AL=across_AL / np.linalg.norm(across_AL, axis=1, keepdims=True),
        price_A=rng.lognormal(3.0, 0.8, source.num_ads).astype(np.float32),
        appeal_A=(appeal[advertiser_A] + rng.normal(0, AD_APPEAL_STD, source.num_ads)).astype(np.float32),
        advertiser_A=advertiser_A,
        topic_A=(latent_AL @ topics_TL.T).argmax(axis=1),
    )


def _tastes(source: SyntheticSource, latent_NL: Floats, *, segment_N: Ints, rng: np.random.Generator) -> Floats:
    """Return what users want in the segments that they are in; [N, L].

    A segment's own part is the user's latent vector turned, in a way that is the segment's.
    """
    turn_SLL, _ = np.linalg.qr(rng.standard_normal((len(SEGMENTS), NUM_LATENT, NUM_LATENT)))
    taste_NL: Floats = np.sqrt(1 - source.segment_taste) * latent_NL
    for segment, turn_LL in enumerate(turn_SLL):
        here = segment_N == segment
        taste_NL[here] += np.sqrt(source.segment_taste) * latent_NL[here] @ turn_LL
    return taste_NL.astype(np.float32)


def _matches(
    source: SyntheticSource, taste_NL: Floats, ads: _Ads, *, time_N: Ints, ad_N: Ints
) -> npt.NDArray[np.float64]:
    """Return how well ads suit users' tastes; [N]."""
    angle_N = 2 * np.pi * source.drift_turns * (time_N - START_S) / source.duration_s
    match_N: npt.NDArray[np.float64] = np.cos(angle_N) * np.einsum("nl,nl->n", taste_NL, ads.latent_AL[ad_N])
    if source.drift_turns:
        match_N += np.sin(angle_N) * np.einsum("nl,nl->n", taste_NL, ads.drifted_AL[ad_N])
    return match_N


def _truths(
    users: _Users,
    ads: _Ads,
    *,
    match_N: npt.NDArray[np.float64],
    segment_N: Ints,
    user_N: Ints,
    ad_N: Ints,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the probability of a click, and of a conversion given a click; shape [N] each."""
    habit_N = (np.log1p(users.days_active_U[user_N]) - 3.0) * 0.3 + users.liking_U[user_N]
    base_N = np.asarray(CLICK_LOGITS)[segment_N]
    click_N = base_N + MATCH_LOGIT * match_N + habit_N + ads.appeal_A[ad_N]
    conversion_N = CONVERSION_LOGIT + 1.5 * match_N - 0.5 * (np.log1p(ads.price_A[ad_N]) - 3.0)
    return _sigmoid(click_N), _sigmoid(conversion_N)


def _sigmoid(logit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-logit))


def _unit_vectors(count: int, rng: np.random.Generator) -> Floats:
    vectors = rng.standard_normal((count, NUM_LATENT), dtype=np.float32)
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _draw_popular(count: int, source: SyntheticSource, rng: np.random.Generator) -> Ints:
    """Return an id for each impression; how popular an id is does not show in its number."""
    share = np.cumsum(np.arange(1, count + 1, dtype=np.float64) ** -source.popularity_exponent)
    rank_N = np.searchsorted(share, rng.random(source.num_impressions) * share[-1], side="right")
    ids: Ints = rng.permutation(count)[rank_N]
    return ids


def _feedback(kind: str, impression_ids: Ints, times_s: Ints) -> pl.DataFrame:
    return pl.DataFrame({"impression_id": impression_ids, "event_time_s": times_s}).with_columns(
        pl.lit(kind).alias("kind"), pl.lit(1.0).alias("value")
    )


def _labels(prefix: str, count: int) -> pl.Series:
    return pl.Series([f"{prefix}-{number}" for number in range(count)], dtype=pl.String)


def _ad_names(ads: _Ads) -> pl.DataFrame:
    number = pl.int_range(len(ads.topic_A))
    return pl.select(
        number.alias("id"),
        pl.format("Ad {} (topic-{}, advertiser-{})", number, pl.Series(ads.topic_A), pl.Series(ads.advertiser_A)).alias(
            "name"
        ),
    )


def _describe_sampling(source: SyntheticSource, *, num_left_out: int) -> tuple[str, ...]:
    if source.negative_sampling_rate == 1:
        return ()
    return (
        f"{num_left_out:,} of {source.num_impressions:,} impressions, all without a click, were left out "
        f"(negative sampling rate {source.negative_sampling_rate:g}).",
    )
