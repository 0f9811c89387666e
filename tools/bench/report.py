"""How a benchmark says what it found: one JSON object a line."""

from __future__ import annotations

import json


def line(
    bench: str,
    case: str,
    ours: float | None,
    peer: str | None,
    theirs: float | None,
    unit: str,
    *,
    higher_is_better: bool,
    spread: tuple[float, float] | None = None,
) -> None:
    """Print one result. ``ratio`` is ours divided by theirs; ``peer`` names what it is held against, None for nothing.

    ``spread``: first and third quartile of the ratios of single rounds.
    """
    ratio = round(ours / theirs, 3) if ours is not None and theirs else None
    found: dict[str, object] = {
        "bench": bench, "case": case, "ours": _rounded(ours), "peer": peer, "theirs": _rounded(theirs), "ratio": ratio,
        "unit": unit, "higher_is_better": higher_is_better,
    }  # fmt: skip
    if spread is not None:
        found["spread"] = [round(each, 3) for each in spread]
    print(json.dumps(found, ensure_ascii=False), flush=True)


def _rounded(value: float | None) -> float | None:
    """Four digits are more than any measurement here is good for."""
    if value is None:
        return None
    return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")
