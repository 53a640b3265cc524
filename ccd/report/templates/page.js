"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[1].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const numbers = column > 0;
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numbers;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.key;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      if (!numbers) return (down ? -1 : 1) * key(a).localeCompare(key(b));
      const unknown = (key(a) === "") - (key(b) === "");
      return unknown || (down ? -1 : 1) * (key(a) - key(b));
    });
    table.tBodies[0].append(...rows);
  }));
}
for (const box of document.querySelectorAll(".scroll")) {
  const cue = () => box.previousElementSibling.classList
    .toggle("shown", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.addEventListener("scroll", cue, { passive: true });
  new ResizeObserver(cue).observe(box);
}
const open = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", open);
open();
