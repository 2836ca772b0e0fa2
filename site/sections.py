"""A Sphinx extension: the site's search, by section.

Sphinx's own search lists pages, and only those with every word of a query. Who pastes an error message needs the very
section, and the message has names and numbers of their own in it. So this writes each section's words into one file,
_static/sections.js, and _static/search.js ranks them. A page opened from a folder may load a script, and nothing else:
that's why the index is one.
"""

import json
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx


def is_cell(kind: str):
    """Return a condition on nodes: the input (`cell_input`) or the output (`cell_output`) of a notebook's cell."""
    return lambda node: isinstance(node, nodes.container) and kind in node["classes"]


def text_of(parts: list[nodes.Node]) -> str:
    """Return the text of nodes, in one line."""
    return " ".join(" ".join(part.astext() for part in parts).split())


def outputs(node: nodes.Element) -> list[nodes.Node]:
    """Return what the cells in a node print, without pictures and tables."""
    return [text for cell in node.findall(is_cell("cell_output")) for text in cell.findall(nodes.literal_block)]


def section(page: str, chapter: str, node: nodes.section) -> list[str]:
    """Return a section's address, heading and page, its prose, what its cells print, and its code."""
    own = [child for child in node.children if not isinstance(child, nodes.section | nodes.title)]
    cells = [child for child in own if isinstance(child, nodes.container) and "cell" in child["classes"]]
    code = [part for cell in cells for part in cell.findall(is_cell("cell_input"))]
    prose = [child for child in own if child not in cells and not isinstance(child, nodes.comment)]
    heading = text_of([node.next_node(nodes.title)])
    printed = [text for cell in cells for text in outputs(cell)]
    return [f"{page}#{node['ids'][0]}", heading, chapter, text_of(prose), text_of(printed), text_of(code)]


def explained(page: str, chapter: str, node: nodes.definition_list_item) -> list[str]:
    """Return a term of the glossary as a section."""
    term, explanation = node.children[0], node.children[-1]
    return [f"{page}#{term['ids'][0]}", text_of([term]), chapter, text_of([explanation]), "", ""]


def write_index(app: Sphinx, error: Exception | None) -> None:
    """Write the index of all sections and terms."""
    if error:
        return
    found = []
    for name in sorted(app.env.all_docs):
        page, tree = app.builder.get_target_uri(name), app.env.get_doctree(name)
        chapter = text_of([app.env.titles[name]])
        found += [section(page, chapter, node) for node in tree.findall(nodes.section)]
        found += [
            explained(page, chapter, node)
            for node in tree.findall(nodes.definition_list_item)
            if node.children[0]["ids"]
        ]
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in found)
    Path(app.outdir, "_static", "sections.js").write_text(f"const SECTIONS = [\n{lines}\n];\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Switch Sphinx's own search off, and write ours at the end of a build."""
    app.connect("builder-inited", lambda app: setattr(app.builder, "search", False))
    app.connect("build-finished", write_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
