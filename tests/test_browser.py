"""What a learner sees, in a real Chromium: JupyterLab runs a chapter, the site is read, a deck is shown."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from filelock import FileLock
from playwright.sync_api import TimeoutError as PageTimeout
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
TOKEN = "only-for-this-test"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium with a profile of its own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page that notes which addresses it asks for, in `page.asked`."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    page.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the course; yields its address and the folder of the copied notebooks."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    (folder / "data").symlink_to(ROOT / "data")
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))  # all cells are in the page, also those out of sight
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["lab", "--no-browser", "--allow-root", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", *words, f"--ServerApp.root_dir={folder}"],
        env={**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "COURSE_EDITION": "mini"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None, "JupyterLab ended at once"
            time.sleep(0.1)
    yield address, folder / "notebooks"
    server.terminate()
    server.wait(20)


def run_all(page, lab, name: str):
    """Open a chapter in JupyterLab, run all its cells, save it, and return the saved notebook."""
    address, notebooks = lab
    page.goto(f"{address}/lab/tree/notebooks/{name}?token={TOKEN}&reset")
    idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    idle.wait_for(timeout=60_000)
    before = (notebooks / name).stat().st_mtime_ns
    waiting = page.locator(".jp-InputPrompt", has_text="[*]")  # the kernel is idle for a moment between two cells, too
    for _ in range(5):  # JupyterLab drops the command if it comes while the notebook is still being set up
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('li[data-command="runmenu:run-all"]').click()
        with contextlib.suppress(PageTimeout):
            waiting.first.wait_for(timeout=20_000)
            break
    else:
        pytest.fail(f"JupyterLab did not start to run {name}")
    expect(waiting).to_have_count(0, timeout=240_000)
    idle.wait_for(timeout=30_000)
    page.keyboard.press("Control+s")
    for _ in range(100):
        if (notebooks / name).stat().st_mtime_ns != before:
            break
        page.wait_for_timeout(100)
    return json.loads((notebooks / name).read_text(encoding="utf-8"))


def assert_ran(notebook) -> None:
    """Every code cell was run and none ended in an error that it is not there to show."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        expected = "raises-exception" in cell["metadata"].get("tags", [])
        assert expected or not any(output["output_type"] == "error" for output in cell["outputs"]), cell["source"]


def answer(page, variable: str, value: str) -> str:
    """Write an answer into an exercise, run it and its check, and return what the check says."""
    exercise = page.locator(".jp-CodeCell", has_text=f"{variable} = ").first
    exercise.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(f"{variable} = {value}")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    folded = exercise.locator("xpath=following-sibling::div[contains(@class, 'jp-CodeCell')][1]")  # the check
    verdict = folded.locator(".jp-OutputArea-output")
    expect(verdict).not_to_contain_text("To do", timeout=20_000)
    page.wait_for_timeout(500)
    return verdict.inner_text()


def test_chapter_00_runs_in_jupyterlab_and_its_exercise_answers(page, lab):
    notebook = run_all(page, lab, "00_start_here.ipynb")
    assert_ran(notebook)
    expect(page.locator(".jp-OutputArea-output progress").first).to_be_attached()
    expect(page.locator(".jp-OutputArea-output img").first).to_be_attached()
    assert answer(page, "reviews_seen", "4").startswith("✗ Not yet. That's the number of steps.")
    assert answer(page, "reviews_seen", "'many'").startswith("✗")
    assert answer(page, "reviews_seen", "32").startswith("✓ Right.")


def test_a_chapter_in_the_middle_runs_in_jupyterlab(page, lab):
    assert_ran(run_all(page, lab, "02_distilbert.ipynb"))
    expect(page.locator(".jp-OutputArea-output img").first).to_be_attached()


def test_jupyterlab_lets_nobody_in_without_its_token(lab):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{lab[0]}/api/contents", timeout=5)


@pytest.fixture(scope="module")
def site():
    """The site and the decks, made side by side from the notebooks; yields their address.

    Another test run would make them in the same place, so it waits.
    """
    words = ["-j2", "--assume-old=setup", "site", "slides", f"VENV={Path(sys.executable).parent}"]
    (ROOT / "runs").mkdir(exist_ok=True)
    with FileLock(ROOT / "runs/site.lock"):
        subprocess.run(["make", *words], cwd=ROOT, check=True)
        yield (ROOT / "site/_build/html").as_uri()


PAGES = ["index", "teaching", *(f"chapters/{path.stem}" for path in sorted((ROOT / "notebooks").glob("*.ipynb")))]


@pytest.mark.parametrize("width", [320, 1024, 1366])
def test_no_page_of_the_site_is_wider_than_the_screen(page, site, width):
    page.set_viewport_size({"width": width, "height": 900})
    for name in PAGES:
        page.goto(f"{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert all(url.startswith(("file:", "data:")) for url in page.asked), "the site asks another host"


@pytest.fixture(scope="module")
def violations(browser, site):
    """What axe finds on each page, by name. It looks at four pages at a time, each in a process of its own."""
    start = "() => void (window.found = axe.run({runOnly: ['wcag2a', 'wcag2aa'], resultTypes: ['violations']}))"
    found = {}
    for first in range(0, len(PAGES), 4):
        pages = {name: browser.new_page(viewport={"width": 1440, "height": 900}) for name in PAGES[first : first + 4]}
        for name, page in pages.items():
            page.goto(f"{site}/{name}.html")
            page.evaluate(AXE_SCRIPT)
            page.evaluate(start)
        for name, page in pages.items():
            found[name] = page.evaluate("found.then(results => results.violations)")
            page.close()
    return found


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_site_is_accessible(violations, name):
    found = violations[name]
    assert not found, [(each["id"], each["nodes"][0]["html"][:200]) for each in found]


def test_the_sites_search_finds_a_word_and_a_solution_unfolds(page, site):
    page.goto(f"{site}/search.html?q=SIGKILL")
    expect(page.locator("#search-results li a", has_text="07 · Checkpoints").first).to_be_visible(timeout=20_000)
    page.goto(f"{site}/chapters/00_start_here.html")
    solution = page.locator("details", has_text="Show the solution").first
    expect(solution.locator(".highlight").first).not_to_be_visible()
    solution.locator("summary").click()
    expect(solution.locator(".highlight").first).to_be_visible()
    download = page.get_by_role("link", name="00_start_here.ipynb").get_attribute("href")
    assert (ROOT / "site/_build/html/chapters" / download).resolve().exists(), "the page links to its notebook"


def test_a_deck_goes_forward_and_has_notes(page, site):
    page.goto(f"{site}/slides/05_train.html")
    for step in (1, 2):
        page.keyboard.press("Space")
        page.wait_for_timeout(200)
        assert page.evaluate("Reveal.getSlidePastCount()") == step
    page.evaluate("Reveal.slide(1, 0)")
    assert len(page.evaluate("Reveal.getSlideNotes()")) > 100, "the prose is in the speaker notes"
    smallest = 1.0
    for _ in range(page.evaluate("Reveal.getTotalSlides()")):
        smallest = min(smallest, float(page.evaluate("Reveal.getCurrentSlide().style.zoom || 1")))
        page.keyboard.press("Space")
    assert smallest > 0.45, "a slide holds more than can be read"
    assert all(url.startswith(("file:", "data:")) for url in page.asked), "the deck asks another host"
