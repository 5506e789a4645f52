"""For the code of a step: ``from kale_magic.inside import metric, progress, checkpoint, params``. See :mod:`kale_proxy.inside`."""

from kale_proxy.inside import checkpoint, metric, params, progress

__all__ = ["checkpoint", "metric", "params", "progress"]
