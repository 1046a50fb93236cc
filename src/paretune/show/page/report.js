"use strict";

// Sorting: numbers by value, words by language; what was not measured stays at the end both ways.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const words = head.classList.contains("word");
    const value = row => row.cells[column].dataset.value;
    const compare = (a, b) => {
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
      return sign * (words ? value(a).localeCompare(value(b)) : Number(value(a)) - Number(value(b)));
    };
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    body.append(...[...body.rows].sort(compare));
  }));
}

// Theme: as the system has it, unless a reader chooses.
const themes = ["system", "light", "dark"];
const button = document.getElementById("theme");
const choose = theme => {
  document.documentElement.dataset.theme = theme;
  button.querySelector("span").textContent = theme;
};
button.hidden = false;
button.addEventListener("click", () => {
  const now = themes.indexOf(document.documentElement.dataset.theme || "system");
  choose(themes[(now + 1) % themes.length]);
});
