"""The style of charts, and the formats of their files."""

from pathlib import Path
from typing import Any

from matplotlib.typing import RcKeyType

from exfm.errors import ConfigError

SETTINGS: dict[RcKeyType, Any] = {
    "svg.hashsalt": "exfm", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip


def kind_of_drawing(out: Path) -> str:
    """Return `png` or `svg`, by a file's name.

    Raises: ConfigError if it is neither.
    """
    kind = out.suffix.lower().removeprefix(".")
    if kind not in {"png", "svg"}:
        raise ConfigError(f"{out}: a drawing must be PNG or SVG; name it *.png or *.svg")
    return kind
