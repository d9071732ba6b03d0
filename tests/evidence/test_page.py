"""docs/evidence.md: its tables are those of the results that are in the repository."""

from __future__ import annotations

import pytest

from scripts.evidence.page import read_results, with_tables
from scripts.evidence.records import Records
from tests.helpers import ROOT

PAGE = ROOT / "docs/evidence.md"


def test_tables_are_those_of_the_results():
    records = read_results(ROOT / "scripts/results/evidence.jsonl.gz")
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page, records) == page


def test_a_page_without_a_place_is_refused():
    with pytest.raises(ValueError, match="expected one place for digits, found 0"):
        with_tables(PAGE.read_text(encoding="utf-8").replace("digits:", "numbers:"), Records())
