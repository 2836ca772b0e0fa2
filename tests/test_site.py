"""What a reader sees of the site and the decks, in a real Chromium: pages, search, folds, print, slides."""

import functools
import http.server
import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import expect
from run import chapters

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = ["chromium"]
pytestmark = pytest.mark.usefixtures("browser")


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """The site and the decks, made side by side from a copy of the course, as someone may be at work in this one."""
    course = tmp_path_factory.mktemp("course")
    made = shutil.ignore_patterns("_build", "chapters", "data", "bench", "teaching.md", "map.md", ".*", "__pycache__")
    for folder in ("site", "notebooks"):
        shutil.copytree(ROOT / folder, course / folder, ignore=made)
    for name in ("Makefile", "README.md", "TEACHING.md", "data/README.md", "bench/README.md"):
        (course / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, course / name)
    words = ["-j2", "--assume-old=setup", "site", "slides", f"VENV={Path(sys.executable).parent}"]
    subprocess.run(["make", *words], cwd=course, check=True)
    return course / "site/_build/html"


@pytest.fixture(scope="module")
def site(html) -> str:
    """The address of the site, opened from its folder."""
    return html.as_uri()


CHAPTERS = [f"chapters/{path.stem}" for path in chapters()]
PAGES = ["index", "teaching", "glossary", "search", *CHAPTERS]


# A wide element widens the page, or the page cuts it off, unless something around it scrolls.
BEYOND_THE_EDGE = """[...document.querySelectorAll("article *")].filter(box => {
    for (let around = box; around.tagName !== "ARTICLE"; around = around.parentElement)
        if (/auto|scroll/.test(getComputedStyle(around).overflowX)) return false;
    return box.checkVisibility() && box.getBoundingClientRect().right > innerWidth + 1;
}).map(box => box.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_site_is_on_no_screen_wider_than_it(page, site, name):
    page.goto(f"{site}/{name}.html")
    for width in (320, 768, 1024, 1366, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width
        assert page.evaluate(BEYOND_THE_EDGE) == [], width
    assert all(url.startswith(("file:", "data:")) for url in page.asked), "the site asks another host"


def test_a_phone_shows_pictures_with_letters_to_read_in_boxes_that_scroll(browser, site):
    # The smallest letters of a plot are 9 points at 200 dots to the inch, those of a drawing 17 of its 760.
    measure = """all => all.map(one => {
        const box = one.closest(".cell_output, p"), width = one.getBoundingClientRect().width;
        const letters = one.src.endsWith(".png") ? 25 * width / one.naturalWidth : 17 * width / 760;
        return [letters, box.scrollWidth <= box.clientWidth || box.tabIndex === 0];
    })"""
    phone = browser.new_page(viewport={"width": 390, "height": 844})
    for name in CHAPTERS:
        phone.goto(f"{site}/{name}.html")
        phone.locator("details").evaluate_all("folds => folds.forEach(fold => fold.open = true)")
        phone.wait_for_timeout(50)
        for letters, reachable in phone.locator("article img").evaluate_all(measure):
            assert letters > 10.9 and reachable, name
    phone.close()


# A chapter's code has up to 16,000 coloured words, and axe takes a second for a thousand. So it gets one of each kind.
ONE_OF_EACH_COLOUR = """() => {
    const seen = new Set();
    for (const word of document.querySelectorAll("pre span")) {
        const kind = word.cloneNode().outerHTML + getComputedStyle(word.closest("pre")).backgroundColor;
        if (seen.has(kind)) word.replaceWith(...word.childNodes);
        seen.add(kind);
    }
}"""


@pytest.fixture(scope="module")
def violations(browser, site):
    """What axe finds on each page, by name. It looks at four pages at a time, each in a process of its own."""
    start = "() => void (window.found = axe.run({runOnly: ['wcag2a', 'wcag2aa'], resultTypes: ['violations']}))"
    found = {}
    for first in range(0, len(PAGES), 4):
        pages = {name: browser.new_page(viewport={"width": 1440, "height": 900}) for name in PAGES[first : first + 4]}
        for name, page in pages.items():
            page.goto(f"{site}/{name}.html")
            page.evaluate(ONE_OF_EACH_COLOUR)
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
            "cut with room": of(".jp-OutputArea pre").filter(
                box => /\\n…\\s*$/.test(box.textContent) && slide.scrollHeight < 600),
            "no full stop": of("blockquote strong:first-child").filter(
                box => ["Predict", "Trap", "Aside"].includes(text(box))),
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


# Of a question's first letters and the id of the cell behind it: whether a result of that cell stands before it.
ANSWERED_BEFORE = """([letters, id]) => {
    const question = [...document.querySelectorAll(".slides blockquote")].find(
        box => box.textContent.replace(/\\W/g, "").startsWith(letters));
    return [...document.querySelectorAll(`[id^="cell-id=${id}-"] .jp-OutputArea`)].some(
        result => question?.compareDocumentPosition(result) & 2);
}"""


@pytest.mark.parametrize("name", DECKS)
def test_no_slide_answers_the_question_of_a_later_one(page, site, html, name):
    open_deck(page, site, name)
    cells = json.loads((html.parents[2] / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    for before, cell in itertools.pairwise(cells):
        if cell["metadata"].get("jupyter", {}).get("outputs_hidden"):
            question = "".join(before["source"]).partition("**Predict")[2]
            letters = re.sub(r"\]\([^)]*\)|\W", "", f"Predict{question}", flags=re.ASCII)[:30]
            assert not page.evaluate(ANSWERED_BEFORE, [letters, cell["id"]]), letters


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
    "cut with room": "slide.querySelector('.jp-OutputArea pre').append('\\n…')",
    "no full stop": "document.querySelector('blockquote strong').textContent = 'Trap'",
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
    page.wait_for_selector(".pdf-page", state="attached")  # while reveal.js moves the slides into pages, it counts none
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
def served(html):
    """The site from a server on loopback; yields its address."""
    handler = functools.partial(QuietHandler, directory=html)
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


def test_a_search_with_one_answer_names_no_number(page, site):
    page.goto(f"{site}/search.html")
    page.evaluate("sections.splice(1); show(sections[0].heading)")
    expect(page.get_by_role("status").last).to_have_text("The section that fits best:")


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
def chapter(browser, html, request):
    """A chapter's page, loaded once for all tests that only look at it; `chapter.cells` are its notebook's."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.notebook = html.parents[2] / "notebooks" / f"{Path(request.param).name}.ipynb"
    page.cells = json.loads(page.notebook.read_text(encoding="utf-8"))["cells"]
    page.goto(f"{html.as_uri()}/{request.param}.html")
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
