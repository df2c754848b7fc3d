// What is asked now, beside what the results on the page are about: where they differ, the results say so.
(picture, question, models, target, scope, method, first, last, ...texts) => {
  const line = document.querySelector("#rv-status [data-asked]"), results = document.getElementById("rv-results");
  if (!line || !results) return;
  const place = picture && picture.path ? picture.path.split(/[\\/]/).at(-2) : null;
  const further = Array.from(document.querySelectorAll("#rv-strip [data-place]"), (one) => one.dataset.place);
  const [system, video, ...turns] = texts.map((text) => (text === true || text === false ? text : String(text || "").trim()));
  const said = turns.filter((_, i) => turns[i - (i % 2)] || turns[i - (i % 2) + 1]); // no empty exchanges
  const asked = JSON.parse(line.dataset.asked);
  const now = [
    place, String(question || "").trim(), models, target, scope, method, first, last, [system, video, ...said], further,
  ];
  const changed = asked.names.filter((_, i) => JSON.stringify(asked.values[i]) !== JSON.stringify(now[i]));
  results.classList.toggle("rv-stale", changed.length > 0);
  line.querySelector(".rv-outdated").textContent = changed.length
    ? `Out of date: ${changed.join(", ")} changed since. Press Explain for new results.` : "";
}
