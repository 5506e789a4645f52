"""For the code of a step: ``from kale_magic.inside import metric, progress, checkpoint, params, time_left``. See :mod:`kale_proxy.inside`."""

from kale_proxy.inside import checkpoint, metric, params, progress, time_left

__all__ = ["checkpoint", "metric", "params", "progress", "time_left"]
