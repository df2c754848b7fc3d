// The address names the run on the page, so that a reload, Back and a link show it again.
() => {
  const run = document.querySelector("#rv-status [data-run]")?.dataset.run;
  if (run) window.dispatchEvent(new CustomEvent("rv-shown", { detail: run }));
}
