"use strict";
// Optional functions of the page: sort and filter tables, highlight the curves of a row, and open all folded
// sections before printing.

// Numbers sort as numbers, other text in lower case; null marks an empty cell, which always sorts last.
function sortKey(cell) {
  const text = cell.textContent.trim();
  const number = Number(text.replace(/[,%±\s]/g, ""));
  return text === "" || text === "–" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortBy(table, header) {
  const column = [...header.parentNode.cells].indexOf(header);
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortKey(row.cells[column]), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return descending ? compare(b, a) : compare(a, b);
  });
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortBy(table, header));
  }
}

const highlight = (run, on) => {
  for (const each of document.querySelectorAll(`[data-run="${run}"]`)) each.classList.toggle("highlighted", on);
};
for (const [event, on] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
  document.addEventListener(event, ({ target }) => {
    const marked = target.closest("[data-run]");
    if (marked) highlight(marked.dataset.run, on);
  });
}

// Each table of runs has its own search field in the same section.
for (const table of document.querySelectorAll("table.runs")) {
  const search = table.closest("section").querySelector(".search");
  search.hidden = false;
  search.addEventListener("input", ({ target }) => {
    const words = target.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    search.querySelector("output").textContent = `${shown} of ${table.tBodies[0].rows.length}`;
  });
}

addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
