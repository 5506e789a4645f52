"""Workflows as files: the ``kale`` YAML and its JSON Schema, and notebooks made from it."""

from kale_magic.formats.notebook import to_notebook

__all__ = ["to_notebook"]
