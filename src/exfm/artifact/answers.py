"""In which form a shard's answers travel."""

from typing import Literal

SumsType = Literal["fp32", "fp16"]
"""How sums of rows are given, whatever the rows are kept in."""

AnswerForm = Literal["fp32", "fp16", "rows"]
"""Sums, in either type; or the rows themselves as they are kept, for the ranker to add up, where that takes fewer bytes
than sums in fp32."""
