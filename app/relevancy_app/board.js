// Runs once for a board; its HTML is replaced in place by the server, so listeners sit on the element itself.
// Colors are made here, from the numbers in the HTML: changing them asks the server for nothing.
let view = "side";
let spot = null; // where the cursor is, in percent of the picture; all maps of it share it
let pointed = 0; // the number of that picture
let zoom = { size: 1, x: 50, y: 50 }; // how much larger, and the place in percent that is in the middle
let held = null; // where a drag began
const said = new WeakMap(); // prompt -> word
const folded = new WeakSet(); // prompts that the reader closed
const parsed = new WeakMap(); // map -> its numbers
const fields = new WeakMap(); // map -> what it draws, by patches or smooth
const all = (selector) => Array.from(element.querySelectorAll(selector));
const one = (selector) => element.querySelector(selector);
const LEAST_SIDE = 640, MOST_SIDE = 1600, NEGLIGIBLE = 0.05, DIM = 0.1, LARGEST_ZOOM = 16, LOG = 999, THUMB = 160;
const given = document.getElementById("rv-tables").dataset; // color tables, and how maps are drawn at first
const FIRST = JSON.parse(given.first);
const numberOf = (map) => Number(map.dataset.picture); // which of the pictures it is of
const display = () => window.rvDisplay || FIRST;

// -- numbers

function within(edges, place) {
  for (let i = 0; i + 1 < edges.length; i++) if (place >= edges[i] && place < edges[i + 1]) return i;
  return -1;
}

function readable(number) {
  const size = Math.abs(number);
  return size !== 0 && (size < 0.001 || size >= 10000) ? number.toExponential(2) : String(Number(number.toPrecision(3)));
}

// As plotting.overlay.value_range: zero and the largest value, or both sides of zero alike.
function ends(list) {
  const low = Math.min(0, ...list.map((pair) => pair[0])), high = Math.max(0, ...list.map((pair) => pair[1]));
  const size = Math.max(-low, high);
  return -low > NEGLIGIBLE * size ? [-size, size] : [0, high];
}

const tables = {};
function table(low) {
  const name = low < 0 && display().colormap === "inferno" ? "signed" : display().colormap;
  if (!tables[name]) {
    const stored = JSON.parse(given.tables)[name];
    tables[name] = Uint8Array.from(atob(stored), (letter) => letter.charCodeAt(0));
  }
  return tables[name];
}

function colorOf(value, [low, high]) {
  const colors = table(low), last = colors.length / 3 - 1;
  const share = high > low && Number.isFinite(value) ? (value - low) / (high - low) : low < 0 ? 0.5 : 0;
  const at = 3 * Math.round(Math.min(1, Math.max(0, share)) * last);
  return [colors[at], colors[at + 1], colors[at + 2]];
}

// Black or white, whichever has more contrast with the color (WCAG's relative luminance).
function ink(color) {
  const [red, green, blue] = color.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

// -- drawing; the same equations as geometry.Grid.heatmap and plotting.overlay.overlay

// For each pixel of one side: the two cells it lies between, the second one's part, and whether the model saw it.
function between(edges, length, smooth) {
  const cells = edges.length - 1, first = new Int32Array(length), part = new Float32Array(length);
  const seen = new Uint8Array(length), pixel = 100 / length;
  for (let i = 0; i < length; i++) {
    const center = (i + 0.5) * pixel;
    seen[i] = (i + 1) * pixel - edges[0] > 1e-9 && edges[cells] - i * pixel > 1e-9 ? 1 : 0;
    if (!smooth) {
      const cell = within(edges, center);
      first[i] = cell >= 0 ? cell : center < edges[0] ? 0 : cells - 1;
      continue;
    }
    let cell = 0;
    while (cell + 1 < cells && (edges[cell + 1] + edges[cell + 2]) / 2 <= center) cell++;
    const here = (edges[cell] + edges[cell + 1]) / 2;
    first[i] = cell;
    if (center > here && cell + 1 < cells) part[i] = (center - here) / ((edges[cell + 1] + edges[cell + 2]) / 2 - here);
  }
  return { first, part, seen };
}

// What a map's HTML holds, read once: values by patches, NaN for what is no number, and where the patches lie.
function numbers(map) {
  const { cols, values: of, x, y } = map.dataset, known = parsed.get(map);
  if (known && known.of === of) return known;
  const values = JSON.parse(of).map((value) => (value === null ? NaN : value));
  const ordered = values.filter((value) => !Number.isNaN(value)).sort((a, b) => b - a);
  parsed.set(map, { of, cols: Number(cols), values, ordered, x: JSON.parse(x), y: JSON.parse(y) });
  return parsed.get(map);
}

// One number for each pixel of a map; NaN where the model never looked.
function field(map, width, height) {
  const smooth = display().smooth, known = fields.get(map), { cols, values, x: columns, y: rows } = numbers(map);
  if (known && known.of === values && known.smooth === smooth && known.width === width && known.height === height)
    return known;
  const empty = map.querySelector(".rv-empty");
  const across = between(columns, width, smooth), down = between(rows, height, smooth);
  const pixels = new Float32Array(width * height);
  let low = 0, high = 0;
  for (let y = 0; y < height; y++) {
    const top = down.first[y] * cols, bottom = down.part[y] ? top + cols : top, below = down.part[y];
    for (let x = 0; x < width; x++) {
      const left = across.first[x], right = across.part[x] ? left + 1 : left, beside = across.part[x];
      const upper = values[top + left] + beside * (values[top + right] - values[top + left]);
      const lower = values[bottom + left] + beside * (values[bottom + right] - values[bottom + left]);
      const value = upper + below * (lower - upper);
      pixels[y * width + x] = across.seen[x] && down.seen[y] ? value : NaN;
      if (!empty && across.seen[x] && down.seen[y]) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
  }
  const made = { of: values, smooth, width, height, pixels, range: [low, high], empty: Boolean(empty) };
  fields.set(map, made);
  return made;
}

// Pixels of a map: the picture's own, and so many more that each of the screen's has one of its own.
function size(picture) {
  const shown = Math.max(0, ...all(".rv-map, .rv-stage").map((map) => Math.max(map.clientWidth, map.clientHeight)));
  const wanted = Math.min(MOST_SIDE, Math.max(LEAST_SIDE, shown * window.devicePixelRatio));
  const grown = Math.max(1, wanted / Math.max(picture.naturalWidth, picture.naturalHeight));
  return [Math.max(1, Math.round(picture.naturalWidth * grown)), Math.max(1, Math.round(picture.naturalHeight * grown))];
}

function draw(map, picture, [width, height], scale) {
  const canvas = map.querySelector("canvas"), brush = canvas.getContext("2d", { willReadFrequently: true });
  canvas.width = width;
  canvas.height = height;
  brush.imageSmoothingQuality = "high";
  brush.drawImage(picture, 0, 0, width, height);
  const drawn = brush.getImageData(0, 0, width, height), rgb = drawn.data, made = field(map, width, height);
  const [low, high] = scale, plain = made.empty || high <= low || (made.range[0] === 0 && made.range[1] === 0);
  const colors = table(low), last = colors.length / 3 - 1, { opacity, log, threshold } = display();
  const period = Math.max(4, Math.floor(Math.min(width, height) / 32)), line = Math.max(1, Math.floor(period / 6));
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++, at += 4) {
      const value = made.pixels[at / 4];
      const gray = 0.299 * rgb[at] + 0.587 * rgb[at + 1] + 0.114 * rgb[at + 2];
      if (Number.isNaN(value)) {
        const shade = 0.22 * gray + 255 * (0.68 - ((x + y) % period < line ? 0.16 : 0));
        rgb[at] = rgb[at + 1] = rgb[at + 2] = shade;
      } else if (!plain) {
        let strength = Math.min(1, Math.max(0, (value - low) / (high - low)));
        let sized = low < 0 ? Math.abs(2 * strength - 1) : strength;
        const hidden = sized < threshold;
        if (log) {
          sized = Math.log1p(LOG * sized) / Math.log1p(LOG);
          strength = low < 0 ? (1 + Math.sign(strength - 0.5) * sized) / 2 : sized;
        }
        const alpha = hidden ? 0 : opacity * sized * (2 - sized);
        const color = 3 * Math.round(strength * last);
        for (let part = 0; part < 3; part++) {
          const dimmed = (gray + 0.3 * (rgb[at + part] - gray)) * 0.8;
          rgb[at + part] = dimmed + alpha * (colors[color + part] - dimmed);
        }
      }
    }
  brush.putImageData(drawn, 0, 0);
}

function bar(place, scale) {
  const log = display().log && place.dataset.scale === "map";
  if (scale[1] <= scale[0]) {
    place.textContent = `${place.dataset.label}: nothing to draw`;
    return;
  }
  const steps = Array.from({ length: 25 }, (_, i) => colorOf(scale[0] + (i / 24) * (scale[1] - scale[0]), scale));
  const gradient = document.createElement("span");
  gradient.className = "rv-gradient";
  gradient.style.background = `linear-gradient(to right, ${steps.map((color) => `rgb(${color})`).join()})`;
  const [label, low, high] = [place.dataset.label, readable(scale[0]), readable(scale[1])].map((text, i) => {
    const span = document.createElement("span");
    span.textContent = i || !log ? text : `${text}, log`;
    if (i) span.className = "rv-end";
    return span;
  });
  place.replaceChildren(label, low, gradient, high);
}

function color(prompt, scale) {
  const paper = prompt.querySelector(".rv-words"), ground = colorOf(0, scale);
  Object.assign(paper.style, { background: `rgb(${ground})`, color: ink(ground) });
  paper.querySelectorAll(".rv-word").forEach((word) => {
    const own = colorOf(Number(word.dataset.value), scale);
    Object.assign(word.style, { background: `rgb(${own})`, color: ink(own) });
  });
}

// The picture with what was knocked out of it, beside what became of the answer.
function thumb(button, picture) {
  const canvas = button.querySelector("canvas"), brush = canvas.getContext("2d");
  const { x, y, cols } = numbers(button.closest(".rv-body").querySelector(".rv-map"));
  const scale = THUMB / Math.max(picture.naturalWidth, picture.naturalHeight);
  canvas.width = Math.max(1, Math.round(scale * picture.naturalWidth));
  canvas.height = Math.max(1, Math.round(scale * picture.naturalHeight));
  const [across, down] = [canvas.width / 100, canvas.height / 100];
  brush.drawImage(picture, 0, 0, canvas.width, canvas.height);
  brush.fillStyle = "rgb(112, 112, 120)";
  JSON.parse(button.dataset.cells).forEach((cell) => {
    const col = cell % cols, row = Math.floor(cell / cols);
    brush.fillRect(x[col] * across, y[row] * down, (x[col + 1] - x[col]) * across, (y[row + 1] - y[row]) * down);
  });
}

// Outlines what was knocked out on the map itself; once more, and it is gone.
function outline(button) {
  const body = button.closest(".rv-body"), map = body.querySelector(".rv-map"), { x, y, cols } = numbers(map);
  const on = button.getAttribute("aria-pressed") !== "true";
  body.querySelectorAll(".rv-area").forEach((other) => other.setAttribute("aria-pressed", String(on && other === button)));
  map.querySelector("path").setAttribute("d", (on ? JSON.parse(button.dataset.cells) : []).map((cell) => {
    const col = cell % cols, row = Math.floor(cell / cols);
    return `M${x[col]} ${y[row]}H${x[col + 1]}V${y[row + 1]}H${x[col]}Z`;
  }).join(""));
}

async function paint() {
  const pictures = all(".rv-plain");
  if (!pictures.length) return;
  try {
    await Promise.all(pictures.map((picture) => picture.decode()));
  } catch {
    return; // replaced by the next board
  }
  if (pictures[0] !== one(".rv-plain")) return;
  const shared = display().one_scale && !("own" in element.firstElementChild.dataset), sides = pictures.map(size);
  const cards = all(".rv-card:not(.rv-place)").map((card) => {
    const own = Array.from(card.querySelectorAll(".rv-map")), prompt = card.querySelector(".rv-prompt");
    const ranges = own.map((map) => field(map, ...sides[numberOf(map)]).range);
    const range = [Math.min(...ranges.map((each) => each[0])), Math.max(...ranges.map((each) => each[1]))];
    return { card, own, prompt, range, words: prompt ? JSON.parse(prompt.dataset.ends) : [0, 0] };
  });
  const maps = ends(cards.map((each) => each.range)), words = ends(cards.map((each) => each.words));
  cards.forEach(({ card, own, prompt, range, words: spoken }) => {
    const scale = shared ? maps : ends([range]), wordScale = shared ? words : ends([spoken]);
    own.forEach((map) => draw(map, pictures[numberOf(map)], sides[numberOf(map)], scale));
    card.querySelectorAll("[data-scale]").forEach((place) => bar(place, place.dataset.scale === "map" ? scale : wordScale));
    card.querySelector('[data-scale="map"]').hidden = shared;
    if (!prompt) return; // of many small maps: nothing but the map
    color(prompt, wordScale);
    const peak = Math.max(-range[0], range[1]), dim = card.querySelector(".rv-dim"), part = peak / maps[1];
    dim.hidden = !(shared && peak > 0 && part < DIM);
    dim.textContent = `Dark beside the others: its peak is ${Number((100 * part).toPrecision(2))}% of the highest. Turn “One scale” off to see it.`;
  });
  all(".rv-area").forEach((button) => thumb(button, pictures[0]));
  all("[data-shared]").forEach((place) => {
    place.hidden = !shared;
    bar(place, maps);
  });
  element.firstElementChild.dataset.drawn = String(1 + Number(element.firstElementChild.dataset.drawn || 0));
  show();
}

let asked = false;
function repaint() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; paint(); });
}

// -- pointing

// Row and column of a map's patch at a place in percent; undefined where the model never looked.
function patch(map, [x, y]) {
  const known = numbers(map), row = within(known.y, y), col = within(known.x, x);
  return row < 0 || col < 0 ? undefined : [row, col];
}

function middle(map, row, col) {
  const { x, y } = numbers(map);
  const inside = (edges, i) => (Math.max(0, edges[i]) + Math.min(100, edges[i + 1])) / 2;
  return [inside(x, col), inside(y, row)];
}

function tell(map, place, aloud) {
  const cell = map.querySelector(".rv-cell"), line = map.parentElement.querySelector(".rv-map ~ .rv-read");
  const found = patch(map, place);
  line.setAttribute("aria-live", aloud ? "polite" : "off");
  if (!found) {
    cell.style.display = "none";
    line.textContent = "The model never saw this part of the picture.";
    return;
  }
  const { cols, values, x, y, ordered } = numbers(map), [row, col] = found, value = values[row * cols + col];
  Object.assign(cell.style, {
    display: "block", left: `${x[col]}%`, top: `${y[row]}%`,
    width: `${x[col + 1] - x[col]}%`, height: `${y[row + 1] - y[row]}%`,
  });
  const rank = 1 + ordered.indexOf(value);
  line.textContent = Number.isNaN(value) ? `Row ${row}, column ${col}: not a number`
    : `Row ${row}, column ${col}: ${readable(value)}, rank ${rank} of ${values.length}`;
}

function point(place, from) {
  spot = place;
  if (from) pointed = numberOf(from);
  all(`.rv-map[data-picture="${pointed}"]`).forEach((map) => tell(map, place, map === from));
}

function pointAt(map, event) {
  const box = map.querySelector(".rv-layer").getBoundingClientRect();
  point([(100 * (event.clientX - box.left)) / box.width, (100 * (event.clientY - box.top)) / box.height], map);
}

function move(map, down, right) {
  const { cols, y } = numbers(map), rows = y.length - 1, here = spot && pointed === numberOf(map) && patch(map, spot);
  const [row, col] = here ? [here[0] + down, here[1] + right] : [0, 0];
  point(middle(map, Math.min(rows - 1, Math.max(0, row)), Math.min(cols - 1, Math.max(0, col))), map);
}

function peak(map, aloud) {
  const { values, cols, ordered } = numbers(map), best = values.indexOf(ordered[0]);
  if (best >= 0) tell(map, middle(map, Math.floor(best / cols), best % cols), aloud);
}

// -- zooming

function look() {
  const half = 50 / zoom.size;
  zoom.x = Math.min(100 - half, Math.max(half, zoom.x));
  zoom.y = Math.min(100 - half, Math.max(half, zoom.y));
  all(".rv-layer").forEach((layer) => {
    layer.style.transform = `scale(${zoom.size}) translate(${50 - zoom.x}%, ${50 - zoom.y}%)`;
  });
  all(".rv-map").forEach((map) => map.classList.toggle("rv-zoomed", zoom.size > 1));
}

function magnify(factor) {
  zoom.size = Math.min(LARGEST_ZOOM, Math.max(1, zoom.size * factor));
  if (spot && factor > 1) [zoom.x, zoom.y] = spot;
  look();
}

const TOOLS = {
  in: () => magnify(2),
  out: () => magnify(0.5),
  whole: () => { zoom = { size: 1, x: 50, y: 50 }; look(); },
  peak: () => all(".rv-map").forEach((map) => peak(map, false)),
};

// -- words, and two maps on top of each other

function say(word) {
  const prompt = word.closest("details"), read = prompt.querySelector(".rv-read");
  said.set(prompt, word);
  prompt.querySelectorAll(".rv-word").forEach((other) => (other.tabIndex = other === word ? 0 : -1));
  read.textContent = `“${word.textContent}”: ${readable(Number(word.dataset.value))}, ${word.dataset.share} of all`;
}

function step(words, from, by) {
  words[Math.min(words.length - 1, Math.max(0, words.indexOf(from) + by))].focus();
}

function copy(canvas, source) {
  canvas.width = source.naturalWidth || source.width;
  canvas.height = source.naturalHeight || source.height;
  canvas.getContext("2d").drawImage(source, 0, 0);
}

function show() {
  all("[data-view]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === view)));
  const slide = one(".rv-slide");
  if (!slide) return;
  slide.hidden = view !== "slide";
  one(".rv-cards").classList.toggle("rv-slid", view === "slide");
  all(".rv-place").forEach((place) => place.querySelectorAll("img").forEach((image, i) => (image.src = all(".rv-plain")[i].src)));
  if (slide.hidden) return;
  const which = Number(one(".rv-which")?.value || 0), plain = all(".rv-plain")[which];
  const pictures = [plain, ...all(`.rv-map[data-picture="${which}"] canvas`)];
  one(".rv-stage").style.setProperty("--rv-aspect", plain.naturalWidth / plain.naturalHeight);
  copy(one(".rv-over"), pictures[Number(one(".rv-left").value)] || pictures[0]); // a map may still be to come
  copy(one(".rv-under"), pictures[Number(one(".rv-right").value)] || pictures[0]);
  const at = one(".rv-range").value;
  one(".rv-over").style.clipPath = `inset(0 ${100 - at}% 0 0)`;
  one(".rv-line").style.left = `${at}%`;
}

// -- another token's map, while the pointer or the focus is on it

let own = new Map(); // card -> what stands there by itself
function preview(chip) {
  const card = chip.closest(".rv-card"), pressed = chip.getAttribute("aria-pressed") === "true";
  if (pressed) return unpreview(card);
  if (!chip.dataset.body) return expand(card, chip);
  if (!own.has(card)) own.set(card, card.querySelector(".rv-body"));
  card.querySelector(".rv-body").outerHTML = chip.dataset.body;
  turned(card, chip);
}

function unpreview(card) {
  if (!own.has(card)) return;
  card.querySelector(".rv-body").replaceWith(own.get(card));
  own.delete(card);
  turned(card, null);
}

function turned(card, chip) {
  card.querySelectorAll(".rv-chip").forEach((other) => other.classList.toggle("rv-looked-at", other === chip));
  if (spot) tell(card.querySelector(`.rv-map[data-picture="${pointed}"]`), spot, false);
  look();
  repaint();
}

// All tokens of the answer in one go; asked for once, when the reader stays at one of them.
let wanted = null;
function expand(card, chip) {
  clearTimeout(wanted);
  if (card.dataset.asked || !chip.closest("[data-expandable]") || element.querySelector(".rv-place")) return;
  wanted = setTimeout(() => {
    card.dataset.asked = "1";
    trigger("expand", { model: Number(chip.dataset.model) });
  }, 300);
}

function pick(button) {
  const { model, position, against } = button.dataset, chosen = button.getAttribute("aria-pressed") === "true";
  const other = against === undefined || chosen ? null : Number(against);
  clearTimeout(wanted);
  trigger("select", { index: [Number(model), Number(position), other], value: button.textContent });
}

// -- taking along

const blobs = (canvas) => new Promise((done) => canvas.toBlob(done, "image/png"));
// Several maps as one picture, side by side.
function joined(maps) {
  const whole = document.createElement("canvas"), brush = whole.getContext("2d");
  whole.width = maps.reduce((sum, map) => sum + map.width, 0);
  whole.height = Math.max(...maps.map((map) => map.height));
  maps.reduce((left, map) => { brush.drawImage(map, left, 0); return left + map.width; }, 0);
  return whole;
}

async function copyOut(button) {
  const maps = Array.from(button.closest(".rv-body").querySelectorAll(".rv-map canvas"));
  const canvas = joined(maps), label = button.textContent;
  try {
    if (button.dataset.python) await navigator.clipboard.writeText(button.dataset.python);
    else await navigator.clipboard.write([new ClipboardItem({ "image/png": await blobs(canvas) })]);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it here";
  }
  setTimeout(() => (button.textContent = label), 2000);
}

// -- what the reader does

element.addEventListener("click", (event) => {
  const chip = event.target.closest("button.rv-chip, .rv-other"), button = event.target.closest("[data-view]");
  const word = event.target.closest(".rv-word"), tool = event.target.closest("[data-tool]");
  const area = event.target.closest(".rv-area");
  if (chip) pick(chip);
  if (area) outline(area);
  if (button) { view = button.dataset.view; show(); }
  if (tool) TOOLS[tool.dataset.tool]();
  if (word) say(word);
  if (event.target.matches("[data-layer]"))
    trigger("submit", { layer: Number(event.target.dataset.layer), model: event.target.dataset.of });
  if (event.target.matches("[data-copy]")) copyOut(event.target);
  if (event.target.matches("[data-further]")) trigger("submit", { model: Number(event.target.dataset.further) });
});
element.addEventListener("pointermove", (event) => {
  const map = event.target.closest(".rv-map");
  if (held) {
    const box = held.map.getBoundingClientRect();
    zoom.x = held.x - (100 * (event.clientX - held.left)) / box.width / zoom.size;
    zoom.y = held.y - (100 * (event.clientY - held.top)) / box.height / zoom.size;
    look();
  } else if (map && event.pointerType === "mouse") pointAt(map, event);
});
element.addEventListener("pointerdown", (event) => {
  const map = event.target.closest(".rv-map");
  if (!map) return;
  pointAt(map, event);
  if (zoom.size > 1) {
    held = { map, left: event.clientX, top: event.clientY, x: zoom.x, y: zoom.y };
    map.setPointerCapture(event.pointerId);
  }
});
["pointerup", "pointercancel"].forEach((name) => element.addEventListener(name, () => (held = null)));
element.addEventListener("wheel", (event) => {
  const map = event.target.closest(".rv-map");
  if (!map || !event.ctrlKey) return; // a plain wheel scrolls the page
  event.preventDefault();
  pointAt(map, event);
  magnify(event.deltaY < 0 ? 1.25 : 0.8);
}, { passive: false });
element.addEventListener("focusin", (event) => {
  if (event.target.matches(".rv-word")) say(event.target);
  if (event.target.matches("button.rv-chip:focus-visible")) preview(event.target);
});
element.addEventListener("pointerover", (event) => {
  const chip = event.target.closest("button.rv-chip");
  if (chip && event.pointerType === "mouse") preview(chip);
});
element.addEventListener("pointerout", (event) => {
  const chip = event.target.closest("button.rv-chip");
  if (!chip || chip.contains(event.relatedTarget)) return;
  clearTimeout(wanted);
  if (event.pointerType === "mouse") unpreview(chip.closest(".rv-card"));
});
element.addEventListener("focusout", (event) => {
  const card = event.target.closest(".rv-card");
  if (event.target.matches("button.rv-chip") && card.isConnected) unpreview(card);
});
element.addEventListener("keydown", (event) => {
  const map = event.target.closest(".rv-map"), word = event.target.closest(".rv-word");
  const chip = event.target.closest("button.rv-chip");
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const tool = { "+": "in", "-": "out", 0: "whole" }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (map && moves) move(map, ...moves);
  else if (map && tool) TOOLS[tool]();
  else if (map && event.key.toLowerCase() === "p") peak(map, true);
  else if (chip && moves) step(Array.from(chip.parentElement.querySelectorAll("button.rv-chip")), chip, moves[0] + moves[1]);
  else if (word && moves) step(Array.from(word.closest(".rv-words").querySelectorAll(".rv-word")), word, moves[0] + moves[1]);
  else return;
  event.preventDefault();
});
element.addEventListener("input", (event) => {
  if (event.target.matches(".rv-range, .rv-left, .rv-right, .rv-which")) show();
});
element.addEventListener("toggle", (event) => {
  if (event.target.open) folded.delete(event.target);
  else folded.add(event.target);
}, true);
["rv-display", "resize"].forEach((name) => window.addEventListener(name, repaint));
["wheel", "touchmove"].forEach((name) => window.addEventListener(name, () => (window.rvAwaited = false), { passive: true }));

function fresh() {
  own = new Map();
  paint();
  look();
  all(".rv-prompt").forEach((prompt) => {
    if (folded.has(prompt)) prompt.open = false;
    if (prompt.contains(said.get(prompt))) say(said.get(prompt));
  });
  if (spot) point(spot, null);
  const chip = one("button.rv-chip:hover, button.rv-chip:focus-visible");
  if (chip) preview(chip);
  if (window.rvAwaited && element.closest("#rv-board") && one(".rv-map")) {
    window.rvAwaited = false; // by now the page is long enough
    document.getElementById("rv-results").scrollIntoView({ block: "start" });
  }
}
watch("value", fresh);
fresh();
