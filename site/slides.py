"""Make a deck of slides from each chapter, as it is committed: python site/slides.py

Writes site/_build/html/slides/, which needs no other host. A section is a row of slides: its heading with the
questions it asks, then one slide per cell. What the prose explains goes into the speaker notes (press S).
A cell whose slide type is set in JupyterLab keeps that; otherwise `slide_type` below decides.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat.v4 import new_markdown_cell
from traitlets.config import Config

SITE = Path(__file__).resolve().parent
OUT = SITE / "_build" / "html" / "slides"
WIDEST_CODE = 76  # characters; wider does not reach the back row
LINES_PER_SLIDE = 20
SHORT_TEXT = 300  # characters; longer prose has a slide of its own


def slide_type(cell) -> str:
    """Return `slide` for a new section, `subslide` for a cell of it, `skip` for what is not shown."""
    tags = cell.metadata.get("tags", [])
    if cell.cell_type == "markdown":
        return "slide" if re.search(r"^##? ", cell.source, flags=re.MULTILINE) else "subslide"
    return "skip" if {"check", "solution", "exercise"} & set(tags) or "describe()" in cell.source else "subslide"


def is_shown(block: str) -> bool:
    """Say whether a block of prose is for the wall as it stands: a heading, a list, a table, a trap."""
    return block.startswith(("#", "|", "- ", ">", "**You will**", "**Trap**"))


def for_the_wall(text: str) -> str:
    """Keep of a markdown text what an audience reads: headings, lists, tables, traps, questions, what to look for."""
    kept = []
    for block in re.split(r"\n{2,}", text):
        sentences = re.split(r"(?<=[.?!:]) +(?=[A-Z*`])", block)
        asked = [sentence for sentence in sentences if sentence.endswith("?") or "**Look for**" in sentence]
        kept.append(block if is_shown(block) else " ".join(asked))
    return "\n\n".join(filter(None, kept))


def as_slides(cell) -> list:
    """Turn one cell into the cells of its slides and speaker notes."""
    kind = cell.metadata.get("slideshow", {}).get("slide_type") or slide_type(cell)
    if kind == "skip":
        return []
    if cell.cell_type == "markdown":
        wall, notes = for_the_wall(cell.source), new_markdown_cell(cell.source)
        notes.metadata["slideshow"] = {"slide_type": "notes"}
        if not wall:
            return [notes]
        shown = new_markdown_cell(wall)
        shown.metadata["slideshow"] = {"slide_type": kind}
        return [shown, notes]
    code, results = nbformat.from_dict(cell), nbformat.from_dict(cell)
    code.metadata["slideshow"], results.metadata["slideshow"] = {"slide_type": kind}, {"slide_type": "subslide"}
    printed = sum(output.get("text", "").count("\n") for output in cell.outputs)
    rich = any(output.output_type in ("display_data", "execute_result") for output in cell.outputs)
    if not rich and cell.source.count("\n") + printed < LINES_PER_SLIDE:
        return [code]
    drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
    code.outputs, results.id, results.metadata["tags"] = [], f"{cell.id}-output", ["output-only"]
    return [results] if drawn else [code, results]  # a picture speaks for itself


def chapter_as_slides(path: Path):
    """Read a chapter, break its code into short lines, and return it as a notebook of slides."""
    with tempfile.TemporaryDirectory() as folder:
        narrow = shutil.copy(path, folder)
        ruff = [sys.executable, "-m", "ruff", "format", "-q", "--isolated", f"--line-length={WIDEST_CODE}", narrow]
        subprocess.run(ruff, check=True)
        notebook = nbformat.read(narrow, as_version=4)
    notebook.cells = [slide for cell in notebook.cells for slide in as_slides(cell)]
    wall = [cell for cell in notebook.cells if cell.metadata["slideshow"]["slide_type"] != "notes"]
    for text, code in zip(wall, wall[1:], strict=False):  # a heading or a question stands above its cell
        if text.cell_type == "markdown" and code.cell_type == "code" and len(text.source) < SHORT_TEXT:
            code.metadata["slideshow"] = {"slide_type": "-"}
    return notebook


def main() -> None:
    """Write one deck per chapter, and the files of reveal.js that they need."""
    shutil.rmtree(OUT, ignore_errors=True)
    reveal = files("sphinx_revealjs") / "_static" / "revealjs"
    for part in (
        "dist/reveal.js",
        "dist/reveal.css",
        "dist/theme/white.css",
        "dist/theme/fonts/source-sans-pro",
        "plugin/notes",
        "LICENSE",
    ):
        target = OUT / "reveal.js" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (reveal / part).is_dir() else shutil.copy)(reveal / part, target)
    config = Config()
    config.TagRemovePreprocessor.remove_input_tags = {"output-only"}
    config.TagRemovePreprocessor.enabled = True
    config.SlidesExporter.reveal_url_prefix = "reveal.js"
    config.SlidesExporter.reveal_theme = "white"
    exporter = SlidesExporter(config, extra_template_basedirs=[str(SITE / "_templates")], template_name="deck")
    for path in sorted((SITE.parent / "notebooks").glob("*.ipynb")):
        html, _ = exporter.from_notebook_node(chapter_as_slides(path), {"metadata": {"name": path.stem}})
        (OUT / f"{path.stem}.html").write_text(html, encoding="utf-8")
        print(f"slides: {path.stem}")


if __name__ == "__main__":
    main()
