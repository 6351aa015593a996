"""Small files of each published layout, whose labels can be learned."""

import bz2
import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from exfm.events.datasets import taobao_x1
from exfm.events.datasets.avazu import DATA as AVAZU
from exfm.events.datasets.criteo_attribution import CATEGORIES as ATTRIBUTION_CATEGORIES
from exfm.events.datasets.open_bandit import CATEGORIES, FEATURES, NUM_ITEMS, POLICIES

START_S = 1_494_000_000
"""2017-05-05 16:00 UTC, when the display ads begin."""

SCENARIOS = ("430548_1007", "430539_1007")
SITE_CATEGORIES = ("50e219e0", "f028772b", "28905ebd", "3e814130")


class Drawn:
    """Columns of random rows, and labels that depend on an id, so a model can learn them."""

    def __init__(self, num_rows: int, seed: int = 0) -> None:
        self.num_rows = num_rows
        self.rng = np.random.default_rng(seed)
        self.ids = self.rng.integers(0, 50, num_rows)
        """The id that the labels depend on."""

    def label(self, rate: float = 0.3) -> npt.NDArray[np.int64]:
        """Return labels, of which a share `rate` is 1."""
        odd = np.where(self.ids % 2, 1.8, 0.2) * rate
        return (self.rng.random(self.num_rows) < odd).astype(np.int64)

    def integers(self, stop: int, start: int = 0) -> npt.NDArray[np.int64]:
        """Return whole numbers from `start` on, below `stop`."""
        return self.rng.integers(start, stop, self.num_rows)

    def hashes(self, num: int) -> pl.Series:
        """Return texts like Criteo's, of `num` different ones."""
        return pl.Series([f"{number * 2654435761 % 2**32:08x}" for number in range(num)]).gather(self.integers(num))

    def one_of(self, *texts: str) -> pl.Series:
        """Return one of some texts in each row."""
        return pl.Series(texts).gather(self.integers(len(texts)))

    def sequences(self, stop: int, length: int = 3) -> pl.Series:
        """Return 0 to `length` whole numbers in each row, with `^` between them."""
        pool = ["^".join(map(str, self.rng.integers(0, stop, size))) for size in self.rng.integers(0, length + 1, 1000)]
        return pl.Series(pool).gather(self.integers(1000))

    def gaps(self, column: object, share: float = 0.1) -> pl.Series:
        """Return a column without some of its values."""
        return pl.select(pl.when(pl.Series(self.rng.random(self.num_rows) > share)).then(pl.Series(column))).to_series()


def taobao(drawn: Drawn) -> dict[str, pl.DataFrame]:
    clk = drawn.label()
    ids = np.arange(60)
    return {
        "raw_sample.csv": pl.DataFrame(
            {
                "user": drawn.integers(40),
                "time_stamp": START_S + drawn.integers(8 * 86_400),  # in no order
                "adgroup_id": drawn.ids,
                "pid": drawn.one_of(*SCENARIOS),
                "nonclk": 1 - clk,
                "clk": clk,
            }
        ),
        "ad_feature.csv": pl.DataFrame(
            {
                "adgroup_id": ids,
                "cate_id": ids % 7,
                "campaign_id": ids % 20,
                "customer": ids % 10,
                "brand": [str(number) if number % 3 else "NULL" for number in ids],
                "price": [f"{number}.5" if number % 4 else "NULL" for number in ids],
            }
        ),
        "behavior_log.csv": pl.DataFrame(
            {
                "nick": drawn.integers(60),
                "time_stamp": START_S + drawn.integers(8 * 86_400, -14 * 86_400),
                "btag": drawn.one_of("ipv", "cart", "fav", "buy"),
                "cate": drawn.integers(7),
                "brand": drawn.gaps(drawn.integers(40)).cast(pl.String).fill_null("NULL"),
            }
        ),
        "user_profile.csv": pl.DataFrame(
            {
                "userid": ids[:35],  # some users have no profile
                **dict.fromkeys(("cms_segid", "cms_group_id", "final_gender_code", "age_level"), ids[:35] % 5),
                "pvalue_level": [str(number % 3) if number % 2 else "" for number in range(35)],
                **dict.fromkeys(("shopping_level", "occupation", "new_user_class_level "), ids[:35] % 3),
            }
        ),
    }


def taobao_ad_x1(drawn: Drawn) -> dict[str, pl.DataFrame]:
    texts = [name for name, kind in taobao_x1.DATA.layout.columns.items() if kind == pl.String]
    rows = pl.DataFrame(
        {
            "clk": drawn.label(),
            **{f"{name}_his": drawn.sequences(30) for name in ("btag", "cate", "brand")},
            **{name: drawn.integers(30) for name in texts},
            "price": drawn.gaps(drawn.integers(1000) / 10),
        }
    )
    return _split(rows.with_columns(pid=drawn.one_of(*SCENARIOS), adgroup_id=pl.Series(drawn.ids)))


def kuaivideo(drawn: Drawn) -> dict[str, pl.DataFrame]:
    rows = pl.DataFrame(
        {
            "timestamp": np.arange(drawn.num_rows),
            "user_id": drawn.integers(40),
            "item_id": drawn.ids,
            **{f"is_{kind}": drawn.label(rate) for kind, rate in (("click", 0.3), ("like", 0.1), ("follow", 0.05))},
            **{f"{sign}_items": drawn.sequences(50) for sign in ("pos", "neg")},
        }
    )
    return _split(rows)


def amazon(drawn: Drawn) -> dict[str, pl.DataFrame]:
    rows = pl.DataFrame(
        {
            "label": drawn.label(0.5),
            "user_id": drawn.integers(40),
            "item_id": drawn.ids,
            "cate_id": drawn.ids % 8,
            "item_history": drawn.sequences(50),
            "cate_history": drawn.sequences(8),
        }
    )
    return _split(rows)


def criteo_kaggle(drawn: Drawn) -> dict[str, pl.DataFrame]:
    return {"train.txt": _criteo(drawn, "label")}


def criteo_x4(drawn: Drawn) -> dict[str, pl.DataFrame]:
    rows = _criteo(drawn, "Label")
    first, second = drawn.num_rows * 8 // 10, drawn.num_rows // 10
    return {"train.csv": rows[:first], "valid.csv": rows[first : first + second], "test.csv": rows[first + second :]}


def criteo_delayed_feedback(drawn: Drawn) -> dict[str, pl.DataFrame]:
    clicked = np.sort(drawn.integers(60 * 86_400))
    converted = pl.Series(clicked + drawn.integers(30 * 86_400))
    return {
        "data.txt": pl.DataFrame(
            {
                "click_time": clicked,
                "conversion_time": pl.select(pl.when(pl.Series(drawn.label() == 1)).then(converted)).to_series(),
                **{f"count_{number}": drawn.gaps(drawn.integers(100, -1)) for number in range(8)},
                "category_1": pl.Series(drawn.ids).cast(pl.String),
                **{f"category_{number}": drawn.gaps(drawn.hashes(20)) for number in range(2, 10)},
            }
        )
    }


def criteo_attribution(drawn: Drawn) -> dict[str, pl.DataFrame]:
    shown = np.sort(drawn.integers(30 * 86_400))
    click = drawn.label()
    converted = drawn.label(0.1)
    rows = {
        "timestamp": shown,
        "uid": drawn.integers(40),
        "campaign": drawn.ids,
        "conversion": converted,
        "conversion_timestamp": np.where(converted, shown + drawn.integers(86_400), -1),
        "conversion_id": np.where(converted, drawn.integers(10**6), -1),
        "attribution": converted * click,
        "click": click,
        **dict.fromkeys(("click_pos", "click_nb"), np.where(click, 1, -1)),
        **{name: drawn.integers(100) / 1e4 for name in ("cost", "cpo")},
        "time_since_last_click": drawn.integers(10_000, -1),
        **{name: drawn.integers(30) for name in ATTRIBUTION_CATEGORIES},
    }
    return {"criteo_attribution_dataset.tsv.gz": pl.DataFrame(rows)}


def avazu(drawn: Drawn) -> dict[str, pl.DataFrame]:
    hours = np.sort(drawn.integers(240))
    texts = [name for name, kind in AVAZU.layout.columns.items() if kind == pl.String]
    rows = pl.DataFrame(
        {
            "id": pl.Series([10_000_000_000_000_000_000]).gather(np.zeros(drawn.num_rows, dtype=np.int64)),
            "click": drawn.label(),
            **{name: drawn.hashes(20) for name in texts},
        }
    )
    return {
        "train.csv": rows.with_columns(
            hour=pl.Series(14_102_100 + hours // 24 * 100 + hours % 24),
            C14=pl.Series(drawn.ids),
            site_category=drawn.one_of(*SITE_CATEGORIES),
        )
    }


def open_bandit(drawn: Drawn) -> dict[str, pl.DataFrame]:
    files = {}
    for policy in POLICIES:
        for campaign, num_items in NUM_ITEMS.items():
            features = {"item_feature_0": np.arange(num_items) / 10}
            features |= {name: pl.Series([f"{policy}{item % 3}" for item in range(num_items)]) for name in CATEGORIES}
            items = pl.DataFrame({"": range(num_items), "item_id": range(num_items), **features})
            at = pl.from_epoch(pl.Series(1_574_553_600_000_004 + 10_000_000 * np.arange(drawn.num_rows)), "us")
            rows = {
                "": np.arange(drawn.num_rows),
                "timestamp": at.dt.strftime("%Y-%m-%d %H:%M:%S%.6f+00:00"),
                "item_id": drawn.ids % num_items,
                "position": drawn.integers(4, 1),
                "click": drawn.label(),
                "propensity_score": drawn.integers(100) / 100,
                **{name: drawn.hashes(4) for name in FEATURES},
                **{f"user-item_affinity_{item}": drawn.integers(2) / 1 for item in range(num_items)},
            }
            files[f"{policy}/{campaign}/{campaign}.csv"] = pl.DataFrame(rows)
            files[f"{policy}/{campaign}/item_context.csv"] = items
    return files


def _criteo(drawn: Drawn, label: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            label: drawn.label(),
            **{f"I{number}": drawn.gaps(drawn.integers(500, -2)) for number in range(1, 14)},
            "C1": pl.Series(drawn.ids).cast(pl.String),
            **{f"C{number}": drawn.gaps(drawn.hashes(20 * number)) for number in range(2, 27)},
        }
    )


def _split(rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    first = rows.height * 4 // 5
    return {"train.csv": rows[:first], "test.csv": rows[first:]}


TABLES: Mapping[str, Callable[[Drawn], dict[str, pl.DataFrame]]] = {
    "taobao": taobao,
    "taobao_x1": taobao_ad_x1,
    "kuaivideo_x1": kuaivideo,
    "amazon_electronics_x1": amazon,
    "criteo_kaggle": criteo_kaggle,
    "criteo_x4": criteo_x4,
    "criteo_delayed_feedback": criteo_delayed_feedback,
    "criteo_attribution": criteo_attribution,
    "avazu": avazu,
    "open_bandit": open_bandit,
}
"""What makes the tables of each data set, by the names of their files."""


def write_files(name: str, folder: Path, *, num_rows: int = 200, packing: str = "", seed: int = 0) -> None:
    """Write a data set's files into a folder that is made, packed as an ending `.gz` or `.bz2` says."""
    for file, rows in TABLES[name](Drawn(num_rows, seed)).items():
        separator = "\t" if file.endswith((".txt", ".tsv", ".tsv.gz")) else ","
        text = rows.write_csv(separator=separator, include_header=not file.endswith(".txt")).encode()
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_packed(folder / (file if file.endswith(packing) else file + packing), text)


def write_packed(path: Path, text: bytes) -> None:
    """Write a file, packed as its name says."""
    packed = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
    path.write_bytes(packed(text))
