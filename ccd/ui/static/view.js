// One image: its photo with the boxes, its story, and the answers about it.
import { decidedNow, filters, goTo, person, refresh, similarTo, undo } from "/static/app.js";
import { $, api, element, problem, state } from "/static/common.js";

let story = null, chosen = "", order = [], busy = Promise.resolve();
// Keys may come faster than the server answers: each act waits for the one before it.
const queue = (act) => { busy = busy.then(act).catch(problem); };
export const viewIsOpen = () => $("view").open;

export async function openView(place) {
  goTo(place);
  if (!$("view").open) $("view").showModal();
  await load();
}
async function load(keepClass = "") {
  const row = state.rows[state.at];
  try { story = await (await api("/api/story?row=" + row)).json(); } catch (error) { problem(error); $("view-title").textContent = error.message; return; }
  if (row !== state.rows[state.at]) return;
  $("view-title").textContent = `${story.image_id} · ${story.split} · ${story.width_px} × ${story.height_px} px · ${(state.at + 1).toLocaleString("en")} of ${state.rows.length.toLocaleString("en")}`;
  if ($("photo").dataset.row !== String(row)) { $("photo").dataset.row = row; $("photo").src = "/photo/" + row; }
  $("photo").alt = story.image_id;
  fit();
  const names = Object.keys(story.steps), value = (name) => story.steps[name].label ?? 0;
  order = [...new Set([...story.asked, ...names.sort((one, two) => value(two) - value(one))])];
  const filter = filters().class;
  chosen = keepClass && order.includes(keepClass) ? keepClass : filter || order[0];
  drawBoxes();
  drawClasses();
  $("story").textContent = JSON.stringify({ ...story, steps: undefined, asked: undefined, row: undefined }, null, 1);
}
function fit() {
  $("photo-frame").style.aspectRatio = `${story.width_px} / ${story.height_px}`;
  $("photo-frame").style.setProperty("--ratio", story.width_px / story.height_px);
}
function drawBoxes() {
  const shown = $("boxes").getAttribute("aria-pressed") === "true";
  const won = new Set(Object.values(story.classes).filter((each) => (each.label ?? 0) >= 0.5).map((each) => each.box_id));
  const asking = story.views.filter((view) => view.asked_by || won.has(view.box_id));
  $("overlay").replaceChildren(...(shown ? asking : []).map((view) => {
    const best = Object.entries(view.local_labels).sort((one, two) => two[1] - one[1])[0];
    const name = view.asked_by ?? best[0], value = view.local_labels[name];
    const box = element("div", { className: "box" + (won.has(view.box_id) ? " won" : "") + (name === chosen ? " chosen" : "") }, element("em", {}, `${name} ${value.toFixed(2)}`));
    const x = 100 / story.width_px, y = 100 / story.height_px;
    box.style.cssText = `left:${view.x0_px * x}%;top:${view.y0_px * y}%;width:${(view.x1_px - view.x0_px) * x}%;height:${(view.y1_px - view.y0_px) * y}%`;
    return box;
  }));
  const tiles = story.views.length - asking.length;
  $("box-note").textContent = story.views.length ? `${asking.length} views drawn; orange: won a label. The number is the local label that CLIP gives to the view.${tiles ? ` ${tiles} tiles that won nothing are left out.` : ""}` : "No local views of this image.";
}
const number = (value) => value === null || value === undefined ? "–" : value.toFixed(2);
function drawClasses() {
  const train = story.split === "train";
  $("classes").tBodies[0].replaceChildren(...order.map((name) => {
    const steps = story.steps[name], decided = story.decided[name];
    const cells = ["clip", "views", "student", "label"].map((step) => {
      const cell = element("td", {}, number(steps[step]));
      cell.style.setProperty("--value", steps[step] ?? 0);
      return cell;
    });
    const buttons = [["yes", 1], ["no", 0]].map(([text, label]) => {
      const button = element("button", { type: "button", className: "mini", disabled: !train, tabIndex: -1 }, text);
      button.setAttribute("aria-pressed", decided === label);
      button.setAttribute("aria-label", `${name}: ${text}`);
      button.addEventListener("click", () => { queue(() => { chosen = name; return save([{ name, label: decided === label ? null : label }], false); }); });
      return button;
    });
    const head = element("th", { scope: "row" }, name);
    if (story.asked.includes(name)) head.classList.add("asked");
    const line = element("tr", { className: name === chosen ? "chosen" : "" }, head, ...cells, element("td", { className: "buttons" }, ...buttons));
    line.addEventListener("click", (event) => { if (event.target.tagName !== "BUTTON") { chosen = name; drawClasses(); drawBoxes(); } });
    return line;
  }));
  $("question").replaceChildren(...(train ? ["Is there ", element("b", {}, chosen), "?"] : ["A test image: answers are about training images alone."]));
  for (const id of ["yes", "no", "accept"]) $(id).disabled = !train;
  const line = $("classes").querySelector("tr.chosen");
  if (line) line.scrollIntoView({ block: "nearest" });
}
function move(step) {
  chosen = order[Math.max(0, Math.min(order.length - 1, order.indexOf(chosen) + step))];
  drawClasses();
  drawBoxes();
}
// After an answer: the next open question of this image, or the next image; with a class chosen, always the next image.
async function onward() {
  const open = order.slice(order.indexOf(chosen) + 1).find((name) => story.asked.includes(name) && !(name in story.decided));
  if (!filters().class && open) { chosen = open; drawClasses(); drawBoxes(); return; }
  await step(1);
}
async function step(by) {
  const place = state.at + by;
  if (place < 0 || place >= state.rows.length) { $("question").textContent = by > 0 ? "That was the last image." : "This is the first image."; return; }
  goTo(place);
  await load();
}
async function save(answers, goOn) {
  const about = story;
  try {
    const body = { ...person(), answers: answers.map(({ name, label }) => ({ image_id: about.image_id, class: name, label })) };
    const done = await (await api("/api/answers", body)).json();
    for (const { name, label } of answers) if (label === null) delete about.decided[name]; else about.decided[name] = label;
    problem(null);
    await decidedNow(done.decided);
    refresh(about.row);
    if (story !== about) return;
    drawClasses();
    if (goOn) await onward();
  } catch (error) { problem(error); $("question").textContent = error.message; }
}
const acts = {
  yes: () => story.split === "train" && save([{ name: chosen, label: 1 }], true),
  no: () => story.split === "train" && save([{ name: chosen, label: 0 }], true),
  skip: () => onward(),
  accept: async () => {
    const open = story.asked.filter((name) => !(name in story.decided));
    if (story.split === "train" && open.length) await save(open.map((name) => ({ name, label: story.steps[name].label >= 0.5 ? 1 : 0 })), false);
    await step(1);
  },
  undo: async () => {
    const done = await undo();
    if (!done) return;
    const place = done.rows.length ? state.rows.indexOf(done.rows[0]) : -1;
    if (place >= 0) goTo(place);  // back to the image whose answer was taken back, where it is shown
    await load(chosen);
  },
};
for (const [id, act] of [["yes", acts.yes], ["no", acts.no], ["skip", acts.skip], ["accept", acts.accept], ["undo-here", acts.undo]]) $(id).addEventListener("click", () => queue(act));
$("previous").addEventListener("click", () => queue(() => step(-1)));
$("next").addEventListener("click", () => queue(() => step(1)));
$("close").addEventListener("click", () => $("view").close());
$("similar").addEventListener("click", () => { $("view").close(); similarTo(story.row, story.image_id); });
$("boxes").addEventListener("click", () => { $("boxes").setAttribute("aria-pressed", $("boxes").getAttribute("aria-pressed") !== "true"); drawBoxes(); });
$("view").addEventListener("close", () => { if (!document.activeElement?.closest("input, select")) $("grid").focus({ preventScroll: true }); });
$("view").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !story) return;
  const keys = { y: acts.yes, n: acts.no, s: acts.skip, a: acts.accept, u: acts.undo, b: () => $("boxes").click(), ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1) };
  const act = keys[event.key];
  if (act) { event.preventDefault(); queue(act); }
});
