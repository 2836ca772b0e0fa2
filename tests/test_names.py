"""Every name of the Hugging Face API that the course writes exists in the installed packages.

Running the notebooks does not show it: prose is not run, Python lets anybody set an attribute that
nobody reads, and a callback whose event is misspelt is never called. A name that is gone may stand
where its paragraph or cell says so, in one of the words of SAYS_SO.
"""

import ast
import contextlib
import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path

import accelerate
import datasets
import evaluate
import form
import nbformat
import pytest
import torch
import transformers
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from run import chapters

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("transformers", "datasets", "accelerate", "evaluate", "huggingface_hub", "tokenizers", "safetensors")
SAYS_SO = re.compile(r"\b(old|older|renamed|gone|took over|complaint|unexpected keyword)\b")
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in chapters()}
PAGES = ["README.md", "TEACHING.md", "data/README.md"]


def code(notebook) -> list:
    """Return (cell, syntax tree) of each code cell, and of each Python file that a cell writes."""
    cells = [cell for cell in form.code_cells(notebook) if not re.match(r"%%writefile \S+(?<!\.py)\n", cell.source)]
    return [(cell, form.tree(cell)) for cell in cells]


def nodes(notebook):
    """Yield each node of each syntax tree of a notebook."""
    for _, tree in code(notebook):
        yield from ast.walk(tree)


@cache
def members(owner) -> set[str]:
    """Return what a class or a package has: methods, fields, modules, and what a class's methods set on `self`."""
    names = {*dir(owner), *(module.name for module in pkgutil.iter_modules(getattr(owner, "__path__", ())))}
    for cls in getattr(owner, "__mro__", ()):
        if cls.__module__.split(".")[0] in PACKAGES:
            names |= {*getattr(cls, "__annotations__", ())}
            with contextlib.suppress(OSError):  # a class that isn't written in Python, such as SafetensorError
                names |= {*re.findall(r"self\.(\w+)", inspect.getsource(cls))}
    return names


def parameters(function) -> dict:
    """Return the parameters of a function or a class; none if it is nothing of the kind, or written in C."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def imported() -> dict[str, object]:
    """Return what the notebooks import from PACKAGES, by name. Raises ImportError if something is not there."""
    found = {}
    for notebook in NOTEBOOKS.values():
        for node in nodes(notebook):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
                for name in node.names:
                    exec(f"from {node.module} import {name.name}", found)
    return {name: thing for name, thing in found.items() if name != "__builtins__"}


MODULES = {name: importlib.import_module(name) for name in PACKAGES}
IMPORTED = imported()
ALSO = [transformers.PreTrainedModel, transformers.PreTrainedTokenizerFast, transformers.Seq2SeqTrainingArguments]
ALSO += [transformers.DistilBertForSequenceClassification, transformers.TrainerState, transformers.TrainerControl]
ALSO += [datasets.Dataset, evaluate.EvaluationModule, accelerate.Accelerator]
# Who owns the attributes of a name, wherever it stands: `trainer.state.log_history` is two questions.
OWNERS = {name: members(package) for name, package in MODULES.items()}
OWNERS["trainer"] = OWNERS["Trainer"] = members(transformers.Trainer)
OWNERS["args"] = OWNERS["TrainingArguments"] = members(transformers.TrainingArguments)
OWNERS["state"] = members(transformers.TrainerState) | set(dir(dict))  # an optimizer's state is a dictionary
OWNERS["control"] = members(transformers.TrainerControl)
EVENTS = {name for name in dir(transformers.TrainerCallback) if name.startswith("on_")}


def api() -> set[str]:
    """Return the names that prose may use: of things, their attributes, and all their parameters."""
    modules = [*MODULES.values(), torch.utils.data, torch.optim.lr_scheduler]
    names = {*IMPORTED, *(name for module in modules for name in dir(module))}
    for thing in [*IMPORTED.values(), *ALSO]:
        public = [getattr(thing, name, None) for name in dir(thing) if name == "__call__" or name[0] != "_"]
        names |= members(thing) if inspect.isclass(thing) else set()
        names |= {parameter for function in [thing, *public] for parameter in parameters(function)}
    return names


API = api()


def of_the_cells(notebook) -> set[str]:
    """Return every word of a notebook's code cells and outputs but of those that speak of old names."""
    cells = [cell for cell in form.code_cells(notebook) if not SAYS_SO.search(cell.source)]
    return set(re.findall(r"\w+", "\n".join(str([cell.source, cell.outputs]).replace("\\n", " ") for cell in cells)))


def parsed(span: str) -> list:
    """Return the nodes of a code span of prose if it is Python, with `…` for what is left out; else none."""
    if re.match(r"-|.*/|.*\.(py|json)$", span):  # an option, a path
        return []
    span = span.replace("…", "...").replace("(..., ", "(")
    for source in (span, f"call({span})", f"call({span}None)"):  # `batch_size=1, seed=2` and `seed=` are no Python yet
        try:
            return list(ast.walk(ast.parse(source)))
        except SyntaxError:
            pass
    return []


def strangers(node, words: set[str] | None = None):
    """Yield the names in one node that the packages do not know. In prose, `words` are known besides; in code, None."""
    if isinstance(node, ast.Attribute):
        owner = getattr(node.value, "id", getattr(node.value, "attr", None))
        if owner in OWNERS and node.attr not in OWNERS[owner]:
            yield f"{owner}.{node.attr}"
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) in IMPORTED:
        known = parameters(IMPORTED[node.func.id])
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known.values()):
            known = {None, *known, *members(IMPORTED[node.func.id])}  # a configuration takes all its attributes
            yield from (f"{node.func.id}({word.arg}=)" for word in node.keywords if word.arg not in known)
    if words is None:
        if isinstance(node, ast.ClassDef) and any("Callback" in ast.unparse(base) for base in node.bases):
            methods = [method.name for method in node.body if isinstance(method, ast.FunctionDef)]
            yield from (name for name in methods if name.startswith("on_") and name not in EVENTS)
        return
    if isinstance(node, ast.keyword) and node.arg and node.arg not in API | words:
        yield f"{node.arg}="
    name = getattr(node, "id", getattr(node, "attr", ""))
    if name.startswith("on_") and name not in EVENTS:
        yield name
    if re.search(r"[a-z]_[a-z]|[a-z][A-Z]", name) and name not in API | words:
        yield name


def unknown_names(notebook) -> list[str]:
    """Return what a notebook names in code spans and code cells that the packages do not know."""
    problems, words = [], of_the_cells(notebook)
    for cell, tree in code(notebook):
        if not SAYS_SO.search(cell.source):
            problems += [f"{cell.id}: {name}" for node in ast.walk(tree) for name in strangers(node)]
    for cell in notebook.cells:
        for paragraph in re.split(r"\n\s*\n|\n(?=[-|])", cell.source if cell.cell_type == "markdown" else ""):
            spans = [] if SAYS_SO.search(paragraph) else re.findall(r"`([^`\n]+)`", paragraph)
            found = [name for span in spans for node in parsed(span) for name in strangers(node, words)]
            problems += [f"{cell.id}: {name}" for name in found]
    return problems


@pytest.mark.parametrize("name", [*NOTEBOOKS, *PAGES])
def test_every_name_of_the_api_exists(name):
    page = NOTEBOOKS.get(name) or new_notebook(cells=[new_markdown_cell((ROOT / name).read_text(encoding="utf-8"))])
    assert not unknown_names(page), "\n".join(unknown_names(page))


WRONG = {
    "an argument in prose": new_markdown_cell("Set `evaluation_strategy=\"epoch\"`."),
    "an argument alone": new_markdown_cell("Set `warmup_ratio` to 0.1."),
    "an argument of a call in prose": new_markdown_cell("Write `Trainer(model, tokenizer=…)`."),
    "a parameter without its value": new_markdown_cell("It is what `overwrite_output_dir=` was for."),
    "an event in prose": new_markdown_cell("`on_step_finish` comes last."),
    "a method in prose": new_markdown_cell("Call `trainer.push_model()`."),
    "an attribute of the state": new_markdown_cell("See `trainer.state.best_checkpoint`."),
    "a class in prose": new_markdown_cell("Take `DataCollatorWithPads`."),
    "a function of a package": new_markdown_cell("Take `evaluate.load_metric`."),
    "an argument in code": new_code_cell("TrainingArguments('runs', evaluation_strategy='epoch')"),
    "an attribute that nobody reads": new_code_cell("args.logging_dir = 'logs'"),
    "a flag that nobody reads": new_code_cell("control.should_stop = True"),
    "an event that never comes": new_code_cell("class Mine(TrainerCallback):\n    def on_step_finish(self): ..."),
    "a function that is not there": new_code_cell("import transformers\nif False:\n    transformers.TFTrainer()"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_name_is_noticed(kind):
    assert unknown_names(new_notebook(cells=[WRONG[kind]])), f"{kind} passed"


def test_a_name_that_is_gone_may_be_named_as_such():
    said = "`warmup_steps` took over from `warmup_ratio`."
    assert not unknown_names(new_notebook(cells=[new_markdown_cell(said)]))
    assert unknown_names(new_notebook(cells=[new_markdown_cell(said + "\n\nSet `warmup_ratio=0.1`.")]))
