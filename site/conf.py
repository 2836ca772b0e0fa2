"""The site: the chapters as they are committed, with their outputs. Nothing is executed, no other host is asked."""

import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat

SITE = Path(__file__).parent
COURSE = SITE.parent
sys.path[:0] = [str(SITE), str(COURSE / "notebooks")]  # for stamp.py, the extension sections.py, and run.py

from run import chapters  # noqa: E402
from stamp import stamp  # noqa: E402

project = "The Hugging Face Trainer, hands on"
project_copyright = ""
extensions = ["myst_nb", "sphinx_copybutton", "sections"]
html_theme = "furo"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = ["course.js"]
html_additional_pages = {"search": "search.html"}
exclude_patterns = ["_build", "map.md"]
templates_path = ["_templates"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_use_index = False
copybutton_selector = "div.cell_input pre, section > div[class*=highlight-] pre"

nb_execution_mode = "off"
nb_merge_streams = True
suppress_warnings = ["misc.highlighting_failure"]  # messages of errors, which are not Python
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_mime_priority_overrides = [("html", "text/html", 0)]

FOLDS = {  # by tag: what is folded, and what the fold says
    "proof": ("hide-input", "Show the proof", "Hide the proof"),
    "check": ("hide-cell", "Show the check", "Hide the check"),
    "solution": ("hide-cell", "Show the solution", "Hide the solution"),
    "answer": ("hide-output", "Show the answer", "Hide the answer"),
}
# The glossary's terms, without those that are everyday words or mean two things.
TERMS = re.findall(
    r"^(\w[\w -]*)$", (SITE / "glossary.md").read_text(encoding="utf-8").partition("{glossary}")[2], flags=re.M
)
TERMS = [term for term in TERMS if term not in ("head", "split", "precision", "seed", "pipeline")]
BOXES = {"Trap": "warning", "Aside": "note", "Predict": "tip"}


def slug(address: str) -> str:
    """Return the address that MyST gives to a heading, from the one that JupyterLab gives to it."""
    return re.sub(r"[^\w\- ]", "", unquote(address).lower())


def boxed(text: str) -> str:
    """Return a markdown text whose questions, traps and asides are boxes.

    Each is a paragraph that begins with its name in bold, or a quotation that does.
    """
    blocks = re.split(r"\n{2,}", text)
    for place, block in enumerate(blocks):
        bare = re.sub(r"^> ?", "", block, flags=re.MULTILINE)
        if found := re.match(rf"\*\*({'|'.join(BOXES)})\.?\*\*\.? *", bare):
            kind = found.group(1)
            blocks[place] = f":::{{admonition}} {kind}\n:class: {BOXES[kind]}\n{bare[found.end() :]}\n:::"
    return "\n\n".join(blocks)


def link_terms(text: str, left: set[str]) -> str:
    """Link the first mention of each term in `left` to the glossary, and take it out of `left`.

    Headings, tables, code and links stay as they are.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.startswith(("#", "|", "!", "    ", "```")):
            continue
        parts = re.split(r"(`[^`]*`|!?\[[^\]]*\]\([^)]*\)|<[^>]*>)", line)
        for place in range(0, len(parts), 2):
            for term in sorted(left, key=len, reverse=True):
                found = re.search(rf"(?<![\w`-]){re.escape(term)}(s|es)?(?![\w`-])", parts[place], flags=re.IGNORECASE)
                if found and "{term}" not in parts[place]:
                    parts[place] = parts[place].replace(found[0], f"{{term}}`{found[0]} <{term}>`", 1)
                    left.remove(term)
        lines[number] = "".join(parts)
    return "\n".join(lines)


def prepare(notebook, name: str) -> None:
    """Fold what a reader opens, turn links and boxes into the site's, and give pictures their text alternative.

    `name` is the file's, which the page offers to download beside its way to the map.
    """
    left = set(TERMS)
    around = rf"[Map](../index.md)\1 · {{download}}`Download the notebook <../../notebooks/{name}>`"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = link_terms(cell.source, left)
            cell.source = re.sub(r"\[([^\]]*)\]\((\w+\.py)\)", r"{download}`\1 <../../notebooks/\2>`", cell.source)
            cell.source = re.sub(r"\[Map\]\(\.\./README\.md#chapters\)(.*)", around, cell.source)
            cell.source = re.sub(
                r"(\]\([\w./]*#)([^)]+)\)", lambda link: f"{link[1]}{slug(link[2])})", boxed(cell.source)
            )
            continue
        kinds = set(cell.metadata.get("tags", [])) & set(FOLDS)
        if not kinds and cell.metadata.get("jupyter", {}).get("outputs_hidden"):
            kinds = {"answer"}
        cell.metadata["mystnb"] = {}
        for kind in kinds:
            fold, show, hide = FOLDS[kind]
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), fold]
            cell.metadata["mystnb"] = {"code_prompt_show": show, "code_prompt_hide": hide}
        if alternative := cell.metadata.get("alt"):
            cell.metadata["mystnb"]["image"] = {"alt": alternative}


def card(name: str, question: str, computer: str, you: str) -> str:
    """Return a chapter's card for the first page: its drawing, its title, what it answers, and its minutes."""
    notebook = nbformat.read(COURSE / "notebooks" / f"{name}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    title = re.search(r"^# (.+)$", text, flags=re.M)[1]
    drawing = re.search(r"!\[[^\]]*\]\((drawings/[^)]+)\)", text)[1]
    lines = [f"![](chapters/{drawing})", f"**[{title}](chapters/{name}.ipynb)**", question]
    lines += [f"*minutes: {computer} of the computer, {you} of yours*"]
    return ":::{container} card\n" + "\n\n".join(lines) + "\n:::\n"


def map_of_chapters() -> str:
    """Return the README's table of chapters as cards, part by part."""
    parts, readme = [], (COURSE / "README.md").read_text(encoding="utf-8")
    rows = r"^\| \*\*(Part .+?)\*\* \||^\| \[(\w+)\]\(notebooks/\w+\.ipynb\) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$"
    for part, *row in re.findall(rows, readme, flags=re.M):
        if part:
            parts.append(f"## {part}\n\n::::{{container}} cards\n")
        else:
            parts[-1] += card(*row)
    return "\n".join(f"{part}::::\n" for part in parts)


# Sphinx reads one folder, so the pages are laid beside this file, as far from each other as in the course.
for folder in ("chapters", "data", "bench"):
    shutil.rmtree(SITE / folder, ignore_errors=True)
    (SITE / folder).mkdir()
for folder in ("data", "bench"):
    shutil.copy(COURSE / folder / "README.md", SITE / folder)
teaching = (COURSE / "TEACHING.md").read_text(encoding="utf-8").replace("](notebooks/", "](chapters/")
teaching = re.sub(r"\[([^]]*)\]\(README\.md[^)]*\)", r"\1", teaching)  # the README is no page of the site
(SITE / "teaching.md").write_text(teaching, encoding="utf-8")
shutil.copytree(COURSE / "notebooks" / "drawings", SITE / "chapters" / "drawings")
(SITE / "map.md").write_text(map_of_chapters(), encoding="utf-8")
for path in chapters():
    chapter = nbformat.read(path, as_version=4)
    prepare(chapter, path.name)
    if line := stamp(path):
        chapter.cells.append(nbformat.v4.new_markdown_cell(f"---\n\n*{line}*"))
    nbformat.write(chapter, SITE / "chapters" / path.name)
