"""What the pages of docs/ point to is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_every_path_of_the_architecture_page_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    names = re.findall(r"`([^`\s]+)`", page)
    paths = [name for name in names if re.search(r"\.(py|toml)$", name)]
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists()] == []
    rows = re.findall(
        r"^\| `(\w+)/` \|.*\|(.*)\|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    assert [room for room, _ in rows] == ["base", "images", "training", "export", "serving"]
    for room, cell in rows:
        for folder in re.findall(r"`([a-z_/]+)/`", cell):
            assert (ROOT / folder).is_dir() or (ROOT / room / folder).is_dir(), folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith(("https://", "http://")) or (page.parent / target).exists()


IMPORTS = {
    line
    for page in PAGES
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for line in re.findall(
        r"^from ((?:images|training|export|serving)\S* import .*)$", block, re.MULTILINE
    )
}


@pytest.mark.parametrize("line", sorted(IMPORTS))
def test_examples_import_what_is_there(line: str) -> None:
    module, _, names = line.partition(" import ")
    for name in names.split(", "):
        assert hasattr(importlib.import_module(module), name)
