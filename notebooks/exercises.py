"""What the exercises of every chapter share: a verdict on any answer, and no traceback."""

import dis
import inspect


def is_open(answer: object) -> bool:
    """Say whether an exercise is untouched: `...`, a body of `...`, or either inside a container or a class."""
    if isinstance(answer, dict | list | tuple):
        return any(is_open(one) for one in (answer.values() if isinstance(answer, dict) else answer))
    if isinstance(answer, type):
        own = {name: thing for name, thing in vars(answer).items() if not name.startswith("__") or callable(thing)}
        return all(inspect.isfunction(thing) and is_open(thing) for thing in own.values())
    steps = dis.get_instructions(answer) if inspect.isfunction(answer) else None
    empty = steps and all(step.opname in ("RESUME", "RETURN_VALUE") or step.argval is None for step in steps)
    return answer is ... or bool(empty)


def verdict(answer: object, judge, because: str = "") -> str:
    """Return what there is to say of an exercise's `answer`, in one line that begins with ○, ✓ or ✗.

    `judge(answer)` returns True if the answer is right, else a hint. Whatever the answer is or raises, the
    result is a hint and no traceback. `because` says why a right answer is right.
    """
    if is_open(answer):
        return "○ To do: put your answer in the place of the three dots, and run both cells again."
    try:
        judged = judge(answer)
        right = not isinstance(judged, str) and bool(judged)  # True may be NumPy's or PyTorch's
    except Exception as error:
        return f"✗ Not yet: it raises {type(error).__name__}: {error}"
    return f"✓ Right. {because}".rstrip() if right else f"✗ Not yet. {judged or ''}".rstrip()


def check(answer: object, judge, because: str = "") -> None:
    """Print the verdict on an exercise's answer; see verdict()."""
    print(verdict(answer, judge, because))
