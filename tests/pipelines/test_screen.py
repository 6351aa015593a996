"""What a person sees while steps work."""

from io import StringIO

from rich.console import Console

from exfm_pipelines.screen import Screen

WALK = [
    "exfm | started | train-fm | ",
    *(f"    exfm | under way | train-fm | {num_done} of 4 windows" for num_done in (1, 2, 3)),
    "exfm | done | train-fm | fm: 4 windows",
]


def shown(lines: list[str], *, is_terminal: bool, interval_s: float) -> str:
    """Return what a screen shows of what steps print; what they print is all in the log."""
    output, log = StringIO(), StringIO()
    console = Console(file=output, force_terminal=is_terminal, force_interactive=is_terminal, width=120)
    screen = Screen(log, console, interval_s=interval_s)
    with screen.drawn():
        for line in lines:
            screen.write(line + "\n")
    assert log.getvalue().splitlines() == lines
    return output.getvalue()


def test_a_terminal_shows_on_one_line_how_many_windows_are_done_and_how_long_the_rest_takes() -> None:
    drawn = shown(WALK[:-1], is_terminal=True, interval_s=0)
    assert "train-fm 3 of 4 windows, about 0 min 01 s left" in drawn
    assert "\x1b[2K" in drawn, "the line is erased when the stage ends"


def test_a_stage_that_walks_no_windows_is_shown_by_its_name_and_what_it_says() -> None:
    assert "deploy: waiting" in shown(
        ["exfm | started | deploy | ", "exfm | under way | deploy | waiting"], is_terminal=True, interval_s=0
    )


def test_a_log_has_a_line_about_a_stage_at_work_only_now_and_then() -> None:
    often = shown(WALK, is_terminal=False, interval_s=0).splitlines()
    assert [line.split(",")[0] for line in often[:-1]] == [f"  train-fm: {done} of 4 windows" for done in (1, 2, 3)]
    assert often[-1].startswith("✓ train-fm")
    assert len(shown(WALK, is_terminal=False, interval_s=30).splitlines()) == 1
