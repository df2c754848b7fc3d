// Runs once for a board; its HTML is replaced in place by the server, so listeners sit on the element itself.
let view = "side";
const cursors = new WeakMap(); // map -> [row, column]
const said = new WeakMap(); // prompt -> word
const folded = new WeakSet(); // prompts that the reader closed
const all = (selector) => Array.from(element.querySelectorAll(selector));
const one = (selector) => element.querySelector(selector);

function within(edges, place) {
  for (let i = 0; i + 1 < edges.length; i++) if (place >= edges[i] && place < edges[i + 1]) return i;
  return -1;
}

function readable(number) {
  const size = Math.abs(number);
  return size !== 0 && (size < 0.001 || size >= 10000) ? number.toExponential(2) : String(Number(number.toPrecision(3)));
}

function point(map, row, col) {
  const x = JSON.parse(map.dataset.x), y = JSON.parse(map.dataset.y), values = JSON.parse(map.dataset.values);
  const cell = map.querySelector(".rv-cell"), read = map.nextElementSibling;
  if (row < 0 || col < 0) {
    cell.style.display = "none";
    read.textContent = "The model never saw this part of the picture.";
    return;
  }
  cursors.set(map, [row, col]);
  Object.assign(cell.style, {
    display: "block", left: `${x[col]}%`, top: `${y[row]}%`,
    width: `${x[col + 1] - x[col]}%`, height: `${y[row + 1] - y[row]}%`,
  });
  const value = values[row * Number(map.dataset.cols) + col];
  if (value === null) {
    read.textContent = `Row ${row + 1}, column ${col + 1}: not a number`;
    return;
  }
  const rank = 1 + values.filter((other) => other !== null && other > value).length;
  read.textContent = `Row ${row + 1}, column ${col + 1}: ${readable(value)}, number ${rank} of ${values.length}`;
}

function pointAt(map, event) {
  const box = map.getBoundingClientRect();
  const x = (100 * (event.clientX - box.left)) / box.width, y = (100 * (event.clientY - box.top)) / box.height;
  point(map, within(JSON.parse(map.dataset.y), y), within(JSON.parse(map.dataset.x), x));
}

function say(word) {
  const prompt = word.closest("details"), read = prompt.querySelector(".rv-read");
  said.set(prompt, word);
  prompt.querySelectorAll(".rv-word").forEach((other) => (other.tabIndex = other === word ? 0 : -1));
  read.textContent = `“${word.textContent}”: ${readable(Number(word.dataset.value))}, ${word.dataset.share} of all`;
}

function step(words, from, by) {
  words[Math.min(words.length - 1, Math.max(0, words.indexOf(from) + by))].focus();
}

function show() {
  all("[data-view]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === view)));
  const slide = one(".rv-slide");
  if (!slide) return;
  slide.hidden = view !== "slide";
  one(".rv-cards").classList.toggle("rv-slid", view === "slide");
  all(".rv-soon img").forEach((image) => (image.src = one(".rv-plain").src));
  const pictures = [one(".rv-plain"), ...all(".rv-map img")].map((image) => image.src);
  one(".rv-over").src = pictures[Number(one(".rv-left").value)] || pictures[0]; // a map may still be to come
  one(".rv-under").src = pictures[Number(one(".rv-right").value)] || pictures[0];
  const at = one(".rv-range").value;
  one(".rv-over").style.clipPath = `inset(0 ${100 - at}% 0 0)`;
  one(".rv-line").style.left = `${at}%`;
}

element.addEventListener("click", (event) => {
  const chip = event.target.closest("button.rv-chip"), button = event.target.closest("[data-view]");
  const word = event.target.closest(".rv-word");
  if (chip) trigger("select", { index: [Number(chip.dataset.model), Number(chip.dataset.position)], value: chip.textContent });
  if (button) { view = button.dataset.view; show(); }
  if (word) say(word);
});
element.addEventListener("pointermove", (event) => {
  const map = event.target.closest(".rv-map");
  if (map && event.pointerType === "mouse") pointAt(map, event);
});
element.addEventListener("pointerdown", (event) => {
  const map = event.target.closest(".rv-map");
  if (map) pointAt(map, event);
});
element.addEventListener("focusin", (event) => {
  if (event.target.matches(".rv-word")) say(event.target);
});
element.addEventListener("keydown", (event) => {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!moves) return;
  const map = event.target.closest(".rv-map"), word = event.target.closest(".rv-word");
  if (map) {
    const rows = JSON.parse(map.dataset.y).length - 1, cols = Number(map.dataset.cols);
    const [row, col] = cursors.get(map) || [0, 0], fresh = !cursors.has(map);
    const next = fresh ? [0, 0] : [row + moves[0], col + moves[1]];
    point(map, Math.min(rows - 1, Math.max(0, next[0])), Math.min(cols - 1, Math.max(0, next[1])));
    event.preventDefault();
  } else if (word) {
    step(Array.from(word.closest(".rv-words").querySelectorAll(".rv-word")), word, moves[0] + moves[1]);
    event.preventDefault();
  }
});
element.addEventListener("input", (event) => {
  if (event.target.matches(".rv-range, .rv-left, .rv-right")) show();
});
element.addEventListener("toggle", (event) => {
  if (event.target.open) folded.delete(event.target);
  else folded.add(event.target);
}, true);
watch("value", () => {
  show();
  all(".rv-prompt").forEach((prompt) => {
    if (folded.has(prompt)) prompt.open = false;
    if (prompt.contains(said.get(prompt))) say(said.get(prompt));
  });
  all(".rv-map").forEach((map) => {
    const [row, col] = cursors.get(map) || [];
    if (row === undefined) return;
    if (row < JSON.parse(map.dataset.y).length - 1 && col < Number(map.dataset.cols)) point(map, row, col);
    else cursors.delete(map);
  });
});
