"""The form that every notebook keeps. Each rule is a function: notebook in, list of problems out.

nbval compares outputs; these rules close what it cannot see. tests/test_form.py applies them to the
course, tests/test_false_greens.py to notebooks broken on purpose.
"""

import ast
import json
import re

import nbformat

TAGS = {"nbval-ignore-output", "raises-exception", "exercise", "check", "solution"}
LONGEST_CELL = 25
LEAST_STRICT = 0.6
WORDS_PER_CODE_CELL = 15
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
    """Only the tags of the list, and no other cell metadata but slide type and folding."""
    problems = []
    for cell in notebook.cells:
        unknown = (tags(cell) - TAGS) | (set(cell.metadata) - {"tags", "slideshow", "jupyter"})
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
    """An assert is no tuple, no constant, and not caught; a cell that nbval ignores, or draws, has one at hand."""
    problems = []
    cells = code_cells(notebook)
    for cell, module in parsed(notebook):
        for node in ast.walk(module):
            if catches_its_assert(node):
                problems.append(f"{cell.id}: line {node.lineno} catches the error of an assert of its own")
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple | ast.Constant):
                problems.append(f"{cell.id}: line {node.lineno} asserts what is always true")
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        ignored = "nbval-ignore-output" in tags(cell)
        if ignored and not (has_assert(cell) or (following is not None and has_assert(following))):
            problems.append(f"{cell.id}: nbval ignores it and neither it nor the next cell asserts anything")
    return problems


def is_mostly_compared(notebook) -> list[str]:
    """At least 60 % of the code cells are compared with their saved output."""
    cells = code_cells(notebook)
    strict = [cell for cell in cells if "nbval-ignore-output" not in tags(cell)]
    share = len(strict) / max(1, len(cells))
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
            spoken = re.sub(r'"image/png": "[^"]*"', "", spoken)
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


def is_short_and_explained(notebook) -> list[str]:
    """Cells of at most 25 lines, headings in order, and prose between the cells."""
    problems = []
    for cell in code_cells(notebook):
        lines = len(cell.source.splitlines())
        if lines > LONGEST_CELL or lines == 0:
            problems.append(f"{cell.id}: {lines} lines of code")
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    words = sum(len(text.split()) for text in prose)
    if words < WORDS_PER_CODE_CELL * len(code_cells(notebook)):
        problems.append(f"{words} words of prose for {len(code_cells(notebook))} code cells")
    levels = [len(mark) for text in prose for mark in re.findall(r"^(#+) ", text, flags=re.MULTILINE)]
    if levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in zip(levels, levels[1:], strict=False)):
        problems.append(f"heading levels {levels} do not start with one title and go down in steps")
    return problems


def starts_and_ends_as_a_chapter(notebook) -> list[str]:
    """Title, what you will do, `describe()` first; Remember, Exercises, Next last."""
    first, prose = code_cells(notebook)[0], "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    problems = [] if "describe()" in first.source else [f"{first.id}: the first code cell does not call describe()"]
    wanted = ("**You will**", "## Remember", "## Exercises", "**Next**")
    return problems + [f"{words!r} is missing" for words in wanted if words not in prose]


RULES = [
    is_valid,
    has_stable_cells,
    was_executed,
    has_known_tags,
    has_no_markers,
    has_no_shell,
    watches_what_it_starts,
    asserts_something,
    is_mostly_compared,
    has_clean_outputs,
    trusts_no_stranger,
    is_short_and_explained,
    starts_and_ends_as_a_chapter,
]
