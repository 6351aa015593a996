"""The published layouts of MovieLens, all read into the same three tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from exfm.artifact.stores import entries, is_local, local_copy
from exfm.errors import DataError

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""What the genre flags of u.item mean, in their order."""

OCCUPATIONS_1M = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip
"""What the occupation codes of users.dat mean, by code."""

USERS = "users.dat"
"""The file that 1M has and 10M lacks."""

Types = Mapping[str, type[pl.DataType]]

USER_TYPES: Types = {
    "user_id": pl.Int64, "age": pl.Int64, "gender": pl.String, "occupation": pl.String, "zip": pl.String,
}  # fmt: skip
RATING_TYPES: Types = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Float64}


@dataclass(frozen=True)
class MovieLensTables:
    """What the files of a MovieLens folder say."""

    edition: str
    """Which of GroupLens's data sets it is, as far as the layout shows."""
    ratings: pl.DataFrame
    """user_id, item_id and timestamp (int64; seconds since 1970-01-01 UTC), rating (float64; stars)."""
    items: pl.DataFrame
    """item_id (int64), title (with its year), genres (list of strings), release_year (int64 or null)."""
    users: pl.DataFrame | None
    """user_id and age (int64; 1M: the least of an age group), gender, occupation; None: the layout has no users."""


Reader = Callable[[Path], MovieLensTables]
"""Reads the files of one layout in a folder."""


@dataclass(frozen=True)
class _Layout:
    """How one table is written."""

    separator: str
    types: Types
    """Type of each column, in the file's order."""
    header: str = ""
    """The first line; empty: the file has none."""
    quote: str | None = None
    nullable: Sequence[str] = ()


def read_movielens(folder: str) -> MovieLensTables:
    """Return the tables in a folder of MovieLens files, whichever published layout they have.

    Raises: DataError if the files of no layout are all there, a row is malformed (its line is named), or a rating's
    user or item is in no table; StorageError if the folder's store does not answer.
    """
    layout, names = recognise(folder)
    with local_copy(folder, names) as local:
        return _read(local, READERS[layout])


def recognise(folder: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the layout of a folder, a key of READERS, and the names of its files.

    Raises: DataError if the files of no layout are all there; StorageError if the folder's store does not answer.
    """
    if is_local(folder) and not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; name the one that holds the files of MovieLens")
    names = sorted(item["name"] for item in entries(folder))
    layout = next((files for files in READERS if set(files) <= set(names)), None)
    if layout is None:
        wanted = "; or ".join(", ".join(files) for files in READERS)
        found = ", ".join(names[:10]) or "nothing"
        raise DataError(f"{folder}: no layout of MovieLens recognised; looked for {wanted}; found {found}")
    return layout, [*layout, *(name for name in names if name == USERS)]


def _read(folder: Path, read: Reader) -> MovieLensTables:
    tables = read(folder)
    _require_known(tables.ratings, tables.items, "item_id", folder)
    if tables.users is not None:
        _require_known(tables.ratings, tables.users, "user_id", folder)
    return tables


def _read_recbole(folder: Path) -> MovieLensTables:
    ratings = _Layout("\t", RATING_TYPES, header="user_id:token\titem_id:token\trating:float\ttimestamp:float")
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    users = _Layout("\t", USER_TYPES, header=header, nullable=["zip"])
    items = _Layout(
        "\t",
        {"item_id": pl.Int64, "title": pl.String, "year": pl.String, "genres": pl.String},
        header="item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        nullable=["year", "genres"],
    )
    # This copy took the year out of the title, but for a title where it failed to ("... (1995)", year "V").
    is_year = pl.col("year").str.contains(r"^\d{4}$")
    title = pl.when(is_year).then(pl.format("{} ({})", "title", "year")).otherwise("title")
    return MovieLensTables(
        edition="MovieLens 100K",
        ratings=_ratings(folder / "ml-100k.inter", ratings),
        items=_items(_text(folder / "ml-100k.item", items).with_columns(title.alias("title")), separator=" "),
        users=_text(folder / "ml-100k.user", users).drop("zip"),
    )


def _read_100k(folder: Path) -> MovieLensTables:
    ratings = _Layout("\t", RATING_TYPES)
    users = _Layout("|", USER_TYPES, nullable=["zip"])
    described: Types = {
        "item_id": pl.Int64,
        "title": pl.String,
        "released": pl.String,
        "video": pl.String,
        "url": pl.String,
    }
    items = _Layout("|", {**described, **dict.fromkeys(GENRES_100K, pl.Int64)}, nullable=["released", "video", "url"])
    genres = pl.concat_str(
        [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES_100K], separator="|", ignore_nulls=True
    )
    return MovieLensTables(
        edition="MovieLens 100K",
        ratings=_ratings(folder / "u.data", ratings),
        items=_items(_text(folder / "u.item", items).with_columns(genres.alias("genres")), separator="|"),
        users=_text(folder / "u.user", users).drop("zip"),
    )


def _read_dat(folder: Path) -> MovieLensTables:
    tab = "\t"  # stands for "::", which polars cannot split by; no file of this layout has one of its own
    items = _Layout(tab, {"item_id": pl.Int64, "title": pl.String, "genres": pl.String}, nullable=["genres"])
    users = _Layout(
        tab,
        {"user_id": pl.Int64, "gender": pl.String, "age": pl.Int64, "code": pl.Int64, "zip": pl.String},
        nullable=["zip"],
    )
    has_users = (folder / USERS).is_file()
    return MovieLensTables(
        edition="MovieLens 1M" if has_users else "MovieLens 10M",
        ratings=_ratings(folder / "ratings.dat", _Layout(tab, RATING_TYPES)),
        items=_items(_text(folder / "movies.dat", items), separator="|"),
        users=_name_occupations(_text(folder / USERS, users), folder) if has_users else None,
    )


def _read_csv(folder: Path) -> MovieLensTables:
    items = _Layout(
        ",",
        {"item_id": pl.Int64, "title": pl.String, "genres": pl.String},
        header="movieId,title,genres",
        quote='"',
        nullable=["genres"],
    )
    return MovieLensTables(
        edition="MovieLens (latest, 20M, 25M or 32M)",
        ratings=_ratings(folder / "ratings.csv", _Layout(",", RATING_TYPES, header="userId,movieId,rating,timestamp")),
        items=_items(_text(folder / "movies.csv", items), separator="|"),
        users=None,
    )


READERS: Mapping[tuple[str, ...], Reader] = {
    ("ml-100k.inter", "ml-100k.user", "ml-100k.item"): _read_recbole,
    ("u.data", "u.user", "u.item"): _read_100k,
    ("ratings.dat", "movies.dat"): _read_dat,
    ("ratings.csv", "movies.csv"): _read_csv,
}
"""The files that a layout is recognised by, and its reader."""


def _ratings(path: Path, layout: _Layout) -> pl.DataFrame:
    is_rating = pl.col("rating").is_between(0.5, 5) & pl.col("timestamp").is_between(0, 2**40)
    rows = _table(path, _bytes(path) if path.suffix == ".dat" else path, layout=layout, is_valid=is_rating)
    if rows.is_empty():
        raise DataError(f"{path}: there are no ratings; expected one a line")
    return rows.with_columns(pl.col("timestamp").cast(pl.Int64))


def _items(rows: pl.DataFrame, *, separator: str) -> pl.DataFrame:
    genres = (
        pl.col("genres")
        .fill_null("")
        .str.split(separator)
        .list.eval(pl.element().filter(~pl.element().is_in(["", "unknown", "(no genres listed)"])))
    )
    year = pl.col("title").str.extract(r".*\((\d{4})[^)]*\)").cast(pl.Int64)  # the last: titles quote years, too
    return rows.select("item_id", "title", genres.alias("genres"), year.alias("release_year"))


def _name_occupations(users: pl.DataFrame, folder: Path) -> pl.DataFrame:
    unknown = users.filter(~pl.col("code").is_between(0, len(OCCUPATIONS_1M) - 1))
    if not unknown.is_empty():
        raise DataError(
            f"{folder / 'users.dat'}: user {unknown['user_id'][0]} has occupation code {unknown['code'][0]}; "
            f"expected 0 to {len(OCCUPATIONS_1M) - 1}"
        )
    occupation = pl.col("code").replace_strict(dict(enumerate(OCCUPATIONS_1M)), return_dtype=pl.String)
    return users.select("user_id", "age", "gender", occupation.alias("occupation"))


def _text(path: Path, layout: _Layout) -> pl.DataFrame:
    return _table(path, _bytes(path), layout=layout, is_valid=pl.lit(True))


def _bytes(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError:  # older sets are Latin-1, newer ones and copies UTF-8
        content = content.decode("latin-1").encode()
    return content.replace(b"::", b"\t") if path.suffix == ".dat" else content


def _table(path: Path, source: Path | bytes, *, layout: _Layout, is_valid: pl.Expr) -> pl.DataFrame:
    columns = ", ".join(layout.types)
    if layout.header:
        with path.open("rb") as file:
            found = file.readline().decode("latin-1").rstrip("\r\n")
        if found != layout.header:
            raise DataError(f"{path}: the header is {found!r:.200}, expected {layout.header!r}")
    try:
        rows = pl.read_csv(
            source,
            separator=layout.separator,
            has_header=False,
            skip_lines=1 if layout.header else 0,
            schema=dict(layout.types),
            quote_char=layout.quote,
            ignore_errors=True,  # makes a value of another type null, which is reported below with its line
            raise_if_empty=False,
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path}: cannot be read as the columns {columns}: some line has other fields; copy the file again"
        ) from error
    given = [pl.col(column).is_not_null() for column in layout.types if column not in layout.nullable]
    is_malformed = rows.select(~pl.all_horizontal(*given, is_valid).fill_null(False)).to_series()
    if is_malformed.any():
        line = int(is_malformed.arg_max() or 0) + (2 if layout.header else 1)
        text = path.read_bytes().splitlines()[line - 1].decode("latin-1")
        raise DataError(
            f"{path}: {is_malformed.sum()} of {rows.height} rows are malformed, the first in line {line}: "
            f"{text!r:.200}; expected {columns}"
        )
    return rows


def _require_known(ratings: pl.DataFrame, table: pl.DataFrame, column: str, folder: Path) -> None:
    repeated = table[column].is_duplicated()
    if repeated.any():
        raise DataError(f"{folder}: {column} {table.filter(repeated)[column][0]} is described more than once")
    unknown = ratings.join(table, on=column, how="anti")
    if not unknown.is_empty():
        raise DataError(
            f"{folder}: {unknown.height} of {ratings.height} ratings name an unknown {column} "
            f"(for example {unknown[column][0]}); copy all files from the same MovieLens data set"
        )
