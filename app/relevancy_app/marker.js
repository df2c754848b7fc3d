// Runs once; a part of the picture: a rectangle in percent, drawn with a pointer or typed, or patches, pressed one by one.
const sides = ["left", "top", "right", "bottom"];
let mode = "drawn"; // or "patches"
let marked = new Set(); // patches, row by row, of the grid that is chosen
let cursor = 0; // the patch that the keyboard is at
const one = (selector) => element.querySelector(selector);
const field = (side) => one(`[data-side="${side}"]`);
const box = () => sides.map((side) => Number(field(side).value));

// The grid whose patches are pressed: whose it is, and where its columns and rows begin and end, in percent.
function grid() {
  const grids = JSON.parse(one(".rv-marker").dataset.grids), chosen = one(".rv-whose");
  return grids[chosen ? chosen.selectedIndex : 0];
}

function cell({ x, y }, patch) {
  const cols = x.length - 1, col = patch % cols, row = Math.floor(patch / cols);
  return `M${x[col]} ${y[row]}H${x[col + 1]}V${y[row + 1]}H${x[col]}Z`;
}

function draw() {
  if (!one(".rv-marker")) return;
  const [left, top, right, bottom] = box(), known = grid(), patches = mode === "patches";
  Object.assign(one(".rv-rect").style, {
    left: `${left}%`, top: `${top}%`, width: `${Math.max(0, right - left)}%`, height: `${Math.max(0, bottom - top)}%`,
    display: patches ? "none" : "block",
  });
  element.querySelectorAll("[data-mode]").forEach((button) =>
    button.setAttribute("aria-pressed", String(button.dataset.mode === mode)));
  element.querySelectorAll("[data-for]").forEach((part) => (part.hidden = part.dataset.for !== mode));
  const count = (known.x.length - 1) * (known.y.length - 1), canvas = one(".rv-canvas");
  canvas.tabIndex = patches ? 0 : -1;
  one(".rv-lines-of").setAttribute("d", patches ? Array.from({ length: count }, (_, i) => cell(known, i)).join("") : "");
  one(".rv-marks-of").setAttribute("d", patches ? Array.from(marked, (patch) => cell(known, patch)).join("") : "");
  one(".rv-cursor").setAttribute("d", patches && canvas.matches(":focus") ? cell(known, cursor) : "");
  one("[data-count]").textContent = `${marked.size} of ${count} patches marked.`;
  one('[data-part="patches"]').disabled = !marked.size;
}

function set(values) {
  sides.forEach((side, i) => (field(side).value = Math.round(values[i])));
  draw();
}

function place(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const clipped = (share) => Math.min(100, Math.max(0, 100 * share));
  return [clipped((event.clientX - box.left) / box.width), clipped((event.clientY - box.top) / box.height)];
}

// The patch at a place; undefined where the model never looked.
function patch([left, top]) {
  const { x, y } = grid(), within = (edges, at) => edges.findIndex((edge, i) => edge <= at && at < edges[i + 1]);
  const col = within(x, left), row = within(y, top);
  return col < 0 || row < 0 ? undefined : row * (x.length - 1) + col;
}

function mark(at, on) {
  if (at === undefined || marked.has(at) === on) return;
  if (on) marked.add(at);
  else marked.delete(at);
  draw();
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
function move([down, right]) {
  const { x, y } = grid(), cols = x.length - 1, rows = y.length - 1;
  const row = Math.min(rows - 1, Math.max(0, Math.floor(cursor / cols) + down));
  cursor = row * cols + Math.min(cols - 1, Math.max(0, (cursor % cols) + right));
  draw();
}

let start = null, on = null; // where a rectangle begins; whether a stroke marks patches or takes marks off
element.addEventListener("pointerdown", (event) => {
  const canvas = event.target.closest(".rv-canvas");
  if (!canvas) return;
  const at = place(canvas, event);
  if (mode === "patches") {
    canvas.focus({ preventScroll: true });
    cursor = patch(at) ?? cursor;
    on = !marked.has(patch(at));
    mark(patch(at), on);
  } else start = at;
  canvas.setPointerCapture(event.pointerId);
  event.preventDefault();
});
element.addEventListener("pointermove", (event) => {
  const canvas = event.target.closest(".rv-canvas");
  if (!canvas) return;
  const [x, y] = place(canvas, event);
  if (on !== null) mark(patch([x, y]), on);
  if (start) set([Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)]);
});
["pointerup", "pointercancel"].forEach((name) => element.addEventListener(name, () => (start = on = null)));
element.addEventListener("keydown", (event) => {
  if (!event.target.matches(".rv-canvas") || mode !== "patches") return;
  if (MOVES[event.key]) move(MOVES[event.key]);
  else if (event.key === " " || event.key === "Enter") mark(cursor, !marked.has(cursor));
  else return;
  event.preventDefault();
});
["focusin", "focusout", "input"].forEach((name) => element.addEventListener(name, draw));
element.addEventListener("change", (event) => {
  if (event.target.matches(".rv-whose")) { marked = new Set(); cursor = 0; draw(); }
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { part, mode: wanted } = button.dataset;
  if (part) trigger("submit", { part, box: box(), patches: Array.from(marked), of: grid().of });
  if (wanted) mode = wanted;
  if ("unmark" in button.dataset) marked = new Set();
  draw();
});
watch("value", () => {
  marked = new Set();
  cursor = 0;
  draw();
});
