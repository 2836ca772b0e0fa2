"""The site: the chapters as they are committed, with their outputs. Nothing is executed, no other host is asked."""

import re
import shutil
from pathlib import Path

import nbformat

project = "The Hugging Face Trainer, hands on"
project_copyright = ""
extensions = ["myst_nb"]
html_theme = "furo"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = ["scrolling.js"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_show_sphinx = False
html_show_copyright = False
html_sourcelink_suffix = ""
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "notebook.html",
        "sidebar/scroll-end.html",
    ]
}

nb_execution_mode = "off"
nb_code_prompt_show = "Show the solution"
nb_code_prompt_hide = "Hide the solution"
nb_mime_priority_overrides = [("html", "text/html", 0)]

SITE = Path(__file__).parent
COURSE = SITE.parent


def text_alternative(notebook, position: int) -> str:
    """Return what the prose says of the picture in a cell: what to look for, and what is then seen."""
    around = [notebook.cells[place].source for place in (position - 1, position + 1) if place < len(notebook.cells)]
    sentences = [sentence for text in around for sentence in re.findall(r"\*\*Look for\*\*.*?[.?](?=\s|$)", text)]
    return re.sub(r"[*`_]", "", " ".join(sentences)) or "The picture is described in the text that follows."


def prepare(notebook) -> None:
    """Fold the solutions of a notebook, and give its pictures a text alternative."""
    for position, cell in enumerate(notebook.cells):
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata["tags"].append("hide-cell")
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            cell.metadata["mystnb"] = {"image": {"alt": text_alternative(notebook, position)}}


# Sphinx reads one folder, so the pages are laid beside this file, as far from each other as in the course.
for folder in ("chapters", "data"):
    shutil.rmtree(SITE / folder, ignore_errors=True)
    (SITE / folder).mkdir()
shutil.copy(COURSE / "data" / "README.md", SITE / "data")
teaching = (COURSE / "TEACHING.md").read_text(encoding="utf-8").replace("](notebooks/", "](chapters/")
(SITE / "teaching.md").write_text(teaching, encoding="utf-8")
for path in (COURSE / "notebooks").glob("*.ipynb"):
    chapter = nbformat.read(path, as_version=4)
    prepare(chapter)
    nbformat.write(chapter, SITE / "chapters" / path.name)
