"""The names of the formats in which a workflow leaves Kale, for the tables of options; :mod:`kale_magic.formats.export` writes them."""

from __future__ import annotations

FORMATS = ("kale", "cwl", "snakemake", "fireworks", "wfformat")
