// Runs once; a rectangle in percent of the picture, drawn with a pointer or typed.
const sides = ["left", "top", "right", "bottom"];
const field = (side) => element.querySelector(`[data-side="${side}"]`);
const box = () => sides.map((side) => Number(field(side).value));

function draw() {
  const rect = element.querySelector(".rv-rect");
  if (!rect) return;
  const [left, top, right, bottom] = box();
  Object.assign(rect.style, {
    left: `${left}%`, top: `${top}%`, width: `${Math.max(0, right - left)}%`, height: `${Math.max(0, bottom - top)}%`,
  });
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

let start = null;
element.addEventListener("pointerdown", (event) => {
  const canvas = event.target.closest(".rv-canvas");
  if (!canvas) return;
  start = place(canvas, event);
  canvas.setPointerCapture(event.pointerId);
  event.preventDefault();
});
element.addEventListener("pointermove", (event) => {
  const canvas = event.target.closest(".rv-canvas");
  if (!start || !canvas) return;
  const [x, y] = place(canvas, event);
  set([Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)]);
});
["pointerup", "pointercancel"].forEach((name) => element.addEventListener(name, () => (start = null)));
element.addEventListener("input", draw);
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-part]");
  if (button) trigger("submit", { part: button.dataset.part, box: box() });
});
watch("value", draw);
