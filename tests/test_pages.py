"""README and TEACHING say what the chapters say: their minutes, their exercises. And a chapter can be put back."""

import math
import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import form
import nbformat
import pytest
from run import chapters

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = {path.stem[:2]: path for path in chapters()}
PROSE = {
    number: "\n".join(cell.source for cell in form.prose(nbformat.read(path, as_version=4)))
    for number, path in CHAPTERS.items()
}
README, TEACHING = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "TEACHING.md"))
DIGITS = {word: str(n) for n, word in enumerate("one two three four five six seven eight nine ten".split(), 1)}
DIGITS |= {"half an hour": "30 minutes", "half a minute": "0.5 minutes", "a quarter of a minute": "0.25 minutes"}
DIGITS |= {"a minute and a half": "1.5 minutes", "a minute or two": "1 to 2 minutes", "a minute": "1 minute"}
DIGITS |= {"an hour and a half": "90 minutes", "an hour": "1 hour"}


def minutes(words: str) -> tuple[float, float]:
    """Return the least and the most minutes that a text names last: (5, 9) for `five to nine minutes`."""
    for word in sorted(DIGITS, key=len, reverse=True):
        words = re.sub(rf"\b{word}\b", DIGITS[word], words)
    *_, (least, most, unit) = re.findall(r"([\d.]+)(?: to ([\d.]+))? (minute|hour)", words)
    scale = 60 if unit == "hour" else 1
    return float(least) * scale, float(most or least) * scale


def of_chapter(number: str) -> tuple[tuple[float, float], float, list[int]]:
    """Return a chapter's minutes: the computer's, the reader's, and those of each exercise."""
    computer, reader = re.search(r"^Computer: (.+?)\. You: (.+?)\.", PROSE[number], flags=re.MULTILINE).groups()
    return minutes(computer), minutes(reader)[1], [int(m) for m in re.findall(r"★+ · (\d+) minutes?", PROSE[number])]


def written(minutes: float) -> str:
    """Return minutes as README writes them: ½, 1½, 5."""
    whole, rest = divmod(minutes, 1)
    return (str(int(whole)) if whole or not rest else "") + {0.0: "", 0.25: "¼", 0.5: "½", 0.75: "¾"}[rest]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a quarter of a minute for the whole chapter", (0.25, 0.25)),
        ("five to nine minutes on two CPU cores, most of them in one cell", (5, 9)),
        ("a minute or two", (1, 2)),
        ("five minutes to look something up, two hours to read it all", (120, 120)),
        ("half an hour", (30, 30)),
    ],
)
def test_minutes_are_read(words, expected):
    assert minutes(words) == expected


def test_the_map_in_readme_has_each_chapter_with_its_minutes():
    rows = re.findall(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\) \| .+\? .*?\| ([^|]+) \| (\d+) \|$", README, flags=re.M)
    rows += re.findall(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\) \| [^?]+ \| ([^|]+) \| (\d+) \|$", README, flags=re.M)
    expected = []
    for number, path in CHAPTERS.items():
        (least, most), reader, _ = of_chapter(number)
        computer = written(most) if least == most else f"{written(least)} to {written(most)}"
        expected.append((path.stem, computer, written(reader)))
    assert sorted(rows) == expected


def chapters_in(words: str) -> list[str]:
    """Return the numbers that `00 to 06` or `00, 02, 05` names."""
    first, _, last = words.partition(" to ")
    return [n for n in CHAPTERS if first <= n <= last] if last else words.split(", ")


ROUTES = re.findall(r"^\| (a.+?) \((.+?)\) \| (.+?) \| (.+?) \| (.+?) \| (\d+) \|$", TEACHING, flags=re.MULTILINE)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route[0])
def test_a_routes_minutes_are_those_of_its_chapters_and_fit(route):
    _, slot, names, exercises, computer, learners = route
    taken = [of_chapter(number) for number in chapters_in(names)]
    least, most = (math.ceil(sum(minutes[end] for minutes, _, _ in taken)) for end in (0, 1))
    share = {"none": slice(0), "the first of each": slice(1), "all": None}[exercises] or slice(None)
    asked = sum(reader + sum(each[share]) for _, reader, each in taken)
    assert (computer, int(learners)) == (f"{least} to {most}", asked)
    times, _, rest = slot.rpartition(" × ")
    assert asked <= int(times or 1) * minutes(rest)[1], f"{asked} minutes don't fit into {slot}"


def test_there_are_routes_from_a_lecture_to_a_semester():
    assert [name for name, *_ in ROUTES][0].startswith("a lecture") and ROUTES[-1][0] == "a semester"
    at_home = sum(sum(of_chapter(number)[2]) for number in CHAPTERS)
    assert f"exercises are homework, {at_home} minutes in all" in TEACHING


@pytest.mark.parametrize("number", CHAPTERS)
def test_teaching_has_a_first_answer_to_each_exercise(number):
    title = re.search(r"^# (.+)$", PROSE[number], flags=re.MULTILINE)[1]
    part = TEACHING.partition(f"\n### {title}\n")[2].partition("\n### ")[0]
    assert part.count("**Ask**") and part.count("**Don't be surprised**") == 1
    assert len(re.findall(r"^\d+\. ", part, flags=re.MULTILINE)) == len(of_chapter(number)[2])


def git(folder: Path, *words: str) -> None:
    """Run git as somebody with a name."""
    who = ["-c", "user.name=learner", "-c", "user.email=learner@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_a_chapter_is_put_back_and_the_learners_version_stays_beside_it(tmp_path):
    copytree(ROOT / "lab", tmp_path / "lab")
    (tmp_path / "notebooks").mkdir()
    first, second = (tmp_path / "notebooks" / name for name in ("05_train.ipynb", "06_evaluate_and_predict.ipynb"))

    def reset(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "lab/reset.py", *words]
        return subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    first.write_text("delivered")
    second.write_text("delivered")
    assert "nothing of yours is lost" in reset("05").stderr, "a folder that git didn't bring"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "delivered")
    assert reset("77").returncode == 1 and "is as it came" in reset("05").stdout
    for attempt in ("mine", "mine again"):
        first.write_text(attempt)
        second.write_text("still at work")
        done = reset("05")
        assert done.returncode == 0, done.stderr
        assert (first.read_text(), second.read_text()) == ("delivered", "still at work")
    kept = [first.with_stem(f"05_train-mine{number}").read_text() for number in (1, 2)]
    assert kept == ["mine", "mine again"]
    first.unlink()
    assert reset().returncode == 0 and first.read_text() == second.read_text() == "delivered"
    assert second.with_stem("06_evaluate_and_predict-mine1").read_text() == "still at work"
    git(tmp_path, "diff", "--exit-code", "HEAD")
