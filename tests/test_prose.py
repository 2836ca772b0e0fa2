"""Every number in prose has a source, and every reference to a section is a link that leads there."""

from pathlib import Path

import form
import nbformat
import prose
import pytest

NOTEBOOKS = sorted(prose.NOTEBOOKS.glob("*.ipynb"))
PAGES = [prose.ROOT / name for name in ("README.md", "TEACHING.md", "data/README.md")]


def of_each_cell(path: Path, problems_in) -> list[str]:
    """Return what a rule finds in the prose of a notebook, with the id of the cell."""
    notebook = nbformat.read(path, as_version=4)
    return [f"{cell.id}: {problem}" for cell in form.prose(notebook) for problem in problems_in(cell.source)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_number_in_prose_has_a_source(path):
    sources = prose.shown_by(nbformat.read(path, as_version=4)) | prose.measured()
    problems = of_each_cell(path, lambda text: prose.numbers_without_source(text, sources))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_reference_of_a_chapter_leads_somewhere(path):
    problems = of_each_cell(path, lambda text: prose.dead_references(text, path))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_reference_of_a_page_leads_somewhere(path):
    problems = prose.dead_references(path.read_text(encoding="utf-8"), path)
    assert not problems, "\n".join(problems)


SHOWN = {0.8857, 938.0, 15000.0, 22.7e6, 0.0832}


@pytest.mark.parametrize(
    "text", ["88.6 %", "938 steps", "15,000 reviews", "22.7 million", "0.083", "89 percent", "two and 3 of them"]
)
def test_a_number_that_is_shown_may_be_said(text):
    assert not prose.numbers_without_source(text, SHOWN)


@pytest.mark.parametrize(
    "text", ["88.5 %", "939 steps", "15,001 reviews", "22.8 million", "0.084", "87 percent", "**42**"]
)
def test_a_number_that_nothing_shows_is_noticed(text):
    assert prose.numbers_without_source(text, SHOWN)


def test_a_number_whose_source_is_linked_on_its_line_may_be_said():
    assert not prose.numbers_without_source("92.8 % ([Sanh et al.](https://arxiv.org/abs/1910.01108))", SHOWN)


@pytest.mark.parametrize(
    "text",
    ["See 05.6.", "(10.1)", "[05.6](05_train.ipynb#05.6-No-such-section)", "[x](no_such.ipynb)", "[x](#nowhere)"],
)
def test_a_dead_reference_is_noticed(text):
    assert prose.dead_references(text, NOTEBOOKS[0])


def test_a_link_to_a_section_that_exists_leads_there():
    title = next(iter(sorted(prose.anchors(NOTEBOOKS[0]))))
    assert not prose.dead_references(f"[there](#{title}), [page]({NOTEBOOKS[1].name})", NOTEBOOKS[0])
    assert not prose.dead_references("It takes 12.5 % of 0.75 s.", NOTEBOOKS[0])
