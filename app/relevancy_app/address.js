// The address names the run on the page, so that a reload, Back and a link show it again.
() => {
  const run = document.querySelector("#rv-status [data-run]")?.dataset.run, address = new URL(location.href);
  if (!run || address.searchParams.get("run") === run) return;
  address.searchParams.set("run", run);
  history.pushState(null, "", address);
  window.dispatchEvent(new Event("rv-kept"));
}
