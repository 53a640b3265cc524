// The grid: filters, search, virtual scrolling. view.js has one image and its review, map.js the map.
import { openView, viewIsOpen } from "/static/view.js";
import { showMap } from "/static/map.js";
import { $, api, element, problem, state } from "/static/common.js";

const TILE_PX = 176, CAPTION_PX = 46, OVERSCAN = 2, FACTS_AT_ONCE = 200;

export const filters = () => Object.fromEntries(new FormData($("filters")));

// ---- selection
let asked = 0;
export async function select({ keep = false } = {}) {
  const query = new URLSearchParams(filters());
  if (state.text) query.set("text", state.text);
  if (state.like >= 0) query.set("like", state.like);
  if (state.region) query.set("region", state.region.map((side) => side.toFixed(4)).join(","));
  const number = ++asked;
  $("count").textContent = state.text && !state.project.tower ? "loading CLIP's text tower …" : "…";
  try {
    const buffer = await (await api("/api/images?" + query)).arrayBuffer();
    if (number !== asked) return;
    if (state.text) state.project.tower = true;
    state.rows = new Int32Array(buffer);
    state.facts.clear();
    problem(null);
  } catch (error) {
    if (number !== asked) return;
    problem(error);
  }
  if (!keep) { state.at = 0; $("grid").scrollTop = 0; }
  tell();
  layOut();
}
function tell() {
  const count = state.rows.length, whole = state.project.images;
  $("count").textContent = `${count.toLocaleString("en")} of ${whole.toLocaleString("en")} images`;
  const name = filters().class;
  $("accept-all").hidden = !name || !count;
  $("accept-all").textContent = `Accept all shown: ${name}`;
  $("review").disabled = !count;
  $("chips").replaceChildren(...[
    state.text && ["text: " + state.text, () => { state.text = $("text").value = ""; }],
    state.like >= 0 && ["similar to " + state.likeName, () => { state.like = -1; }],
    state.region && ["region of the map", () => { state.region = null; }],
  ].filter(Boolean).map(([text, drop]) => {
    const chip = element("button", { type: "button", className: "chip", title: "remove" }, text + " ×");
    chip.addEventListener("click", () => { drop(); select(); });
    return chip;
  }));
}
export function similarTo(row, name) {
  Object.assign(state, { like: row, likeName: name, text: "", region: null });
  $("text").value = "";
  $("filters").elements.sort.value = "";
  show("grid");
  select();
}

// ---- the grid, of which only what is seen exists
const tiles = new Map();
let shape = { columns: 1, width: TILE_PX, height: TILE_PX };
function layOut() {
  const width = $("grid").clientWidth - 2;
  const columns = Math.max(2, Math.floor(width / TILE_PX));
  shape = { columns, width: width / columns, height: Math.min(TILE_PX, width / columns) + CAPTION_PX };
  $("canvas-height").style.height = Math.ceil(state.rows.length / columns) * shape.height + "px";
  for (const tile of tiles.values()) tile.remove();
  tiles.clear();
  draw();
}
function draw() {
  const box = $("grid"), first = Math.max(0, Math.floor(box.scrollTop / shape.height) - OVERSCAN) * shape.columns;
  const last = Math.min(state.rows.length, (Math.ceil((box.scrollTop + box.clientHeight) / shape.height) + OVERSCAN) * shape.columns);
  for (const [place, tile] of tiles) if (place < first || place >= last) { tile.remove(); tiles.delete(place); }
  for (let place = first; place < last; place++) {
    if (!tiles.has(place)) { const tile = makeTile(place); tiles.set(place, tile); $("canvas-height").append(tile); }
    fill(tiles.get(place), place);
  }
  fetchFacts(first, last);
}
function makeTile(place) {
  const row = state.rows[place];
  const image = element("img", { alt: "", loading: "eager", decoding: "async", src: "/thumb/" + row });
  image.addEventListener("error", () => { tile.classList.add("broken"); });
  const tile = element("button", { type: "button", className: "tile", tabIndex: -1 }, element("span", { className: "shot" }, image), element("span", { className: "caption" }));
  tile.style.cssText = `left:${(place % shape.columns) * shape.width}px;top:${Math.floor(place / shape.columns) * shape.height}px;width:${shape.width}px;height:${shape.height}px`;
  tile.addEventListener("click", () => { state.at = place; draw(); openView(place); });
  return tile;
}
function fill(tile, place) {
  tile.classList.toggle("current", place === state.at);
  const facts = state.facts.get(state.rows[place]);
  if (!facts || tile.facts === facts) return;
  tile.facts = facts;
  const labels = facts.labels.map(([name, value, decided]) => {
    const mark = decided < 0 ? value.toFixed(2) : decided ? "yes" : "no";
    return element("span", { className: decided < 0 ? "label" : "label decided" }, element("i", {}, name), " " + mark);
  });
  const doubt = element("span", { className: "doubt", title: "doubt " + facts.doubt });
  doubt.style.setProperty("--doubt", facts.doubt);
  tile.querySelector(".caption").replaceChildren(doubt, ...labels);
  tile.querySelector("img").alt = facts.id;
  tile.title = `${facts.id} (${facts.train ? "train" : "test"})`;
  tile.setAttribute("aria-label", `${facts.id}: ${facts.labels.map(([name, value]) => name + " " + value.toFixed(2)).join(", ")}`);
}
let waiting = 0;
function fetchFacts(first, last) {
  clearTimeout(waiting);
  const rows = [...state.rows.subarray(first, last)].filter((row) => !state.facts.has(row)).slice(0, FACTS_AT_ONCE);
  if (!rows.length) return;
  waiting = setTimeout(async () => {
    try {
      const query = new URLSearchParams({ rows: rows.join(","), class: filters().class });
      for (const facts of await (await api("/api/rows?" + query)).json()) state.facts.set(facts.row, facts);
      draw();
    } catch (error) { problem(error); }
  }, 40);
}
export function refresh(row) {
  state.facts.delete(row);
  for (const tile of tiles.values()) tile.facts = null;
  draw();
}
export function goTo(place) {
  state.at = Math.max(0, Math.min(state.rows.length - 1, place));
  const top = Math.floor(state.at / shape.columns) * shape.height, box = $("grid");
  if (top < box.scrollTop) box.scrollTop = top;
  if (top + shape.height > box.scrollTop + box.clientHeight) box.scrollTop = top + shape.height - box.clientHeight;
  draw();
}
$("grid").addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
$("grid").addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.floor($("grid").clientHeight / shape.height)) * shape.columns;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: shape.columns, ArrowUp: -shape.columns, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 };
  if (event.key in steps) { event.preventDefault(); goTo(state.at + steps[event.key]); }
  if (event.key === "Enter" && state.rows.length) { event.preventDefault(); openView(state.at); }
});
new ResizeObserver(() => { if (state.project && !$("grid").hidden) layOut(); }).observe($("grid"));

// ---- what people do
export const person = () => ({ session: $("session").value.trim() || "review", who: $("who").value.trim() || state.project.person });
export async function undo() {
  try {
    const done = await (await api("/api/undo", person())).json();
    problem(null);
    await decidedNow(done.decided, `undone: ${done.changed} answer${done.changed === 1 ? "" : "s"}${done.images.length ? " about " + done.images.slice(0, 3).join(", ") : ""}`);
    state.facts.clear();
    refresh(-1);
    return done;
  } catch (error) { problem(error); return null; }
}
export async function decidedNow(count, note = "") {
  state.project.decided = count;
  foot(note);
}
function foot(note = "") {
  const { decided = 0, corrections, reruns } = state.project;
  const parts = [note ? note + ". " : "", `${decided.toLocaleString("en")} ${decided === 1 ? "answer" : "answers"} in ${corrections}. `];
  if (reruns.length) parts.push("To use them: ", element("code", {}, "dvc repro"), `, which reruns ${reruns.join(", ")}.`);
  $("foot").replaceChildren(...parts.filter(Boolean));
}
$("undo").addEventListener("click", undo);
$("review").addEventListener("click", () => openView(state.at));
$("accept-all").addEventListener("click", async () => {
  const name = filters().class, most = 500, answers = [];
  try {
    const rows = [...state.rows.subarray(0, most)];
    for (let start = 0; start < rows.length; start += FACTS_AT_ONCE) {
      const query = new URLSearchParams({ rows: rows.slice(start, start + FACTS_AT_ONCE).join(","), class: name });
      for (const facts of await (await api("/api/rows?" + query)).json()) {
        const [, value, decided] = facts.labels[0];
        if (facts.train && decided < 0) answers.push({ image_id: facts.id, class: name, label: value >= 0.5 ? 1 : 0 });
      }
    }
    const there = answers.filter((answer) => answer.label).length;
    if (!answers.length) { problem(new Error("none of these is an unanswered training image")); return; }
    const more = state.rows.length > most ? ` (the first ${most} images)` : "";
    if (!confirm(`Confirm the labels of ${name}${more}: there on ${there}, not there on ${answers.length - there} images?`)) return;
    const done = await (await api("/api/answers", { ...person(), answers })).json();
    state.facts.clear();
    await decidedNow(done.decided, `accepted: ${answers.length}`);
    refresh(-1);
  } catch (error) { problem(error); }
});

// ---- tabs, forms, start
export function show(tab) {
  for (const name of ["grid", "map"]) { $(name).hidden = name !== tab; $("tab-" + name).setAttribute("aria-selected", name === tab); }
  if (tab === "map") showMap(); else layOut();
}
for (const name of ["grid", "map"]) $("tab-" + name).addEventListener("click", () => show(name));
$("filters").addEventListener("change", () => select());
$("filters").addEventListener("reset", () => setTimeout(() => { Object.assign(state, { text: "", like: -1, region: null }); $("text").value = ""; select(); }));
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  Object.assign(state, { text: $("text").value.trim(), like: -1 });
  $("filters").elements.sort.value = "";
  show("grid");
  select();
});
addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey || viewIsOpen()) return;
  if (event.key === "/") { event.preventDefault(); $("text").focus(); }
  if (event.key === "r" && state.rows.length) openView(state.at);
  if (event.key === "u") undo();
});
for (const id of ["session", "who"]) $(id).addEventListener("change", () => {
  localStorage.setItem("ccd " + id, $(id).value);
  $("session-shown").textContent = person().session;
});
$("who-box").addEventListener("toggle", async () => {
  if (!$("who-box").open) return;
  try {
    const sessions = await (await api("/api/sessions")).json();
    $("sessions").replaceChildren(...sessions.map((each) => element("option", { value: each.name })));
    $("session-list").replaceChildren(...sessions.map((each) => element("li", {}, `${each.name}: ${each.answers} answers, ${each.who.join(", ")}, ${new Date(each.last).toLocaleString()}`)));
  } catch (error) { problem(error); }
});
async function start() {
  history.replaceState(null, "", "/");  // the token does not stay in the address bar
  state.project = await (await api("/api/project")).json();
  for (const name of state.project.classes) $("filters").elements.class.append(element("option", { value: name }, name));
  $("session").value = localStorage.getItem("ccd session") || "review";
  $("who").value = localStorage.getItem("ccd who") || state.project.person;
  $("session-shown").textContent = person().session;
  $("filters").elements.disagree.disabled = !(state.project.has ?? []).some((name) => name === "pseudo_labels" || name === "predictions");
  foot();
  if (state.project.error) { problem(new Error(state.project.error)); $("count").textContent = ""; return; }
  if (state.project.notes.length) problem(new Error(state.project.notes.join("; ")));
  await select();
  $("grid").focus({ preventScroll: true });
}
start().catch(problem);
