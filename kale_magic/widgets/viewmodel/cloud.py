"""Points in space as the page gets them: small whole numbers within the axes' extents, frame after frame."""

from __future__ import annotations

import sys
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from kale_magic.render.chart import _number

if TYPE_CHECKING:
    from kale_magic.render.cloud import Cloud

_TOP = 65535
NOTHING: dict[str, Any] = {"names": [], "spans": [], "frames": [], "ends": [], "groups": [], "total": 0, "data": b""}


def packed(cloud: Cloud) -> dict[str, Any]:
    """Return the points as unsigned 16-bit numbers, little-endian: x, y, z from 0 to 65535 between ``spans``, and the group.

    They are in the order of their moments; ``frames`` are the moments in words, ``ends`` how many points are up to the end of each.
    """
    spans = [cloud.span(axis) for axis in range(3)]
    data = array("H")
    counts: dict[float, int] = {}
    for *place, moment, group in cloud.rows:
        data.extend(_scaled(value, *spans[axis]) for axis, value in enumerate(place))
        data.append(group)
        counts[moment] = counts.get(moment, 0) + 1
    if sys.byteorder == "big":
        data.byteswap()
    return {
        "names": list(cloud.names),
        "spans": [[_number(low), _number(high)] for low, high in spans],
        "frames": [_number(moment) for moment in counts],
        "ends": list(accumulate(counts.values())),
        "groups": list(cloud.groups),
        "total": cloud.total,
        "data": data.tobytes(),
    }


def _scaled(value: float, low: float, high: float) -> int:
    return _TOP // 2 if high == low else round((value - low) / (high - low) * _TOP)
