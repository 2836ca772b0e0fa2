"""Make a deck of slides from each chapter, as it is committed: python site/slides.py

Writes site/_build/html/slides/ with an index; it needs no other host. The author of a chapter chooses its slides by
the slide types in the notebook: `slide` begins one, `-` goes on with it, `fragment` appears on it after a key press,
and a cell without a type is on none. What the prose explains goes into the speaker notes (press S).
"""

import ast
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
NOTEBOOKS = SITE.parent / "notebooks"
OUT = SITE / "_build" / "html" / "slides"
WIDEST_CODE = 76  # characters; wider does not reach the back row
SHORT_TEXT = 350  # characters; of longer prose only what is_shown() takes stands on the wall
LONGEST_OUTPUT = 14  # lines


def is_shown(block: str) -> bool:
    """Say whether a block of prose is for the wall as it stands: a heading, a list, a table, a drawing, a box."""
    return block.startswith(("#", "|", "- ", ">", "!", "1. ", "**You will**", "**Trap**", "**Predict", "**Aside"))


def for_the_wall(text: str) -> str:
    """Return of a markdown text what an audience reads: all of a short one, else what is_shown() takes."""
    blocks = [block for block in re.split(r"\n{2,}", text) if "[Map]" not in block]
    prose = [block for block in blocks if not block.startswith("#")]
    if sum(map(len, prose)) <= SHORT_TEXT:
        return "\n\n".join(blocks)
    return "\n\n".join(filter(is_shown, blocks))


def without_imports(source: str) -> str:
    """Return code without the lines that import and assert, which an audience need not read."""
    lines = source.splitlines()
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a magic
        return source
    for node in statements:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert):
            lines[node.lineno - 1 : node.end_lineno] = [None] * (node.end_lineno - node.lineno + 1)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if line is not None)).strip()


def typed(cell, kind: str):
    """Return the cell with another slide type."""
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def as_slides(cell, kind: str, title: str) -> list:
    """Return what one cell of type `kind` puts on the wall, and its notes; `title` heads a slide that has none."""
    if cell.cell_type == "markdown":
        wall = for_the_wall(cell.source)
        notes = typed(new_markdown_cell(re.sub(r"!\[[^\]]*\]\([^)]*\)", "", cell.source)), "notes")
        headed = [] if kind != "slide" or wall.startswith("#") else [typed(new_markdown_cell(f"### {title}"), kind)]
        return [*headed, *([typed(new_markdown_cell(wall), "-" if headed else kind)] if wall else []), notes]
    head = [typed(new_markdown_cell(f"### {title}"), kind)] if kind == "slide" else []
    code, results = nbformat.from_dict(cell), nbformat.from_dict(cell)
    code.source, code.outputs, code.metadata["tags"] = without_imports(cell.source), [], []
    results.id, results.metadata["tags"] = f"{cell.id}-output", ["output-only"]
    for output in results.outputs:
        if len(lines := output.get("text", "").splitlines()) > LONGEST_OUTPUT:
            output["text"] = "\n".join([*lines[: LONGEST_OUTPUT - 1], "…"])
    asked = cell.metadata.get("jupyter", {}).get("outputs_hidden")
    drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
    shown = [] if drawn and not asked else [typed(code, "fragment" if kind == "fragment" else "-")]
    if drawn and shown:  # the code asked about, and its picture on a slide of its own
        return [*head, *shown, typed(new_markdown_cell(f"### {title}"), "slide"), typed(results, "-")]
    return [
        *head,
        *shown,
        *([typed(results, "fragment" if asked or kind == "fragment" else "-")] if cell.outputs else []),
    ]


def chapter_as_slides(path: Path):
    """Read a chapter, break its code into short lines, and return it as a notebook of slides."""
    with tempfile.TemporaryDirectory() as folder:
        narrow = shutil.copy(path, folder)
        ruff = [sys.executable, "-m", "ruff", "format", "-q", "--isolated", f"--line-length={WIDEST_CODE}", narrow]
        subprocess.run(ruff, check=True)
        notebook = nbformat.read(narrow, as_version=4)
    slides, title = [], path.stem
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (heading := re.search(r"^##? (.*)$", cell.source, flags=re.MULTILINE)):
            title = heading.group(1)
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "skip").replace("subslide", "slide")
        slides += [] if kind in ("skip", "notes") else as_slides(cell, kind, title)
    notebook.cells = slides
    return notebook


def index(decks: dict[str, str]) -> str:
    """Return a page that links to each deck; `decks` has their titles by file name."""
    links = "".join(f'<li><a href="{name}.html">{title}</a></li>' for name, title in decks.items())
    style = "body{font:20px/1.6 sans-serif;max-width:40em;margin:2em auto;padding:0 1em}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Slides</title><style>{style}</style><h1>Slides, one deck a chapter</h1>"
        f"<p>→ goes on, S opens the speaker notes, O the overview; add ?print-pdf to print.</p><ul>{links}</ul></html>"
    )


def main() -> None:
    """Write one deck per chapter, an index of them, and the files of reveal.js that they need."""
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
    shutil.copytree(NOTEBOOKS / "drawings", OUT / "drawings")
    config = Config()
    config.TagRemovePreprocessor.remove_input_tags = {"output-only"}
    config.TagRemovePreprocessor.enabled = True
    config.SlidesExporter.reveal_url_prefix = "reveal.js"
    config.SlidesExporter.reveal_theme = "white"
    config.SlidesExporter.exclude_anchor_links = True
    exporter = SlidesExporter(config, extra_template_basedirs=[str(SITE / "_templates")], template_name="deck")
    decks = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        deck = chapter_as_slides(path)
        if not deck.cells:
            print(f"slides: {path.stem} has none; choose some in JupyterLab's Property Inspector")
            continue
        html, _ = exporter.from_notebook_node(deck, {"metadata": {"name": path.stem}})
        (OUT / f"{path.stem}.html").write_text(html, encoding="utf-8")
        decks[path.stem] = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].strip("# ")
        print(f"slides: {path.stem}")
    (OUT / "index.html").write_text(index(decks), encoding="utf-8")


if __name__ == "__main__":
    main()
