// What scrolls inside itself can be reached, and scrolled, with the keyboard.
document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll("pre, .cell_output, .table-wrapper")) box.tabIndex = 0;
});
