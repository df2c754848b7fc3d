// Runs once: opens the run that the address names, when the page is loaded and whenever the address changes.
const named = () => new URLSearchParams(location.search).get("run");
const seen = new Set(); // runs that the address has named
function open(run) {
  seen.add(run);
  window.rvAwaited = true;
  trigger("select", { run });
}
function go(run) {
  seen.add(run);
  history.pushState(null, "", `?run=${run}`);
}
window.addEventListener("rv-open", ({ detail }) => { go(detail); open(detail); });
window.addEventListener("rv-shown", ({ detail }) => {
  if (!seen.has(detail)) { // of a run that was just begun
    go(detail);
    window.dispatchEvent(new Event("rv-kept"));
  } else if (detail !== named()) open(named()); // a last word of a run that was left
});
window.addEventListener("popstate", () => (named() ? open(named()) : location.reload()));
if (named()) open(named());
