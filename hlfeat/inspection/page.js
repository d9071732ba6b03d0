"use strict";
// Shows what has all words of the filter in it. The address keeps the filter: report.html#q=words
const box = document.getElementById("filter");
const count = document.getElementById("count");
const items = Array.from(document.querySelectorAll(".item"), (element) => ({
  element, text: words_of(element), listed: element.tagName === "TR",
}));
function words_of(element) {
  const cells = element.querySelectorAll("td, h3, p, dt, dd");
  return Array.from(cells, (cell) => cell.textContent).join(" ").toLowerCase();
}
const listed = items.filter((item) => item.listed).length;  // a clip with a picture is in the table too
function show() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const item of items) {
    item.element.hidden = !words.every((word) => item.text.includes(word));
    shown += item.listed && !item.element.hidden;
  }
  count.textContent = words.length ? `${shown} of ${listed} match` : "";
}
function read() {
  const match = /^#q=(.*)$/.exec(location.hash);
  if (!match) return;
  try { box.value = decodeURIComponent(match[1]); } catch { box.value = match[1]; }
  show();
}
box.addEventListener("input", () => {
  show();
  history.replaceState(null, "", box.value ? "#q=" + encodeURIComponent(box.value) : "#");
});
addEventListener("hashchange", read);
document.querySelector(".search").hidden = false;
read();
