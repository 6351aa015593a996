"""Sources in S3: what a local folder gives, a bucket gives too, and what is wrong there is told once and soon."""

import gzip
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import polars as pl
import pytest
from dataset_files import write_files

from exfm.artifact.stores import exists, join, read_file, write_file
from exfm.errors import DataError, StorageError
from exfm.events.datasets.conversion import FILES, convert
from exfm.events.datasets.dataset import data_set
from exfm.events.log import RawLog
from exfm.events.movielens import MovieLensSource
from exfm.events.parquet import LogSource
from exfm.events.schemas import MOVIELENS
from exfm.events.source_files import slices, source_files
from exfm.events.sources import about, load
from exfm.schema import Schema

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMA = Schema.read(MOVIELENS)
RATINGS = "userId,movieId,rating,timestamp\n1,10,5,1000\n2,10,1,1010\n1,20,2,1020\n"
MOVIES = "movieId,title,genres\n10,Toy Story (1995),Animation|Comedy\n20,Psycho (1960),Horror\n"


def put_movielens(uri: str, *, ratings: str = RATINGS) -> None:
    for name, text in (("ratings.csv", ratings), ("movies.csv", MOVIES), ("tags.csv", "of no use")):
        write_file(join(uri, name), text.encode())


def put_rows(uri: str, rows: pl.DataFrame, scratch: Path) -> None:
    rows.write_parquet(scratch / "rows.parquet")
    write_file(uri, (scratch / "rows.parquet").read_bytes())


def assert_same(log: RawLog, other: RawLog) -> None:
    assert log.impressions.equals(other.impressions)
    assert log.feedback.equals(other.feedback)
    assert {name: rows.to_dicts() for name, rows in log.names.items()} == {
        name: rows.to_dicts() for name, rows in other.names.items()
    }


@pytest.fixture(params=["", "/"])
def slash(request: pytest.FixtureRequest) -> str:
    """Return how a folder's URL ends."""
    text: str = request.param
    return text


@pytest.fixture
def movielens(tmp_path: Path) -> RawLog:
    """Return the log of the same files in a local folder."""
    put_movielens(str(tmp_path / "ml"))
    return load(MovieLensSource(folder=str(tmp_path / "ml")))


def test_movielens_is_read_from_s3(bucket: str, movielens: RawLog, slash: str) -> None:
    put_movielens(join(bucket, "ml"))
    assert_same(load(MovieLensSource(folder=join(bucket, "ml") + slash)), movielens)


def test_movielens_is_read_from_a_bucket_of_its_own(bucket: str, movielens: RawLog) -> None:
    put_movielens(bucket)
    assert_same(load(MovieLensSource(folder=bucket)), movielens)


def test_users_are_copied_with_the_files_of_their_layout(bucket: str) -> None:
    files = {
        "ratings.dat": "1::10::5::1000\n",
        "movies.dat": "10::Toy Story (1995)::Comedy\n",
        "users.dat": "1::M::24::17::85711\n",
    }
    for name, text in files.items():
        write_file(join(bucket, "ml-1m", name), text.encode())
    log = load(MovieLensSource(folder=join(bucket, "ml-1m")))
    assert log.impressions["occupation"].to_list() == ["technician/engineer"]


def test_a_malformed_row_in_s3_is_named_by_its_url(bucket: str, slash: str) -> None:
    put_movielens(join(bucket, "ml"), ratings=RATINGS + "1,ten,5,1000\n")
    with pytest.raises(DataError, match=rf"^{bucket}/ml/ratings\.csv: 1 of 4 rows are malformed, the first in line 5"):
        load(MovieLensSource(folder=join(bucket, "ml") + slash))


def test_a_data_set_in_s3_becomes_a_log_in_s3(bucket: str, tmp_path: Path) -> None:
    write_files("criteo_x4", tmp_path / "x4", packing=".gz")
    for file in (tmp_path / "x4").iterdir():
        write_file(join(bucket, "x4", file.name), file.read_bytes())
    schema = (EXAMPLES / "criteo_x4/schema.yaml").read_bytes()
    convert(data_set("criteo_x4"), join(bucket, "x4"), join(bucket, "log"), schema=schema)
    convert(data_set("criteo_x4"), str(tmp_path / "x4"), str(tmp_path / "log"), schema=schema)
    for name in FILES:
        assert read_file(join(bucket, "log", name)) == (tmp_path / "log" / name).read_bytes()
    write_file(join(bucket, "x4", "test.csv.gz"), gzip.compress(b"Label,I1\n1,2\n"))
    with pytest.raises(DataError, match=rf"^{bucket}/x4/test\.csv\.gz: line 1 lacks column 'I2', 'I3'"):
        convert(data_set("criteo_x4"), join(bucket, "x4"), join(bucket, "other"), schema=schema)
    assert not exists(join(bucket, "other"))


def test_a_folder_in_s3_without_movielens_is_told_with_what_is_there(bucket: str) -> None:
    put_movielens(join(bucket, "ml"))
    with pytest.raises(DataError, match=rf"^{bucket}/: no layout of MovieLens recognised; .*; found ml$"):
        load(MovieLensSource(folder=bucket + "/"))
    with pytest.raises(DataError, match=r"/none: no layout of MovieLens recognised; .*; found nothing$"):
        load(MovieLensSource(folder=join(bucket, "none")))


def read(source: LogSource, part: str) -> pl.DataFrame:
    files = [file for file in source_files(source) if file.part == part]
    return pl.concat([rows for file in files for rows in slices(file, source, schema=SCHEMA)]).drop("row")


def test_a_folder_a_glob_and_a_file_in_s3_are_read_and_other_columns_are_not(
    bucket: str, movielens: RawLog, slash: str, tmp_path: Path
) -> None:
    more = movielens.impressions.with_columns(pl.lit(1).alias("more"))
    put_rows(join(bucket, "log", "a b-0.parquet"), more.head(1), tmp_path)
    put_rows(join(bucket, "log", "a b-1.parquet"), movielens.impressions.tail(-1), tmp_path)
    put_rows(join(bucket, "feedback.parquet"), movielens.feedback, tmp_path)
    for impressions in (f"{bucket}/log/a b-*.parquet", f"{bucket}/log{slash}"):
        source = LogSource(impressions=impressions, feedback=f"{bucket}/feedback.parquet")
        found = read(source, "impressions")
        assert found.equals(movielens.impressions.select(found.columns))
        assert "more" not in found.columns
        assert read(source, "feedback").equals(movielens.feedback)


def test_names_of_ids_in_s3_are_read(bucket: str, movielens: RawLog, tmp_path: Path) -> None:
    put_rows(join(bucket, "names", "items.parquet"), movielens.names["item_id"], tmp_path)
    source = LogSource(impressions="-", feedback="-", names={"item_id": join(bucket, "names")})
    assert about(source, SCHEMA).names == {"item_id": dict(movielens.names["item_id"].rows())}


def test_an_object_waits_until_it_has_settled(bucket: str, movielens: RawLog, tmp_path: Path) -> None:
    put_rows(join(bucket, "log", "1.parquet"), movielens.impressions, tmp_path)
    put_rows(join(bucket, "feedback", "1.parquet"), movielens.feedback, tmp_path)
    log = LogSource(impressions=join(bucket, "log"), feedback=join(bucket, "feedback"), settle_s=3_600)
    assert source_files(log) == []
    assert len(source_files(log.model_copy(update={"settle_s": 0}))) == 2


def log_of(uri: str) -> LogSource:
    return LogSource(impressions=uri, feedback=uri)


@pytest.mark.parametrize("there", ["none", "none/", "none/*.parquet", "none/impressions.parquet", "marked", "marked/"])
def test_what_is_not_in_s3_is_named(bucket: str, there: str) -> None:
    filesystem = fsspec.filesystem("s3")
    filesystem.touch(f"{bucket}/marked/")  # as consoles make a folder
    with pytest.raises(StorageError) as raised:
        source_files(log_of(join(bucket, there)))
    assert str(raised.value) == (
        f"{bucket}/{there}: no file is there; name a file, a folder of files, or a glob that matches some"
    )


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket/log/: no file is there"):
        source_files(log_of("s3://no-such-bucket/log/"))
    with pytest.raises(
        DataError, match=r"^s3://no-such-bucket/ml: no layout of MovieLens recognised; .*found nothing$"
    ):
        load(MovieLensSource(folder="s3://no-such-bucket/ml"))


@pytest.mark.parametrize("named", ["log", "log/", "log/text.parquet"])
def test_a_file_in_s3_that_is_no_parquet_is_told(bucket: str, named: str) -> None:
    write_file(join(bucket, "log", "text.parquet"), b"not Parquet, though long enough")
    with pytest.raises(DataError, match=rf"^impressions: {bucket}/log/text.parquet is damaged, or no P"):
        read(log_of(join(bucket, named)), "impressions")


def test_missing_credentials_are_told(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.filesystem("s3").clear_instance_cache()
    looks: list[Callable[[], object]] = [
        lambda: source_files(log_of(join(bucket, "log"))),
        lambda: source_files(log_of(join(bucket, "*.parquet"))),
        lambda: load(MovieLensSource(folder=join(bucket, "ml"))),
    ]
    for look in looks:
        with pytest.raises(StorageError, match=r"Unable to locate credentials; check the path, the rights, the cred"):
            look()


@pytest.fixture(params=["closed", "silent"])
def away(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield an address where connections are refused, or where nobody answers them."""
    with socket.socket() as server, socket.socket() as waiting:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":  # its queue is full, so that the kernel drops what comes
            server.listen(0)
            waiting.connect(server.getsockname())
        yield "http://{}:{}".format(*server.getsockname())


def test_an_endpoint_that_is_away_is_told_within_seconds(
    bucket: str, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", away)
    fsspec.filesystem("s3").clear_instance_cache()
    began_s = time.monotonic()
    with pytest.raises(StorageError, match=rf"[Cc]onnect.* endpoint URL: \"?{away}.*; check the path, the rights"):
        source_files(log_of(join(bucket, "log")))
    assert time.monotonic() - began_s < 12
