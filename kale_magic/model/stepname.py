"""The form of a step's name; by itself, as processes that start often need it and no more of the model."""

from __future__ import annotations

import re

STEP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
