// Runs once for the list of runs, whose HTML the server replaces.
const MOST = 2; // runs that can be compared
let chosen = [], again = null; // again: what has the focus once the list is new
let most, top = 0; // how many runs the list has come to, and how far it is scrolled

function mark() {
  element.querySelectorAll(".rv-run input[type=checkbox]").forEach((box) => {
    box.checked = chosen.includes(box.closest(".rv-run").dataset.run);
    box.disabled = !box.checked && chosen.length === MOST;
  });
  const compare = element.querySelector("[data-compare]");
  if (compare) compare.disabled = chosen.length !== MOST;
}

function fresh() {
  const there = Array.from(element.querySelectorAll(".rv-run"), (run) => run.dataset.run);
  chosen = chosen.filter((run) => there.includes(run));
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  element.querySelectorAll("time").forEach((time) => (time.textContent = format.format(new Date(time.dateTime))));
  const list = element.querySelector(".rv-runs");
  if (list) list.scrollTop = top;
  if (again) (element.querySelector(again) || list)?.focus({ preventScroll: true });
  again = null;
  mark();
}

function rename(run) {
  const tools = run.querySelector(".rv-run-tools"), field = document.createElement("input"), { name } = tools.dataset;
  Object.assign(field, { value: name, maxLength: 120, placeholder: "Name" });
  field.setAttribute("aria-label", "Name of this run");
  tools.prepend(field);
  field.focus();
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" && event.key !== "Enter") return;
    event.preventDefault(); // or the button that has the focus next would be pressed by it
    if (event.key === "Escape") field.value = name;
    run.querySelector("[data-act=name]").focus();
  });
  field.addEventListener("blur", () => {
    if (field.value !== name) {
      again = `[data-run="${run.dataset.run}"] [data-act=name]`;
      trigger("edit", { run: run.dataset.run, name: field.value, most });
    }
    setTimeout(() => field.remove()); // not while a new list takes this one's place
  });
}

const ACTS = {
  pin: (run, button) => trigger("edit", { run, pinned: button.getAttribute("aria-pressed") !== "true", most }),
  name: (run, button) => rename(button.closest(".rv-run")),
  delete: (run, button) => {
    if (button.dataset.sure) return trigger("delete", { run, most });
    button.dataset.sure = "yes";
    button.textContent = "Sure?";
    button.addEventListener("blur", () => { delete button.dataset.sure; button.textContent = "Delete"; }, { once: true });
  },
};

function grow() {
  const more = element.querySelector("[data-more]");
  if (!more || more.disabled) return;
  more.disabled = true;
  most = Number(more.dataset.more);
  trigger("retry", { most });
}

element.addEventListener("scroll", ({ target }) => {
  top = target.scrollTop;
  if (target.scrollHeight - top < 2 * target.clientHeight) grow();
}, true);
element.addEventListener("click", (event) => {
  const run = event.target.closest(".rv-run")?.dataset.run, act = event.target.closest("[data-act]");
  if (act) {
    again = `[data-run="${run}"] [data-act=${act.dataset.act}]`;
    ACTS[act.dataset.act](run, act);
  } else if (event.target.closest("[data-more]")) {
    grow();
  } else if (event.target.closest("[data-compare]")) {
    trigger("submit", { runs: chosen });
  } else if (event.target.closest(".rv-run a") && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    window.dispatchEvent(new CustomEvent("rv-open", { detail: run }));
  }
});
element.addEventListener("change", (event) => {
  const run = event.target.closest(".rv-run")?.dataset.run;
  if (!run || event.target.type !== "checkbox") return;
  chosen = event.target.checked ? [...chosen, run] : chosen.filter((other) => other !== run);
  mark();
});
window.addEventListener("rv-kept", () => { if (element.offsetParent) trigger("retry", { most }); });
watch("value", fresh);
