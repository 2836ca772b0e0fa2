"""Put chapters back as they came, and keep what you made of them beside them: python lab/reset.py 05 (no number: all).

Yours are renamed, 05_train.ipynb to 05_train-mine1.ipynb, and run where they lie. Then `git pull` meets no change.
"""

import subprocess
import sys
from pathlib import Path

COURSE = Path(__file__).resolve().parent.parent


def git(*words: str) -> str:
    """Return what git says in the course's folder. Raises CalledProcessError if it refuses, OSError without git."""
    return subprocess.run(["git", *words], cwd=COURSE, check=True, capture_output=True, text=True).stdout


def set_aside(chapter: Path) -> Path:
    """Rename a chapter to the first free name that says whose it is, and return that name."""
    number = 1
    while (mine := chapter.with_stem(f"{chapter.stem}-mine{number}")).exists():
        number += 1
    return chapter.rename(mine)


def main() -> str | None:
    """Reset the chapter whose number is on the command line, or all; return what went wrong."""
    chapters = f"notebooks/{''.join(sys.argv[1:])}*_*.ipynb"
    try:
        if not git("ls-files", chapters):
            return f"reset: there is no {chapters}; name a chapter by its number, such as 05."
        changed = git("diff", "--relative", "--name-only", "HEAD", "--", chapters).split()
        for name in changed:
            if (COURSE / name).exists():
                print(f"reset: yours is now {set_aside(COURSE / name).relative_to(COURSE).as_posix()}")
            git("checkout", "HEAD", "--", name)
            print(f"reset: {name} is as it came")
    except subprocess.CalledProcessError as error:
        return f"reset: git couldn't do it, and nothing of yours is lost: {error.stderr.strip()}"
    except OSError as error:
        return f"reset: it needs git, and a course that git brought: {error}"
    if not changed:
        print(f"reset: {chapters} is as it came")
    return None


if __name__ == "__main__":
    sys.exit(main())
