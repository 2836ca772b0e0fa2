"""What a learner sees, in a real Chromium: JupyterLab runs a chapter, the site is read, a deck is shown."""

import functools
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from filelock import FileLock
from playwright.sync_api import expect, sync_playwright
from run import chapters

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
    """JupyterLab as `make lab` sets it, on a copy of the course; yields its address and the folder of the notebooks."""
    folder = tmp_path_factory.mktemp("course")
    for part in ("notebooks", "lab"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copy(ROOT / "README.md", folder)
    (folder / "data").symlink_to(ROOT / "data")
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))  # all cells are in the page, also those out of sight
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["lab", "--no-browser", "--allow-root", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    env = {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", *words, f"--config={folder}/lab/config.py"],
        env={**os.environ, **env, "COURSE_EDITION": "mini"},
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


IDLE = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator[data-status=idle]"


def wait_for_kernel(page) -> None:
    """Wait until the chapter in sight has a kernel, and it's at rest: the chapter is idle before there is one, too."""
    page.locator(IDLE).wait_for(timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)


def open_in_lab(page, lab, name: str) -> None:
    """Open a chapter in JupyterLab and nothing beside it, and wait for its kernel."""
    page.goto(f"{lab[0]}/lab/tree/notebooks/{name}?token={TOKEN}&reset")
    wait_for_kernel(page)


def run_all(page, lab, name: str):
    """Open a chapter in JupyterLab, run all its cells, save it, and return the saved notebook."""
    open_in_lab(page, lab, name)
    waiting = page.locator(".jp-InputPrompt", has_text="[*]")  # the kernel is idle for a moment between two cells, too
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator('li[data-command="runmenu:run-all"]').click()
    waiting.first.wait_for(timeout=60_000)
    expect(waiting).to_have_count(0, timeout=240_000)
    wait_for_kernel(page)
    page.keyboard.press("Control+s")
    expect(page.locator(".lm-DockPanel-tabBar .jp-mod-dirty")).to_have_count(0, timeout=20_000)
    return json.loads((lab[1] / name).read_text(encoding="utf-8"))


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


def test_the_first_screen_shows_each_name_whole_and_its_links_lead_on(page, lab):
    open_in_lab(page, lab, "00_start_here.ipynb")
    names = page.locator(".jp-DirListing-item[data-file-type=notebook] .jp-DirListing-itemText")
    expect(names).to_have_count(len(list(lab[1].glob("*.ipynb"))))
    assert names.evaluate_all("names => names.filter(name => name.scrollWidth > name.clientWidth).length") == 0
    expect(page.get_by_role("strong").filter(has_text="Shift + Enter")).to_be_in_viewport()
    expect(page.locator(".jp-Dialog, .Toastify__toast")).to_have_count(0)
    page.get_by_role("link", name="Map", exact=True).click()
    map_of_chapters = page.locator(".jp-MarkdownViewer")
    expect(map_of_chapters.get_by_role("heading", name="Chapters")).to_be_visible()
    map_of_chapters.get_by_role("link", name="01_tokenize_imdb").click()
    wait_for_kernel(page)
    page.get_by_role("link", name="02 · DistilBERT →").click()
    expect(page.get_by_role("heading", name="02 · DistilBERT")).to_be_visible(timeout=20_000)


def test_a_chapter_that_is_opened_saved_and_closed_stays_the_same_to_the_byte(page, lab):
    open_in_lab(page, lab, "00_start_here.ipynb")
    for chapter in sorted(lab[1].glob("*.ipynb")):
        before, written = chapter.read_bytes(), chapter.stat().st_mtime_ns
        page.locator(".jp-DirListing-item", has_text=chapter.name).dblclick()
        tab = page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab.lm-mod-current", has_text=chapter.name)
        tab.wait_for(timeout=20_000)
        wait_for_kernel(page)
        page.wait_for_timeout(500)  # JupyterLab notes a kernel's language some time after it is idle
        expect(tab, f"{chapter.name} is marked as changed").not_to_have_class(re.compile("jp-mod-dirty"))
        page.keyboard.press("Control+s")
        for _ in range(100):
            saved = chapter.stat().st_mtime_ns != written
            if saved and chapter.read_bytes() == before:
                break
            page.wait_for_timeout(100)
        else:
            pytest.fail(f"{chapter.name} {'has changed' if saved else 'was not saved'}")
        tab.locator(".lm-TabBar-tabCloseIcon").click()
        expect(tab).to_have_count(0)
        expect(page.locator(".jp-Dialog")).to_have_count(0)
        for session in page.request.get(f"{lab[0]}/api/sessions?token={TOKEN}").json():
            page.request.delete(f"{lab[0]}/api/sessions/{session['id']}?token={TOKEN}")


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


CHAPTERS = [f"chapters/{path.stem}" for path in chapters()]
PAGES = ["index", "teaching", "glossary", "search", *CHAPTERS]


@pytest.mark.parametrize("width", [320, 768, 1024, 1366, 1920])
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


DECKS = [Path(name).name for name in CHAPTERS]
# Goes through a deck as → does, and says what an instructor would be sorry for, slide by slide.
WALK = """() => {
    const found = [], seen = new Set(), at = () => JSON.stringify(Reveal.getIndices());
    for (let last = null; last !== at(); last = at(), Reveal.next()) {
        const slide = Reveal.getCurrentSlide(), zoom = Number(slide.style.zoom) || 1;
        if (seen.has(slide)) continue;
        seen.add(slide);
        const boxes = [...slide.querySelectorAll(":not(aside.notes, aside.notes *)")];
        const of = tag => boxes.filter(box => box.matches(tag)), text = box => box?.textContent.trim() ?? "";
        const title = of("h1, h2, h3")[0], said = slide.innerText.replace(text(title), "").trim();
        const letters = boxes.filter(box => [...box.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
        const question = of("blockquote").find(box => text(box).startsWith("Predict"));
        const ratio = (width, height, picture) => width * picture.naturalHeight / height / picture.naturalWidth;
        const faults = {
            "without a title": [title].filter(box => !text(box)),
            "nearly empty": [slide].filter(() => said.length < 60 && !of("img").length),
            "larger than the screen": [slide].filter(
                () => slide.scrollHeight * zoom > 721 || slide.scrollWidth * zoom > 1281),
            "cut off": boxes.filter(box => {
                const place = box.getBoundingClientRect();
                return place.right > 1281 || place.bottom > 721
                    || box.matches("pre, table") && box.scrollWidth > box.clientWidth + 1;
            }),
            "small letters": letters.filter(box => parseFloat(getComputedStyle(box).fontSize) * zoom < 18),
            "long code": of(".jp-InputArea pre").filter(box => text(box).split("\\n").length > 15),
            "no picture": of("img").filter(picture => !picture.naturalWidth),
            "a picture without words": of("img").filter(({alt}) => alt.length < 20 || alt.startsWith("No description")),
            "stretched": of("img").filter(picture => getComputedStyle(picture).objectFit !== "contain"
                && Math.abs(ratio(picture.clientWidth, picture.clientHeight, picture) - 1) > 0.02),
            "→ shows nothing": of(".fragment").filter(box => !text(box) && !box.querySelector("img")),
            "answers its question": of(".jp-OutputArea").filter(
                box => question?.compareDocumentPosition(box) & 4 && !box.closest(".fragment")),
            "notes with marks": [slide].filter(() => /¶|\\[Map\\]|!\\[/.test(Reveal.getSlideNotes() ?? "")),
        };
        for (const [fault, [box]] of Object.entries(faults).filter(([, boxes]) => boxes.length))
            found.push(`slide ${seen.size}: ${fault}: ${text(box).slice(0, 60)}`);
    }
    if (seen.size !== Reveal.getTotalSlides()) found.push(`→ shows ${seen.size} of ${Reveal.getTotalSlides()} slides`);
    if (seen.size < 12 || seen.size > 25) found.push(`${seen.size} slides`);
    return found;
}"""


def open_deck(page, site, name: str) -> None:
    """Open a deck on a screen of 1280 × 720, with its pictures."""
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(f"{site}/slides/{name}.html")
    page.wait_for_function("Reveal.isReady() && [...document.images].every(image => image.complete)")


@pytest.mark.parametrize("name", DECKS)
def test_a_deck_can_be_presented(page, site, name):
    open_deck(page, site, name)
    assert page.evaluate(WALK) == []
    noted = page.evaluate("Reveal.getSlides().filter(slide => Reveal.getSlideNotes(slide)?.length > 100).length")
    assert noted > page.evaluate("Reveal.getTotalSlides()") / 2, "the prose is in the speaker notes"
    assert all(url.startswith(("file:", "data:")) for url in page.asked), "the deck asks another host"


FAULTS = {
    "without a title": "slide.querySelector('h1, h2, h3').remove()",
    "nearly empty": "[...slide.querySelectorAll('.jp-CodeCell')].forEach(cell => cell.remove())",
    "cut off": "slide.querySelector('pre').style.cssText = 'white-space: pre; overflow: hidden'; "
    "slide.querySelector('pre').append('x'.repeat(200))",
    "small letters": "slide.querySelector('pre').style.fontSize = '17px'",
    "long code": "slide.querySelector('.jp-InputArea pre').append('\\nx'.repeat(16))",
    "no picture": "slide.append(Object.assign(new Image(), {src: 'drawings/none.svg'}))",
    "a picture without words": "document.querySelector('.slides img').alt = ''",
    "stretched": "document.querySelector('.slides img').style.cssText = "
    "'object-fit: fill; width: 100px; height: 100px; max-height: none'",
    "→ shows nothing": "slide.append(Object.assign(document.createElement('div'), {className: 'fragment'}))",
    "answers its question": "document.querySelectorAll('.fragment').forEach(box => box.classList.remove('fragment'))",
    "notes with marks": "slide.querySelector('aside.notes').append('Setup¶')",
    "10 slides": "Reveal.getSlides().slice(10).forEach(slide => slide.closest('.stack').remove()); Reveal.sync()",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_deck_is_seen(page, site, fault):
    open_deck(page, site, "00_start_here")
    page.evaluate(f"{{ const slide = Reveal.getSlides()[3]; {FAULTS[fault]} }}")
    assert any(fault in found for found in page.evaluate(WALK))


@pytest.mark.parametrize("name", ["05_train", "08_hub", "17_when_it_breaks"])
def test_a_printed_deck_has_each_slide_whole(page, site, name):
    page.goto(f"{site}/slides/{name}.html?print-pdf")
    page.wait_for_function("document.querySelectorAll('.pdf-page').length === Reveal.getTotalSlides()")
    printed = page.locator(".pdf-page > section")
    page.locator("aside.notes").evaluate_all("notes => notes.forEach(note => note.remove())")
    bare = "slides => slides.map(slide => slide.%s.replace(/\\s+/g, ''))"
    assert printed.evaluate_all(bare % "innerText") == printed.evaluate_all(bare % "textContent")
    cut = "slides => slides.filter(slide => slide.getBoundingClientRect().height > 721).length"
    assert printed.evaluate_all(cut) == 0
    assert page.locator(".pdf-page .fragment:not(.visible)").count() == 0


def test_a_page_leads_to_each_deck(page, site):
    page.goto(f"{site}/index.html")
    page.get_by_role("link", name="deck of slides").click()
    page.wait_for_url("**/slides/index.html")
    links = page.locator("li a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert links == [f"{name}.html" for name in DECKS]


@pytest.fixture
def dark(browser):
    """A page of someone who asks for dark colours."""
    page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="dark")
    yield page
    page.close()


@pytest.fixture(scope="module")
def served(site):
    """The site from a server on loopback; yields its address."""
    handler = functools.partial(QuietHandler, directory=ROOT / "site/_build/html")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_):
        """Say nothing."""


@pytest.mark.parametrize("how", ["site", "served"])
def test_a_pasted_error_leads_to_its_section(page, request, how):
    page.goto(f"{request.getfixturevalue(how)}/index.html")
    page.locator("article input[name=q]").fill("IndexError: index out of range in self")
    page.keyboard.press("Enter")
    first = page.locator("#found li").first
    expect(first.locator("mark").first).to_be_visible(timeout=20_000)
    expect(first).to_contain_text("17 · When it breaks")
    assert "out of range" in first.locator("p").nth(1).inner_text(), "the snippet shows where the words stand"
    first.get_by_role("link").click()
    heading = page.locator(":target > h3")
    expect(heading).to_contain_text("index out of range in self", timeout=20_000)
    expect(heading).to_be_in_viewport()


def test_errors_from_public_threads_lead_to_their_heading(page, site):
    page.goto(f"{site}/search.html")
    lost = {}
    for each in json.loads((ROOT / "tests/asked.json").read_text(encoding="utf-8")):
        found = page.evaluate("text => search(text).slice(0, 3).map(section => section.heading)", each["message"])
        plain = [re.sub(r"^[\d.]+ ", "", heading).replace("’", "'") for heading in found]
        if not any(heading.startswith(each["heading"]) for heading in plain):
            lost[each["message"]] = found
    assert not lost


@pytest.mark.parametrize(
    "words, heading",
    [
        ("SIGKILL", "07.3"),
        ("out of memory", "17.76"),
        ("learning rate", "learning rate"),
        ("training arguments", "03"),
        ("class weights", "12"),
        ("05.6", "05.6"),
    ],
)
def test_words_lead_to_a_section(page, site, words, heading):
    page.goto(f"{site}/search.html?q={words}")
    found = page.locator("#found li a").all_inner_texts()[:3]
    assert any(each.startswith(heading) for each in found), found


def test_a_search_without_an_answer_says_so(page, site):
    page.goto(f"{site}/search.html?q=xyzzy")
    expect(page.get_by_role("status").last).to_have_text("No section has any of these words.")


@functools.cache
def anchors(file: Path) -> set[str]:
    """Return the places in a page that a link can lead to."""
    return set(re.findall(r'\bid="([^"]+)"', file.read_text(encoding="utf-8")))


def assert_links_lead_somewhere(page) -> None:
    """Each link of a page's text to a file of the site finds it, and the place in it."""
    links = page.locator("article a[href]").evaluate_all("links => links.map(link => link.href)")
    for link in {link for link in links if link.startswith("file:")}:
        file, _, place = urllib.parse.unquote(link.removeprefix("file://").partition("?")[0]).partition("#")
        assert Path(file).exists(), link
        assert not place or place in anchors(Path(file)), link


@pytest.fixture(scope="module", params=CHAPTERS)
def chapter(browser, site, request):
    """A chapter's page, loaded once for all tests that only look at it; `chapter.cells` are its notebook's."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.notebook = ROOT / "notebooks" / f"{Path(request.param).name}.ipynb"
    page.cells = json.loads(page.notebook.read_text(encoding="utf-8"))["cells"]
    page.goto(f"{site}/{request.param}.html")
    yield page
    page.close()


def test_each_link_of_a_chapter_leads_somewhere_and_each_heading_has_an_address(chapter):
    assert_links_lead_somewhere(chapter)
    headings = chapter.locator("article :is(h1, h2, h3)")
    assert headings.count() == headings.locator("> .headerlink").count() > 5


def test_a_chapter_offers_its_notebook_as_it_is_committed(chapter):
    link = chapter.get_by_role("link", name="Download the notebook")
    expect(link).to_be_in_viewport()
    assert (
        Path(link.evaluate("link => link.href").removeprefix("file://")).read_bytes() == chapter.notebook.read_bytes()
    )


def test_questions_traps_and_asides_are_boxes(chapter):
    text = "\n".join("".join(cell["source"]) for cell in chapter.cells if cell["cell_type"] == "markdown")
    for kind in ("Predict", "Trap", "Aside"):
        title = chapter.locator("p.admonition-title", has_text=re.compile(f"^{kind}$"))
        written = len(re.findall(rf"^(?:> )?\*\*{kind}\b", text, flags=re.MULTILINE))
        assert chapter.locator("div.admonition", has=title).count() == written, kind


def test_what_a_chapter_folds_is_folded(chapter):
    kinds = [{"proof", "check", "solution"} & set(cell["metadata"].get("tags", [])) for cell in chapter.cells]
    hidden = [cell["metadata"].get("jupyter", {}).get("outputs_hidden") for cell in chapter.cells]
    folds = chapter.locator("details.hide").all_inner_texts()
    counts = {kind: sum(kind in each for each in kinds) for kind in ("proof", "check", "solution")}
    counts["answer"] = sum(bool(answer) and not kind for kind, answer in zip(kinds, hidden, strict=True))
    assert {kind: sum(text.startswith(f"Show the {kind}") for text in folds) for kind in counts} == counts
    assert chapter.locator("details[open]").count() == 0


def test_each_picture_says_what_is_seen(chapter):
    texts = chapter.locator("article img").evaluate_all("pictures => pictures.map(picture => picture.alt)")
    assert texts and min(map(len, texts)) > 20, texts
    assert len(set(texts)) == len(texts), "two pictures say the same"


def test_a_term_is_linked_to_the_glossary_once(chapter):
    links = chapter.locator("article a[href*='glossary.html#term']")
    terms = links.evaluate_all("links => links.map(link => link.hash)")
    assert terms and len(set(terms)) == len(terms)


def test_a_cell_is_copied_as_it_stands(page, site):
    page.goto(f"{site}/chapters/00_start_here.html")
    code = page.locator("div.cell_input pre").first
    code.hover()
    page.locator("button.copybtn").first.click()
    page.evaluate("document.querySelector('article').append(document.createElement('textarea'))")
    page.locator("textarea").focus()
    page.keyboard.press("Control+v")
    assert page.locator("textarea").input_value().strip() == code.inner_text().strip()


def test_on_a_narrow_screen_the_menus_open_with_the_keyboard(browser, site):
    with browser.new_page(viewport={"width": 390, "height": 844}) as phone:
        phone.goto(f"{site}/chapters/00_start_here.html")
        for label, drawer in {".nav-overlay-icon": ".sidebar-drawer", ".toc-header-icon": ".toc-drawer"}.items():
            phone.locator(label).focus()
            expect(phone.locator(drawer)).not_to_be_in_viewport()
            phone.keyboard.press("Enter")
            expect(phone.locator(drawer)).to_be_in_viewport()
            phone.keyboard.press("Enter")


def test_proofs_answers_and_solutions_unfold_with_the_keyboard(page, site):
    page.goto(f"{site}/chapters/00_start_here.html")
    for kind in ("proof", "answer", "check", "solution"):
        fold = page.locator("details", has_text=f"Show the {kind}").first
        inside = fold.locator(".highlight, .output").first
        expect(inside).not_to_be_visible()
        fold.locator("summary").focus()
        page.keyboard.press("Enter")
        expect(inside).to_be_visible()
    assert page.locator("summary[aria-label]").count() == 0, "a fold is called by its own words"


def test_only_what_scrolls_is_a_stop_of_the_tab_key(page, site):
    page.goto(f"{site}/chapters/05_train.html")
    stops = page.evaluate(
        "[...document.querySelectorAll('[tabindex=\"0\"]:not(label)')].map(b => b.scrollWidth > b.clientWidth)"
    )
    assert all(stops)
    page.set_viewport_size({"width": 320, "height": 900})
    expect(page.locator("pre[tabindex='0']").first).to_be_attached()


DARK = ["index", "search", "glossary", "chapters/00_start_here"]  # with all kinds of boxes, and short, for axe is slow


@pytest.mark.parametrize("name", DARK)
def test_a_dark_page_is_accessible(dark, site, name):
    dark.goto(f"{site}/{name}.html" + "?q=out of memory" * (name == "search"))
    dark.evaluate(AXE_SCRIPT)
    run = "axe.run({runOnly: ['wcag2a', 'wcag2aa'], resultTypes: ['violations']}).then(results => results.violations)"
    found = dark.evaluate(run)
    assert not found, [(each["id"], each["nodes"][0]["html"][:200]) for each in found]


@pytest.mark.parametrize("name", [*DARK, "chapters/05_train", "chapters/17_when_it_breaks"])
def test_a_dark_page_is_dark_whole(dark, site, name):
    dark.goto(f"{site}/{name}.html")
    boxes = dark.locator("body, article :is(table, td, th, pre, details, .admonition, .card, input)")
    grounds = boxes.evaluate_all(
        "boxes => boxes.map(box => getComputedStyle(box).backgroundColor.match(/[\\d.]+/g).map(Number))"
    )
    assert not [ground for ground in grounds if sum(ground[:3]) > 400 and ground[3:] != [0]], "something is light"
    pictures = dark.locator("article img").evaluate_all("all => all.map(one => getComputedStyle(one).filter)")
    assert "none" not in pictures, "a picture glares"


@pytest.mark.parametrize("name", ["index", "chapters/05_train", "chapters/17_when_it_breaks"])
def test_a_printed_page_is_whole(page, site, name):
    page.goto(f"{site}/{name}.html")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 without its margins
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    cut = "boxes => boxes.filter(box => box.checkVisibility() && box.scrollWidth > box.clientWidth + 1).length"
    assert page.locator("pre, .cell_output, .table-wrapper").evaluate_all(cut) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    for hidden in (".skip-to-content", ".copybtn", ".tick", ".sidebar-drawer", ".ask"):
        for box in page.locator(hidden).all():
            expect(box).not_to_be_visible()
    assert page.locator("details.hide:not([open])").filter(visible=True).count() == 0, "a fold that can't be opened"
    for answer in page.locator("details.below-input .cell_output").all():
        expect(answer).to_be_visible()
        assert answer.evaluate("box => getComputedStyle(box).animationName") == "none", "it is printed before it shows"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_a_chapter_that_is_done_is_ticked_and_stays_so(page, site):
    page.goto(f"{site}/chapters/00_start_here.html")
    page.get_by_label("I’ve worked through this chapter").check()
    page.goto(f"{site}/index.html")
    expect(page.locator(".card", has_text="00 · Start here").get_by_label("done")).to_be_visible()
    expect(page.locator(".sidebar-tree a", has_text="00 · Start here").get_by_label("done")).to_be_visible()
    expect(page.get_by_label("done")).to_have_count(2)
    page.goto(f"{site}/chapters/00_start_here.html")
    page.get_by_label("I’ve worked through this chapter").uncheck()
    expect(page.get_by_label("done")).to_have_count(0)


def test_the_first_page_has_a_card_for_each_chapter(page, site):
    page.goto(f"{site}/index.html")
    cards = page.locator(".card")
    expect(cards).to_have_count(len(CHAPTERS))
    for card in cards.all():
        expect(card.locator("img")).to_be_attached()
        expect(card).to_contain_text(re.compile(r"minutes: [\d½¼].* of the computer, \d+ of yours"))
        assert len(card.locator("p").all_inner_texts()[2]) > 10, "the question"
    expect(page.locator("#three-routes dt")).to_have_count(3)
    assert_links_lead_somewhere(page)
