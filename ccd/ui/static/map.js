// The map: a point per image, coloured by class or doubt; a region of it becomes a filter of the grid.
import { select, show } from "/static/app.js";
import { $, api, element, problem, state } from "/static/common.js";

let points = null, frame = { x: 0.4, y: 0.4, side: 0.2 }, from = null, drag = null;
const hue = (place) => `hsl(${(place * 137.5) % 360} 62% 50%)`;

export async function showMap() {
  if (!points) {
    $("map-hint").textContent = "computing …";
    try {
      const buffer = await (await api("/api/map")).arrayBuffer(), count = state.project.images;
      points = { xy: new Float32Array(buffer, 0, 2 * count), label: new Int16Array(buffer, 8 * count, count), doubt: new Uint8Array(buffer, 10 * count, count), count };
    } catch (error) { problem(error); return; }
    $("map-hint").textContent = `${state.project.map} of CLIP's embeddings. Drag over a region, or focus the map: arrows move the frame, + and - change it, Enter shows it.`;
  }
  draw();
}
function draw() {
  const canvas = $("map-canvas"), scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d"), byClass = $("map-colour").value === "class";
  pen.scale(scale, scale);
  const size = points.count > 20000 ? 1.6 : points.count > 3000 ? 2.4 : points.count > 300 ? 4 : 8;
  const groups = byClass ? state.project.classes.map((_, place) => hue(place)) : [...Array(16).keys()].map((step) => `hsl(${210 - 12 * step} ${25 + 4 * step}% ${62 - step}%)`);
  pen.globalAlpha = 0.75;
  for (let group = 0; group < groups.length; group++) {
    pen.fillStyle = groups[group];
    for (let row = 0; row < points.count; row++) {
      if ((byClass ? points.label[row] : points.doubt[row] >> 4) !== group) continue;
      pen.fillRect(6 + points.xy[2 * row] * (width - 12) - size / 2, 6 + (1 - points.xy[2 * row + 1]) * (height - 12) - size / 2, size, size);
    }
  }
  pen.globalAlpha = 1;
  const box = drag ?? (document.activeElement === canvas ? [frame.x, frame.y, frame.x + frame.side, frame.y + frame.side] : null);
  if (box) {
    pen.strokeStyle = getComputedStyle(document.body).color;
    pen.lineWidth = 1.5;
    pen.strokeRect(6 + box[0] * (width - 12), 6 + (1 - box[3]) * (height - 12), (box[2] - box[0]) * (width - 12), (box[3] - box[1]) * (height - 12));
  }
  const legend = byClass ? state.project.classes.slice(0, 40).map((name, place) => [hue(place), name]) : [[groups[0], "no doubt"], [groups[8], "some"], [groups[15], "much doubt"]];
  $("map-legend").replaceChildren(...legend.map(([colour, name]) => {
    const mark = element("i");
    mark.style.background = colour;
    return element("span", {}, mark, name);
  }));
}
function place(event) {
  const box = $("map-canvas").getBoundingClientRect(), limit = (value) => Math.max(0, Math.min(1, value));
  return [limit((event.clientX - box.left - 6) / (box.width - 12)), limit(1 - (event.clientY - box.top - 6) / (box.height - 12))];
}
function choose(box) {
  state.region = box;
  drag = null;
  show("grid");
  select();
  $("grid").focus({ preventScroll: true });
}
const canvas = $("map-canvas");
canvas.addEventListener("pointerdown", (event) => { from = place(event); canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", (event) => {
  if (!from) return;
  const [x, y] = place(event);
  drag = [Math.min(x, from[0]), Math.min(y, from[1]), Math.max(x, from[0]), Math.max(y, from[1])];
  draw();
});
canvas.addEventListener("pointerup", () => {
  from = null;
  if (drag && drag[2] - drag[0] > 0.005 && drag[3] - drag[1] > 0.005) choose(drag);
  else { drag = null; draw(); }
});
canvas.addEventListener("keydown", (event) => {
  const moves = { ArrowRight: [0.03, 0, 0], ArrowLeft: [-0.03, 0, 0], ArrowUp: [0, 0.03, 0], ArrowDown: [0, -0.03, 0], "+": [-0.02, -0.02, 0.04], "-": [0.02, 0.02, -0.04] };
  if (event.key === "Enter") { choose([frame.x, frame.y, frame.x + frame.side, frame.y + frame.side]); return; }
  const by = moves[event.key];
  if (!by) return;
  event.preventDefault();
  frame = { x: Math.max(-0.1, Math.min(1, frame.x + by[0])), y: Math.max(-0.1, Math.min(1, frame.y + by[1])), side: Math.max(0.04, Math.min(1.2, frame.side + by[2])) };
  draw();
});
for (const kind of ["focus", "blur"]) canvas.addEventListener(kind, () => { if (points) draw(); });
$("map-colour").addEventListener("change", draw);
addEventListener("resize", () => { if (points && !$("map").hidden) draw(); });
