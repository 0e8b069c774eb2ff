"""docs/serve.md names every setting with its default, as the dataclasses have them."""

from __future__ import annotations

from pathlib import Path

from settings_tables import reference, tables

from integration.settings import ServeConfig

PAGE = Path(__file__).parents[2] / "docs/serve.md"


def test_every_setting_stands_on_the_page_as_it_is():
    # To renew: PYTHONPATH=. python tests/integration/settings_tables.py
    assert reference().strip() in PAGE.read_text(encoding="utf-8")


def test_every_table_of_the_file_is_meant():
    assert {"listen", "workers", "router", "limits", "picker", "admin"} <= tables().keys()
    assert tables().keys() <= set(ServeConfig.__dataclass_fields__)
