"use strict";
// The page of a run: loads its curves and grids again when the server says that there is more.
const part = document.getElementById("part");
const name = part.dataset.name;
let loading = false;
const events = new EventSource("/api/events");
events.addEventListener("state", async (event) => {
  const version = JSON.parse(event.data).trainings[name];
  if (loading || version === undefined || version === part.dataset.version) return;
  loading = true;
  try {
    const path = name.split("/").map(encodeURIComponent).join("/");
    const response = await fetch(`/api/training/${path}?scale=${part.dataset.scale}`);
    if (response.ok) {
      const html = await response.text();
      part.innerHTML = html;
      part.dataset.version = response.headers.get("X-Version");
    }
  } finally {
    loading = false;
  }
});
