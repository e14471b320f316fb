"""How long to wait after one fault and another."""

from __future__ import annotations

import math


def doubled(base_s: float, times: int, longest_s: float) -> float:
    """``base_s`` doubled so many times, up to ``longest_s``; never less than it was. Seconds."""
    try:
        longer_s = math.ldexp(base_s, times)
    except OverflowError:
        longer_s = longest_s
    return max(base_s, min(longer_s, longest_s))
