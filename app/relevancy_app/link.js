// Runs once: opens the run that the address names, when the page is loaded and whenever the address changes.
const named = () => new URLSearchParams(location.search).get("run");
window.rvSeen = new Set(); // runs that the address has named
function open(run) {
  window.rvSeen.add(run);
  window.rvAwaited = true;
  trigger("select", { run });
}
window.addEventListener("rv-open", (event) => {
  history.pushState(null, "", `?run=${event.detail}`);
  open(event.detail);
});
window.addEventListener("popstate", () => (named() ? open(named()) : location.reload()));
if (named()) open(named());
