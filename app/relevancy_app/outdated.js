// What is asked now, beside what the results on the page are about: where they differ, the results say so.
(picture, question, ...options) => {
  const line = document.querySelector("#rv-status [data-asked]"), results = document.getElementById("rv-results");
  if (!line || !results) return;
  const place = picture && picture.path ? picture.path.split(/[\\/]/).at(-2) : null;
  const asked = JSON.parse(line.dataset.asked), now = [place, String(question || "").trim(), ...options];
  const changed = asked.names.filter((_, i) => JSON.stringify(asked.values[i]) !== JSON.stringify(now[i]));
  results.classList.toggle("rv-stale", changed.length > 0);
  line.querySelector(".rv-outdated").textContent = changed.length
    ? `Out of date: ${changed.join(", ")} changed since. Press Explain for new results.` : "";
}
