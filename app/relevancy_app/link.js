// Runs once: opens the run that the address names, when the page is loaded and whenever the address changes.
const named = () => new URLSearchParams(location.search).get("run");
const open = (run) => {
  trigger("select", { run });
  window.rvAwaited = true;
};
window.addEventListener("rv-open", (event) => open(event.detail));
window.addEventListener("popstate", () => (named() ? open(named()) : location.reload()));
if (named()) open(named());
