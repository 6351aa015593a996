"""In which type a shard's sums travel."""

from typing import Literal

SumsType = Literal["fp32", "fp16"]
"""How sums of rows are given, whatever the rows are kept in."""
