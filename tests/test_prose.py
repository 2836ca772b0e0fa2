"""Every number in prose has a source, and every reference to a section is a link that leads there."""

from pathlib import Path

import form
import nbformat
import prose
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from run import chapters

NOTEBOOKS = chapters()
PAGES = [prose.ROOT / name for name in ("README.md", "TEACHING.md", "data/README.md")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_number_in_prose_has_a_source(path):
    problems = [
        f"{cell.id}: {problem}"
        for cell, near, far in prose.sources(nbformat.read(path, as_version=4), path)
        for problem in prose.numbers_without_source(cell.source, near, far)
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_reference_of_a_chapter_leads_somewhere(path):
    notebook = nbformat.read(path, as_version=4)
    problems = [
        f"{cell.id}: {problem}" for cell in form.prose(notebook) for problem in prose.dead_references(cell.source, path)
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_reference_of_a_page_leads_somewhere(path):
    problems = prose.dead_references(path.read_text(encoding="utf-8"), path)
    assert not problems, "\n".join(problems)


SHOWN = prose.numbers_in("0.8857, 938 of 15,000, 22_700_000, 0.0832, -100, 0.7, 16.59, f16, 1e-4")


@pytest.mark.parametrize(
    "text",
    [
        "88.6 %",
        "938 steps",
        "15,000 reviews",
        "22.7 million",
        "0.083",
        "89 percent",
        "two and 3 of them",
        "−100",
        "17 s",
    ],
)
def test_a_number_that_is_shown_may_be_said(text):
    assert not prose.numbers_without_source(text, SHOWN)


@pytest.mark.parametrize(
    "text",
    ["88.5 %", "939 steps", "15,001 reviews", "22.8 million", "0.084", "87 percent", "**42**", "−938", "0.70", "16"],
)
def test_a_number_that_nothing_shows_is_noticed(text):
    assert prose.numbers_without_source(text, SHOWN)


def test_what_another_section_shows_may_be_repeated_and_not_rounded():
    far = prose.numbers_in("938, 12, 0.832")
    assert not prose.numbers_without_source("938 and 0.832", (), far)
    for text in ("12 of them", "0.83", "83.2 %", "−938"):
        assert prose.numbers_without_source(text, (), far), text


def test_a_section_that_is_linked_and_a_file_of_the_bench_that_is_named_are_sources(tmp_path):
    def chapter(*cells) -> Path:
        book = new_notebook(cells=[new_markdown_cell(one) if one[0] in "#S" else new_code_cell(one) for one in cells])
        nbformat.write(book, tmp_path / "03_made.ipynb")
        return tmp_path / "03_made.ipynb"

    path = chapter(
        "# 03 · Made", "rate = 77", "## 03.1 One", "12 + 13", "## 03.2 Two", "14", "S 77", "S 12", "S [03.1](#03.1) 12"
    )
    found = prose.sources(nbformat.read(path, as_version=4), path)
    assert [bool(prose.numbers_without_source(cell.source, near)) for cell, near, _ in found][-3:] == [
        False,
        True,
        False,
    ]
    name = next((prose.ROOT / "bench").glob("*.json")).stem
    assert prose.measured(name) and not prose.measured("no_such_file")
    path = chapter("# 03 · Made", f"open('../bench/{name}.json')", "## 03.1 One", "S")
    prose.shown.cache_clear()
    assert prose.measured(name) <= prose.shown(path)[""]


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
