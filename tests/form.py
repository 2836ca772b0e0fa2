"""The form that every notebook keeps. Each rule is a function: notebook in, list of problems out.

nbval compares outputs; these rules close what it cannot see. tests/test_form.py applies them to the
course, tests/test_false_greens.py to notebooks broken on purpose.
"""

import ast
import json
import re

import nbformat

TAGS = {"proof", "trained", "nbval-ignore-output", "raises-exception", "exercise", "check", "solution"}
APART = {"proof", "exercise", "check", "solution"}  # what is not a lesson cell
FOLDED = {"proof": "# Proof: ", "check": "# Check: ", "solution": "# Solution: "}  # and how their first lines begin
LONGEST_LESSON, LONGEST_CELL, WIDEST_LINE = 15, 25, 88  # lines, lines, characters
MOST_CELLS, MOST_WORDS, MOST_SECTIONS = 60, 2000, 8
REFERENCE = "# 17 "  # the title of the chapter that is looked up and not read: it may be of any size
LEAST_STRICT = 0.9
# nbval compares the first two as text, conftest.py the pictures, and nobody any other type.
COMPARED = {"text/plain", "text/html", "image/png"}
# Their failure does not reach the cell that starts them.
UNWATCHED = {"Thread", "Timer", "Process", "Popen", "create_task", "ensure_future", "register", "system", "popen"}
UNWATCHED |= {"submit", "call_soon", "run_in_executor", "apply_async"}
LOCAL = re.compile(r"/(home|root|work|tmp|Users|opt|mnt)/|[A-Z]:\\\\|site-packages|\bhf_[A-Za-z0-9]{20,}|token=\w{16,}")
# A browser would run it, or Python would run what came with a file.
ACTIVE = re.compile(r"<\s*(script|iframe|object|embed)\b|<[^>]*\son\w+\s*=|javascript:", flags=re.IGNORECASE)
TRUSTING = re.compile(r"trust_remote_code|pickle\.loads?\(|weights_only=False|shell=True|os\.(system|popen)\(")
OWN_PICKLES = {"random", "pickle"}  # cells of chapter 07: they load what the chapter wrote a moment before


def tags(cell) -> set[str]:
    """Return the tags of a cell."""
    return set(cell.metadata.get("tags", []))


def code_cells(notebook) -> list:
    """Return the code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def lessons(notebook) -> list:
    """Return the code cells that a reader would type: no proofs, no exercises."""
    return [cell for cell in code_cells(notebook) if not tags(cell) & APART]


def prose(notebook) -> list:
    """Return the markdown cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def draws(cell) -> bool:
    """Say whether a cell puts out a picture."""
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))


def only_draws(cell) -> bool:
    """Say whether a cell puts out pictures and nothing else that could be compared."""
    return bool(cell.outputs) and all("image/png" in output.get("data", {}) for output in cell.outputs)


def tree(cell) -> ast.Module:
    """Parse a code cell; its magics and shell lines become comments."""
    return ast.parse(re.sub(r"^(\s*)([%!])", r"\1pass #\2", cell.source, flags=re.MULTILINE))


def has_assert(cell) -> bool:
    """Say whether a code cell asserts something."""
    return not cell.source.startswith("%%") and any(isinstance(node, ast.Assert) for node in ast.walk(tree(cell)))


def parsed(notebook):
    """Yield (cell, syntax tree) for each code cell that holds Python."""
    for cell in code_cells(notebook):
        if not cell.source.startswith("%%"):
            yield cell, tree(cell)


def is_valid(notebook) -> list[str]:
    """Nbformat 4.5, valid, with the python3 kernel and no other metadata."""
    problems = []
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        problems.append(f"not valid nbformat: {str(error).splitlines()[0]}")
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        problems.append(f"nbformat {notebook.nbformat}.{notebook.nbformat_minor} is not 4.5")
    if set(notebook.metadata) != {"kernelspec", "language_info"} or notebook.metadata.kernelspec.name != "python3":
        problems.append(f"metadata {sorted(notebook.metadata)} is more or less than kernel and language")
    return problems


def has_stable_cells(notebook) -> list[str]:
    """Each cell has an id of its own; there are no raw cells, and there is code."""
    ids = [cell.get("id", "") for cell in notebook.cells]
    problems = [f"id {name!r} is missing or stands twice" for name in set(ids) if not name or ids.count(name) > 1]
    problems += [f"{cell.id}: a raw cell runs nowhere" for cell in notebook.cells if cell.cell_type == "raw"]
    return problems + ([] if len(code_cells(notebook)) > 1 else ["there is no code"])


def was_executed(notebook) -> list[str]:
    """Every code cell was executed, from top to bottom, in one fresh kernel."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}, not 1, 2, 3, …"]


def has_known_tags(notebook) -> list[str]:
    """Only the tags of the list, and no other cell metadata but slide type, folding and a picture's alternative."""
    problems = []
    for cell in notebook.cells:
        unknown = (tags(cell) - TAGS) | (set(cell.metadata) - {"tags", "slideshow", "jupyter", "alt"})
        problems += [f"{cell.id}: unknown tag or metadata {name!r}" for name in sorted(unknown)]
        if {"nbval-ignore-output", "raises-exception"} <= tags(cell):
            problems.append(f"{cell.id}: an expected exception must be compared")
    return problems


def has_no_markers(notebook) -> list[str]:
    """No NBVAL_ or PYTEST_ comment, which would steer nbval from inside the code."""
    return [f"{c.id}: {m.group()}" for c in code_cells(notebook) if (m := re.search(r"(NBVAL|PYTEST)_\w+", c.source))]


def has_no_shell(notebook) -> list[str]:
    """No magics but %%writefile and %matplotlib, and no shell: their failures are not errors."""
    allowed = re.compile(r"%%writefile \S+$|%matplotlib \S+$")
    problems = []
    for cell in code_cells(notebook):
        for line in cell.source.splitlines():
            line = line.strip()
            if line.startswith(("%", "!")) and not allowed.match(line):
                problems.append(f"{cell.id}: {line}")
    return problems


def watches_what_it_starts(notebook) -> list[str]:
    """A subprocess's exit status is looked at; nothing is started whose failure no cell sees; nothing eats errors."""
    problems = []
    for cell, module in parsed(notebook):
        for node in ast.walk(module):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                problems.append(f"{cell.id}: a bare except swallows the runner's interrupt")
            if isinstance(node, ast.ImportFrom) and node.module == "subprocess":
                problems.append(f"{cell.id}: write subprocess.run, so that its check is seen")
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            checked = any(word.arg == "check" and getattr(word.value, "value", 0) is True for word in node.keywords)
            shell = any(word.arg == "shell" for word in node.keywords)
            owner = getattr(getattr(node.func, "value", None), "id", "")
            unchecked = name != "Popen" and not (name == "run" and (checked or "returncode" in cell.source))
            if owner == "subprocess" and (shell or unchecked):
                problems.append(f"{cell.id}: subprocess.run without a check of its exit status, or with a shell")
            awaited = name == "Popen" and "returncode" in cell.source
            if (name in UNWATCHED and owner != "psutil" and not awaited) or name == "set_custom_exc":
                problems.append(f"{cell.id}: {name} fails unseen")
    return problems


def catches_its_assert(node) -> bool:
    """Say whether a `try` catches the error of an assert that stands in it."""
    types = " ".join(ast.unparse(handler.type) for handler in getattr(node, "handlers", ()) if handler.type)
    body = [inner for line in node.body for inner in ast.walk(line)] if types else []
    return bool(re.search(r"\b(AssertionError|(Base)?Exception)\b", types)) and any(
        isinstance(n, ast.Assert) for n in body
    )


def asserts_something(notebook) -> list[str]:
    """An assert is no tuple, no constant, and not caught; a cell whose numbers are not compared has one at hand."""
    problems = []
    cells = code_cells(notebook)
    for cell, module in parsed(notebook):
        for node in ast.walk(module):
            if catches_its_assert(node):
                problems.append(f"{cell.id}: line {node.lineno} catches the error of an assert of its own")
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple | ast.Constant):
                problems.append(f"{cell.id}: line {node.lineno} asserts what is always true")
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        loose = tags(cell) & {"nbval-ignore-output", "trained"} and not tags(cell) & APART and not only_draws(cell)
        if loose and not (has_assert(cell) or (following is not None and has_assert(following))):
            problems.append(
                f"{cell.id}: its numbers are not compared, and neither it nor the next cell asserts anything"
            )
    return problems


def is_mostly_compared(notebook) -> list[str]:
    """At least 90 % of the code cells are compared with their saved output."""
    cells = code_cells(notebook)
    share = sum("nbval-ignore-output" not in tags(cell) for cell in cells) / max(1, len(cells))
    return [] if share >= LEAST_STRICT else [f"only {share:.0%} of the code cells are compared"]


def has_clean_outputs(notebook) -> list[str]:
    """No stderr, no warning, no failure in words, no unexpected error, no path, user, host or token."""
    problems = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        for output in outputs:
            if output.output_type == "error" and "raises-exception" not in tags(cell):
                problems.append(f"{cell.id}: ends in {output.ename}")
            if unseen := set(output.get("data", ())) - COMPARED:
                problems.append(f"{cell.id}: nobody compares an output of type {', '.join(sorted(unseen))}")
            if output.get("name") == "stderr":
                problems.append(f"{cell.id}: writes to stderr: {output.text[:80]!r}")
            spoken = json.dumps({key: value for key, value in output.items() if key != "traceback"})
            spoken = re.sub(r'"image/png": "[^"]*"', "", spoken).replace("\\n", " ")
            if found := re.search(r"\bFAIL(ED)?\b|Traceback|\w+Warning\b", spoken):
                problems.append(f"{cell.id}: its output says {found.group()!r}")
            if found := LOCAL.search(re.sub(r'"image/png": "[^"]*"', "", json.dumps(output))):
                problems.append(f"{cell.id}: its output names {found.group()!r}")
        if "raises-exception" in tags(cell) and not any(output.output_type == "error" for output in outputs):
            problems.append(f"{cell.id}: tagged raises-exception, and no error is saved")
        if found := LOCAL.search(cell.source):
            problems.append(f"{cell.id}: its source names {found.group()!r}")
    return problems


def trusts_no_stranger(notebook) -> list[str]:
    """Nothing runs when it is opened, and a cell that is run loads no code with a model and unpickles nothing."""
    problems = []
    for cell in notebook.cells:
        shown = [output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])]
        shown += [cell.source] if cell.cell_type == "markdown" else []
        problems += [f"{cell.id}: shows {found.group()!r}" for html in shown if (found := ACTIVE.search(html))]
        if cell.cell_type == "code" and cell.id not in OWN_PICKLES and (found := TRUSTING.search(cell.source)):
            problems.append(f"{cell.id}: {found.group()!r} runs what came from elsewhere")
    return problems


def is_short(notebook) -> list[str]:
    """A lesson cell has at most 15 lines, any other 25, and a line 88 characters."""
    problems = []
    for cell in code_cells(notebook):
        lines, limit = cell.source.splitlines(), LONGEST_CELL if tags(cell) & APART else LONGEST_LESSON
        if not 0 < len(lines) <= limit:
            problems.append(f"{cell.id}: {len(lines)} lines of code, where {limit} may be")
        problems += [f"{cell.id}: {len(line)} characters: {line[:40]}…" for line in lines if len(line) > WIDEST_LINE]
    return problems


def has_headings_in_steps(notebook) -> list[str]:
    """One title, and no level of headings left out."""
    texts = "\n".join(cell.source for cell in prose(notebook))
    levels = [len(mark) for mark in re.findall(r"^(#+) ", texts, flags=re.MULTILINE)]
    if levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in zip(levels, levels[1:], strict=False)):
        return [f"heading levels {levels} do not start with one title and go down in steps"]
    return []


def fits_into_an_hour(notebook) -> list[str]:
    """At most 60 cells that a reader sees, 2,000 words and 8 sections, numbered 1, 2, 3, …"""
    texts = [cell.source for cell in prose(notebook)]
    seen, words = len(texts) + len(lessons(notebook)), sum(len(text.split()) for text in texts)
    headings = re.findall(r"^#+ (.*)$", "\n".join(texts), flags=re.MULTILINE)
    number = (re.match(r"# (\d\d) · ", texts[0]) or [""] * 2)[1] if texts else ""
    sections = [int(found[1]) for title in headings if (found := re.match(rf"{number}\.(\d+) \S", title))]
    problems = []
    if not number or sections != list(range(1, len(sections) + 1)):
        problems.append(f"the sections are numbered {sections}, or the title is not `# NN · …`")
    if not texts or not texts[0].startswith(REFERENCE):
        sizes = {"cells": (seen, MOST_CELLS), "words": (words, MOST_WORDS), "sections": (len(sections), MOST_SECTIONS)}
        problems += [f"{size} {what}, where {most} may be" for what, (size, most) in sizes.items() if size > most]
    return problems


def folds_its_proofs(notebook) -> list[str]:
    """Proofs, checks and solutions are folded behind a comment that says what they are; proofs are silent and near."""
    problems = []
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        kind = next(iter(tags(cell) & set(FOLDED)), None)
        if kind is None:
            if cell.metadata.get("jupyter", {}).get("source_hidden"):
                problems.append(f"{cell.id}: a lesson cell is folded")
            continue
        if not cell.metadata.get("jupyter", {}).get("source_hidden"):
            problems.append(f"{cell.id}: a {kind} cell stands open")
        if not cell.source.startswith(FOLDED[kind]):
            problems.append(f"{cell.id}: the first line does not begin with {FOLDED[kind]!r}")
        if kind != "proof":
            continue
        if not has_assert(cell) or cell.outputs:
            problems.append(f"{cell.id}: a proof asserts, and says nothing")
        if before is None or before.cell_type != "code" or tags(before) & {"exercise", "check", "solution"}:
            problems.append(f"{cell.id}: a proof stands directly behind its lesson cell")
    return problems


def hides_what_it_asks(notebook) -> list[str]:
    """The output of a lesson cell is saved hidden where the prose before it asks to predict it, and nowhere else."""
    problems = []
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type != "code" or tags(cell) & APART:
            continue
        asked = before is not None and asks(before)
        if asked != bool(cell.metadata.get("jupyter", {}).get("outputs_hidden")):
            problems.append(f"{cell.id}: {'asked, and not hidden' if asked else 'hidden, and not asked'}")
    asked = [cell for cell in notebook.cells if asks(cell)]
    behind = dict(zip([cell.id for cell in notebook.cells], notebook.cells[1:], strict=False))
    problems += [
        f"{cell.id}: asks, and no code follows" for cell in asked if behind.get(cell.id, cell).cell_type != "code"
    ]
    return problems + [f"{c.id}: a solution is not hidden" for c in code_cells(notebook) if is_bare_solution(c)]


def asks(cell) -> bool:
    """Say whether a cell asks the reader to predict what the next cell puts out."""
    return cell.cell_type == "markdown" and bool(re.search(r"^(> )?\*\*Predict\b", cell.source, flags=re.MULTILINE))


def is_bare_solution(cell) -> bool:
    """Say whether a cell is a solution whose output is seen before it is run."""
    return "solution" in tags(cell) and not cell.metadata.get("jupyter", {}).get("outputs_hidden")


def has_exercises(notebook) -> list[str]:
    """Three to five exercises with stars and minutes, two answered by code; each solution accepts and refuses."""
    kinds = {kind: [cell for cell in code_cells(notebook) if kind in tags(cell)] for kind in ("exercise", "check")}
    solutions = [cell for cell in code_cells(notebook) if "solution" in tags(cell)]
    by_code = [c for c in kinds["exercise"] if re.search(r"^(def|class) |\w\($", c.source, flags=re.MULTILINE)]
    asked = "\n".join(cell.source for cell in prose(notebook)).partition("## Exercises")[2]
    problems = []
    if not 3 <= len(kinds["exercise"]) == len(kinds["check"]) == len(solutions) <= 12:
        problems.append(f"{len(kinds['exercise'])} exercises, {len(kinds['check'])} checks, {len(solutions)} solutions")
    if len(by_code) < 2:
        problems.append(f"{len(by_code)} exercises are answered by code")
    if len(re.findall(r"★+ · \d+ minutes?", asked)) < 3:
        problems.append("an exercise begins with its stars and minutes: ★★ · 5 minutes")
    problems += [f"{c.id}: does not call check()" for c in kinds["check"] if "check(" not in c.source]
    for cell in solutions:
        asserts = [ast.unparse(node) for node in ast.walk(tree(cell)) if isinstance(node, ast.Assert)]
        accepted = [line for line in asserts if "verdict(" in line and "✓" in line]
        if not accepted or cell.source.count("verdict(") < 2 or len(asserts) == len(accepted):
            problems.append(f"{cell.id}: does not assert that the answer is accepted and a usual wrong one refused")
    return problems


def tells_its_minutes(notebook) -> list[str]:
    """The first cell says how long the chapter takes: `Computer: two minutes. You: an hour.`"""
    told = re.search(r"^Computer: .+?\. You: .+?\.", notebook.cells[0].source, flags=re.MULTILINE)
    return [] if told else ["no line `Computer: … You: …`"]


def describes_its_pictures(notebook) -> list[str]:
    """Each picture has a text alternative, and the chapter has a drawing."""
    problems = [
        f"{c.id}: a picture without `alt`" for c in code_cells(notebook) if draws(c) and not c.metadata.get("alt")
    ]
    drawings = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", "\n".join(cell.source for cell in prose(notebook)))
    problems += [f"{file}: a drawing without a text alternative" for alt, file in drawings if len(alt) < 20]
    return problems + ([] if drawings else ["there is no drawing"])


def makes_a_deck(notebook) -> list[str]:
    """Its author chose 12 to 25 slides by slide types; proofs, checks and solutions are on none."""
    types = [(cell, cell.metadata.get("slideshow", {}).get("slide_type")) for cell in notebook.cells]
    slides = sum(kind in ("slide", "subslide") for _, kind in types)
    problems = [] if 12 <= slides <= 25 else [f"{slides} slides"]
    return problems + [f"{c.id}: on a slide" for c, kind in types if kind and tags(c) & (APART - {"exercise"})]


def starts_and_ends_as_a_chapter(notebook) -> list[str]:
    """Title, what you will do, `describe()` first; Remember, Exercises, Next last."""
    first, prose = code_cells(notebook)[0], "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    problems = [] if "describe()" in first.source else [f"{first.id}: the first code cell does not call describe()"]
    wanted = ("**You will**", "## Remember", "## Exercises", "**Next**")
    return problems + [f"{words!r} is missing" for words in wanted if words not in prose]


def links_to_the_map(notebook) -> list[str]:
    """The title cell links to the map, between the chapters before and after."""
    return (
        [] if "[Map](../README.md#chapters)" in notebook.cells[0].source else ["no link to the map in the first cell"]
    )


RULES = [
    is_valid,
    has_stable_cells,
    was_executed,
    has_known_tags,
    has_no_markers,
    has_no_shell,
    watches_what_it_starts,
    asserts_something,
    has_clean_outputs,
    trusts_no_stranger,
    starts_and_ends_as_a_chapter,
    has_headings_in_steps,
    links_to_the_map,
    is_mostly_compared,
    is_short,
    fits_into_an_hour,
    folds_its_proofs,
    hides_what_it_asks,
    has_exercises,
    tells_its_minutes,
    describes_its_pictures,
    makes_a_deck,
]
