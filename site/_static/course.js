// What scrolls inside itself can be reached, and scrolled, with the keyboard; what doesn't is no stop on the way.
function markScrolling() {
  const boxes = [...document.querySelectorAll("pre, .cell_output, .table-wrapper, p:has(> img)")];
  const scrolling = new Set(boxes.filter((box) => box.scrollWidth > box.clientWidth)); // all read before any is written
  for (const box of boxes) {
    if (scrolling.has(box)) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

// The chapters that a reader has ticked off, by name. They stay in this browser.
const KEPT = "trainer-course-done";
const readDone = () => new Set(JSON.parse(localStorage.getItem(KEPT) ?? "[]"));
const chapterOf = (address) => address?.match(/(\d\d_\w+)\.html$/)?.[1];

// Ticks, in the sidebar and on the first page's cards, the links to chapters that are done.
function tick() {
  const done = readDone();
  for (const link of document.querySelectorAll(".sidebar-tree a, .card a")) {
    const ticked = done.has(chapterOf(link.pathname));
    if (ticked === Boolean(link.querySelector(".done"))) continue;
    if (ticked) link.insertAdjacentHTML("beforeend", ' <span class="done" role="img" aria-label="done">✓</span>');
    else link.querySelector(".done").remove();
  }
}

// Puts a box to tick at the end of a chapter.
function offerTick(chapter) {
  const label = document.createElement("label");
  label.className = "tick";
  label.innerHTML = '<input type="checkbox"> I’ve worked through this chapter <small>(kept in this browser)</small>';
  const box = label.firstChild;
  box.checked = readDone().has(chapter);
  box.addEventListener("change", () => {
    const done = readDone();
    if (box.checked) done.add(chapter);
    else done.delete(chapter);
    localStorage.setItem(KEPT, JSON.stringify([...done]));
    tick();
  });
  document.querySelector("article").append(label);
}

// On a narrow screen the two menus hide behind labels, which the theme leaves to the mouse.
function reachMenus() {
  for (const label of document.querySelectorAll(".nav-overlay-icon, .toc-overlay-icon")) {
    label.tabIndex = 0;
    label.setAttribute("role", "button");
    label.setAttribute("aria-label", label.htmlFor === "__toc" ? "On this page" : "Chapters");
    label.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      label.click();
    });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  reachMenus();
  // Each fold is named alike to a screen reader by MyST-NB; its own words say what is in it.
  for (const fold of document.querySelectorAll("details.hide > summary")) fold.removeAttribute("aria-label");
  const chapter = chapterOf(location.pathname);
  if (chapter) offerTick(chapter);
  tick();
  markScrolling();
});
addEventListener("load", markScrolling); // pictures have their width
addEventListener("resize", markScrolling);
document.addEventListener("toggle", markScrolling, true); // a fold

// Paper can't be clicked: answers are printed open, and so is what the reader has opened; course.css hides the rest.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details.below-input:not([open])")];
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
});
