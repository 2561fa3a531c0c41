const tools = document.getElementById("tools");
const box = document.getElementById("filter");
const said = document.getElementById("found");
const folded = [...document.querySelectorAll("details")].filter((one) => one.querySelector(".servers"));
const wasOpen = folded.map((one) => one.open);
const rows = [...document.querySelectorAll(".servers > li")].map((row) => [row, row.textContent.toLowerCase()]);
tools.hidden = false;
box.addEventListener("input", () => {
  const words = box.value.trim().toLowerCase();
  let found = 0;
  for (const [row, text] of rows) {
    row.hidden = !text.includes(words);
    found += !row.hidden;
  }
  folded.forEach((one, place) => { one.open = words ? true : wasOpen[place]; });
  said.textContent = words ? `${found} of ${rows.length} servers` : "";
});
