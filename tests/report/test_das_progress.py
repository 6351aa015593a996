"""The progress of models on a terminal."""

import io
from dataclasses import replace

from rich.console import Console

from exfm.das.progress import ModelProgress, Progress
from exfm.report.das_progress import print_progress

FM = ModelProgress(
    name="fm",
    learned=1_234,
    due=3,
    until="2026-01-29T00:00:00Z",
    age="17 days, 23:35:13.500000",
    newest={"click": 0.81234, "stay": None},
    overall={"click": 0.9},
    examples_per_s=123_456.7,
    remaining_s=5_400,
)
YOUNG = ModelProgress("video", 0, 2, "", "", {}, {}, None, None)


def printed(*models: ModelProgress) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    print_progress(Progress("2026-02-01T00:00:00Z", (), {}, None, models), console=console)
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_models_have_a_line_each_within_80_columns() -> None:
    lines = printed(FM, YOUNG)
    assert "model learned until behind due examples/s remaining" in lines
    assert "fm 1,234 2026-01-29 00:00 17 days, 23:35 3 123,457 90 min" in lines
    [young] = [place for place, line in enumerate(lines) if line.startswith("video")]
    assert lines[young].endswith("0 - - 2 - -")
    assert "fm click 0.8123 0.9000" in lines
    assert "stay - -" in lines


def test_times_have_the_largest_unit_of_which_there_are_two() -> None:
    for remaining_s, text in ((5, "5 s"), (119, "119 s"), (7_200, "2 h"), (180_000, "2 days")):
        assert any(line.endswith(f"123,457 {text}") for line in printed(replace(FM, remaining_s=remaining_s)))


def test_a_span_below_a_minute_is_in_seconds() -> None:
    for age, text in (("0:00:00", "0 s"), ("0:00:13.250000", "13 s"), ("0:01:13.250000", "0:01"), ("0:10:00", "0:10")):
        assert any(f"fm 1,234 2026-01-29 00:00 {text} 3" in line for line in printed(replace(FM, age=age)))


def test_steps_stay_as_they_are() -> None:
    steps = ModelProgress("fm", 1, 0, "5000", "1,000 steps", {}, {}, None, None)
    assert "fm 1 5000 1,000 steps 0 - -" in printed(steps)


def test_without_models_there_is_no_table() -> None:
    assert printed()[0] == "The log is complete until 2026-02-01T00:00:00Z"
    assert not any("model" in line or "remaining" in line or "NE of" in line for line in printed())
