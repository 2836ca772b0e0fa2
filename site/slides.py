"""Make a deck of slides from each chapter, as it is committed: python site/slides.py

Writes site/_build/html/slides/ with an index; it needs no other host. The author of a chapter chooses its slides by
the slide types in the notebook: `slide` begins one, `-` goes on with it, `fragment` appears on it after a key press,
and a cell without a type is on none. Long prose goes into the speaker notes (press S), as does the text behind the
cells of a slide. What doesn't fit on a slide goes on one behind it, under the same title.
"""

import ast
import re
import shutil
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from io import BytesIO
from math import ceil
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat.v4 import new_markdown_cell
from PIL import Image
from traitlets.config import Config

SITE = Path(__file__).resolve().parent
NOTEBOOKS = SITE.parent / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))

from run import chapters  # noqa: E402

OUT = SITE / "_build" / "html" / "slides"
# Pixels of a slide that is 1280 by 720. Its letters are 22 or 28 high, and the deck may shrink a full slide to 18.
WIDTH, HEIGHT, ROOM, TITLE = 1232, 700, 860, 70
SHORT_TEXT = 350  # characters; longer prose is for the speaker
LONGEST_OUTPUT = 14  # lines; it gets more where its page has room


@dataclass
class Part:
    """A cell on a slide; `height` in pixels is an estimate."""

    cell: nbformat.NotebookNode
    height: int
    fragment: bool = False
    prose: bool = False
    picture: bool = False


@dataclass
class Slide:
    """What an author put on one slide, with the text for the speaker; `opens` says that it begins a section."""

    title: str
    opens: bool
    parts: list[Part] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def rows(text: str, width: int) -> int:
    """Return how many rows a text takes if each has `width` characters."""
    return sum(max(1, ceil(len(line) / width)) for line in text.splitlines())


def for_a_deck(text: str) -> str:
    """Return markdown without links to chapters, which lead nowhere here, and with "Trap." as there is "Predict."."""
    text = re.sub(r"^(> )?\*\*(Trap|Aside)\*\*", r"\1**\2.**", text, flags=re.M)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:)([^()]|\([^()]*\))*\)", r"\1", text)


def picture_height(width: int, height: int, scale: float) -> int:
    """Return the height at which a picture's letters can be read; it gets more where there is room."""
    return int(min(WIDTH * height / width, scale * height, HEIGHT - TITLE))


def texts(cell) -> list[Part]:
    """Return the parts of a markdown cell, without its heading and what is for readers only."""
    parts = []
    for block in re.split(r"\n{2,}", for_a_deck(cell.source)):
        if block.startswith("#") or "· Map" in block or block.startswith(("Map ·", "Computer: ")):
            continue
        if drawing := re.match(r"!\[([^\]]*)\]\(([^)]*)\)", block):
            image = f'<img src="{drawing[2]}" alt="{escape(drawing[1])}">'
            box = re.search(r'viewBox="0 0 (\d+) (\d+)"', (NOTEBOOKS / drawing[2]).read_text(encoding="utf-8"))
            part = Part(new_markdown_cell(image), picture_height(int(box[1]), int(box[2]), 1.06), picture=True)
        elif block.startswith("|"):
            part = Part(new_markdown_cell(block), 34 * rows(block, 150))
        else:
            boxed = block.startswith((">", "**Predict", "**Trap", "**Aside"))
            shown = f"> {block}" if boxed and not block.startswith(">") else block
            part = Part(new_markdown_cell(shown), 38 * rows(re.sub(r"\]\([^)]*\)", "", block), 88) + 20)
            part.prose = not boxed and not re.match(r"- |\d\. |\*\*You will\*\*$", block)
        parts.append(part)
    return parts


def without_imports(source: str) -> str:
    """Return code without the lines that import and assert, which an audience need not read."""
    lines = source.splitlines()
    try:
        statements = ast.parse(re.sub("^%%", "# ", source)).body
    except SyntaxError:  # a file in another language
        return source
    for node in statements:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert):
            lines[node.lineno - 1 : node.end_lineno] = [None] * (node.end_lineno - node.lineno + 1)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if line is not None)).strip()


def shortened(output, longest: int = LONGEST_OUTPUT):
    """Return an output with its first lines; of an error, its message."""
    output = nbformat.from_dict(output)
    if output.output_type == "error":
        output.traceback = [f"{output.ename}: {output.evalue}"]
    elif len(lines := output.get("text", "").splitlines()) > longest:
        output.text = "\n".join([*lines[: longest - 1], "…"])
    return output


def height_of(output) -> int:
    """Return the estimated height of an output that is no picture."""
    if "text/html" in output.get("data", {}):
        return 36 * (1 + output.data["text/html"].count("<tr"))
    text = output.get("text") or "\n".join(output.get("traceback", [])) or output.get("data", {}).get("text/plain", "")
    return 29 * rows(text, 92) + 10


def code_and_results(cell, fragment: bool) -> list[Part]:
    """Return the parts of a code cell. Behind a question each result is a fragment; a picture comes without code."""
    asked = bool(cell.metadata.get("jupyter", {}).get("outputs_hidden"))
    pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    others = [output for output in cell.outputs if output not in pictures]
    parts, source = [], without_imports(cell.source)
    if source and not pictures:
        code = nbformat.from_dict(cell)
        code.update(source=source, outputs=[])
        code.metadata["tags"] = []
        parts.append(Part(code, 29 * rows(source, 92) + 24, fragment and not asked))
    sizes = [Image.open(BytesIO(b64decode(output.data["image/png"]))).size for output in pictures]
    high = sum(picture_height(*size, 0.6) for size in sizes)
    low = sum(height_of(shortened(output)) for output in others) + 12
    for outputs, height in (others, low), (pictures, high):
        if outputs:
            results = nbformat.from_dict(cell)
            results.update(id=f"{cell.id}-{len(parts)}", outputs=outputs)
            results.metadata["tags"] = ["output-only"]
            parts.append(Part(results, height, asked or (fragment and not parts), picture=outputs is pictures))
    return parts


def at_headings(notebook) -> Iterator:
    """Yield the cells; of one that answers a question before its heading, the answer comes first, for the speaker."""
    for cell in notebook.cells:
        answer, heading, text = cell.source.partition("\n\n## ")
        if cell.cell_type == "markdown" and heading:
            yield new_markdown_cell(answer)
            cell.source = f"## {text}"
        yield cell


def chosen(notebook) -> list[Slide]:
    """Return the slides that the author of a chapter chose."""
    slides, title, opens, speaks = [], "", False, False
    for cell in at_headings(notebook):
        prose = cell.cell_type == "markdown"
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "skip").replace("subslide", "slide")
        if prose and (heading := re.match(r"#{1,3} (.*)", cell.source)):
            title, opens, speaks = heading[1], True, False
        if kind == "slide":
            slides.append(Slide(title, opens))
            opens, speaks = False, True
        if kind in ("slide", "-", "fragment"):
            parts = texts(cell) if prose else code_and_results(cell, kind == "fragment")
            if prose and parts and kind == "fragment":
                parts[0].fragment = True
            slides[-1].parts += parts
        if prose and speaks:
            slides[-1].notes.append(re.sub(r"!\[[^\]]*\]\([^)]*\)|^.*\[Map\].*$|^#.*$", "", cell.source, flags=re.M))
    return slides


def fits(*groups: list[Part]) -> bool:
    """Say whether all these parts have room on one slide."""
    parts = [part for group in groups for part in group]
    room = HEIGHT if any(part.picture for part in parts) else ROOM
    return TITLE + sum(part.height for part in parts) <= room


def apart(slide: Slide) -> list[Slide]:
    """Return a slide whose picture leaves no room for its texts as one with the picture and one with the texts."""
    if any(part.picture for part in slide.parts):
        slide.parts = [part for part in slide.parts if not part.prose]
    if fits(slide.parts) or not any(part.picture and not part.fragment for part in slide.parts):
        return [slide]
    pictures = [part for part in slide.parts if part.picture]
    others = [part for part in slide.parts if not part.picture]
    return [Slide(slide.title, slide.opens, pictures, slide.notes), Slide(slide.title, False, others, slide.notes)]


def for_the_wall(slides: list[Slide]) -> list[Slide]:
    """Return the slides without long prose and without lonely texts.

    A text alone, such as a trap, appears on the slide before if that has room and the same title. A question, or a text
    that finds none, opens the slide behind.
    """
    kept, waiting = [], None
    slides = [part for slide in slides for part in apart(slide)]
    for slide, following in zip(slides, [*slides[1:], None], strict=True):
        if waiting:
            slide.opens, slide.parts = waiting.opens or slide.opens, waiting.parts + slide.parts
            slide.notes, waiting = waiting.notes + slide.notes, None
        length = sum(len(part.cell.source) for part in slide.parts if part.prose)
        if length > SHORT_TEXT or not fits(slide.parts):
            slide.parts = [part for part in slide.parts if not part.prose]
        question = any(part.cell.source.startswith("> **Predict") for part in slide.parts)
        before = kept[-1] if kept and kept[-1].title == slide.title else None
        if not all(part.prose or part.cell.source.startswith("> ") for part in slide.parts):
            kept.append(slide)
        elif before and slide.parts and not question and fits(before.parts, slide.parts):
            slide.parts[0].fragment = True
            before.parts, before.notes = before.parts + slide.parts, before.notes + slide.notes
        elif following and (not slide.parts or following.title == slide.title):
            waiting = slide
        else:
            kept.append(slide)
    return kept


def pages(slide: Slide) -> list[list[Part]]:
    """Return the parts of a slide, on as many pages as they need."""
    found = []
    for part in slide.parts:
        if found and fits(found[-1], [part]):
            found[-1].append(part)
        else:
            part.fragment = False
            found.append([part])
    return found


def cut(page: list[Part]) -> None:
    """Shorten the outputs on a page; a long one takes the room that is left, unless a picture does."""
    room = 0 if any(part.picture for part in page) else max(0, ROOM - TITLE - sum(part.height for part in page))
    for part in page:
        for place, output in enumerate(part.cell.get("outputs", [])):
            short = height_of(shortened(output))
            # The most lines are tried first; as some need two rows, fewer may have room.
            tries = (shortened(output, LONGEST_OUTPUT + more) for more in range(room // 29, -1, -1))
            part.cell.outputs[place] = next(each for each in tries if height_of(each) <= short + room)
            room -= height_of(part.cell.outputs[place]) - short


def typed(cell, kind: str):
    """Return the cell with another slide type."""
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def cells_of(slide: Slide) -> list:
    """Return a slide as cells: on each page its title, what the speaker says, and its parts."""
    cells, mark = [], "#" if re.match(r"\d\d ·", slide.title) else "##" if slide.opens else "###"
    notes = for_a_deck("\n\n".join(slide.notes))
    for page in pages(slide):
        cells.append(typed(new_markdown_cell(f"{mark} {slide.title}"), "slide"))
        if notes.strip():
            cells.append(typed(new_markdown_cell(notes), "notes"))
        cut(page)
        used = TITLE + sum(part.height for part in page if not part.picture)
        for part in page:
            if part.picture:
                part.cell.metadata["room"] = HEIGHT - used
                part.cell.source = part.cell.source.replace("<img ", f'<img style="max-height: {HEIGHT - used}px" ')
            cells.append(typed(part.cell, "fragment" if part.fragment else "-"))
        mark = "###"
    return cells


def index(decks: dict[str, str]) -> str:
    """Return a page that links to each deck; `decks` has their titles by file name."""
    links = "".join(f'<li><a href="{name}.html">{title}</a></li>' for name, title in decks.items())
    style = "body{font:20px/1.6 sans-serif;max-width:40em;margin:2em auto;padding:0 1em}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Slides</title><style>{style}</style><h1>Slides, one deck a chapter</h1>"
        f"<p>→ goes on, S opens the speaker notes, O the overview; add ?print-pdf to an address to print. "
        f'<a href="../index.html">The chapters themselves</a></p><ul>{links}</ul></html>'
    )


def main() -> None:
    """Write one deck per chapter, an index of them, and the files of reveal.js that they need."""
    (OUT / "index.html").unlink(missing_ok=True)  # first, so that no list names what a kill leaves half made
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
    config.SlidesExporter.exclude_input_prompt = config.SlidesExporter.exclude_output_prompt = True
    exporter = SlidesExporter(config, extra_template_basedirs=[str(SITE / "_templates")], template_name="deck")
    decks = {}
    for path in chapters():
        notebook, _ = CoalesceStreamsPreprocessor().preprocess(nbformat.read(path, as_version=4), {})
        slides = for_the_wall(chosen(notebook))
        if not slides:
            print(f"slides: {path.stem} has none; choose some in JupyterLab's Property Inspector")
            continue
        notebook.cells = [cell for slide in slides for cell in cells_of(slide)]
        html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": slides[0].title}})
        (OUT / f"{path.stem}.html").write_text(html, encoding="utf-8")
        decks[path.stem] = slides[0].title
        print(f"slides: {path.stem}")
    (OUT / "index.html").write_text(index(decks), encoding="utf-8")


if __name__ == "__main__":
    main()
