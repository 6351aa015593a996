"""What was counted, in files."""

import uuid
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from made_models import model, table

from exfm.artifact.stores import read_file, write_file
from exfm.errors import StorageError
from exfm.planning.counted import HOTTEST_ROWS_FILE, Counted


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, r"table 't' has 0 hottest rows up to row 0, expected at least 2, all below row 8; count them again"),
        (np.array([3], np.uint32), "has 1 hottest rows up to row 3, expected at least 2, all below row 8"),
        (np.array([3, 8], np.uint32), "has 2 hottest rows up to row 8, expected at least 2, all below row 8"),
        (np.array([3, 1], np.int64), r"of table 't' are int64 \[2\], expected a list of uint32; count them again"),
        (np.array([[3, 1]], np.uint32), r"of table 't' are uint32 \[1, 2\], expected a list of uint32"),
    ],
)
def test_hottest_rows_that_were_not_counted_along_are_refused(
    rows: np.ndarray | None, message: str, tmp_path: Path
) -> None:
    statistics = model(table("t", rows=8, hot=(2, 0.5)))[1]
    Counted(statistics, {"t": np.array([3, 1])}).write(str(tmp_path / "counted"))
    assert Counted.read(str(tmp_path / "counted")).hottest["t"].tolist() == [3, 1]
    tensors = {} if rows is None else {"t": rows}
    safetensors.numpy.save_file(tensors, tmp_path / "counted" / HOTTEST_ROWS_FILE)
    with pytest.raises(StorageError, match=message):
        Counted.read(str(tmp_path / "counted"))


def test_statistics_take_the_place_of_those_of_before_and_of_nothing_else(tmp_path: Path) -> None:
    for root in (str(tmp_path / "counted"), f"memory://{uuid.uuid4().hex}"):
        for hottest in ([3, 1], [2, 5, 7]):
            Counted(model(table("t", rows=8, hot=(2, 0.5)))[1], {"t": np.array(hottest)}).write(root)
            assert Counted.read(root).hottest["t"].tolist() == hottest
    write_file(f"{root}/others.txt", b"theirs")
    Counted(model(table("t", rows=8))[1], {}).write(root)
    assert read_file(f"{root}/others.txt") == b"theirs"
    (tmp_path / "others.txt").write_text("theirs")
    with pytest.raises(StorageError, match=r"holds 'counted/hottest_rows\.safetensors', which no stage wrote"):
        Counted(model(table("t", rows=8))[1], {}).write(str(tmp_path))
