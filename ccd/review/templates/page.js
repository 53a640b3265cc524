"use strict";
const answers = () => [...document.querySelectorAll("fieldset")]
  .map((one) => [one.dataset.image, one.dataset.name, one.querySelector("input:checked").value])
  .filter(([, , label]) => label !== "");
let unsaved = false;
const cell = (text) => {
  const safe = /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
  return /[",\r\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
};
const csv = () => [["image_id", "class", "label"], ...answers()].map((row) => row.map(cell).join(",") + "\n").join("");
document.addEventListener("change", () => {
  unsaved = true;
  document.getElementById("count").textContent = answers().length + " answers";
});
document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "reviewed.csv";
  link.click();
  unsaved = false;
});
addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
