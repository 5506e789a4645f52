"""The pages that people read first are well-formed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from docutils.core import publish_doctree

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["README.rst", "proxy/README.rst"])
def test_page_is_well_formed_and_its_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    said = io.StringIO()
    tree = publish_doctree(text, settings_overrides={"report_level": 2, "halt_level": 5, "warning_stream": said})
    assert said.getvalue() == ""
    missing = [node["uri"] for node in tree.findall(lambda node: node.tagname == "image") if not (ROOT / Path(name).parent / node["uri"]).exists()]
    assert missing == []
