"""A text in a page: between its own markers, or an error."""

import pytest

from bench.pages import write_page

PAGE = """# Results
<!-- begin: insights -->
old
<!-- end: insights -->
<!-- begin: ablations -->
kept
<!-- end: ablations -->
"""


def test_only_the_own_block_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_page(page, "new\\1 | 3 %", "insights")
    assert page.read_text() == PAGE.replace("old", "new\\1 | 3 %")


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Results\n")
    with pytest.raises(ValueError, match="has no markers <!-- begin: insights -->"):
        write_page(page, "new", "insights")
    assert page.read_text() == "# Results\n"
