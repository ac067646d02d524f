"use strict";
// The start page: its table follows the workspace. The server escapes the texts in it.
const stages = document.getElementById("stages");
const live = document.getElementById("live");
const events = new EventSource("/api/events");
events.addEventListener("state", (event) => {
  const state = JSON.parse(event.data);
  const focused = stages.contains(document.activeElement);
  stages.innerHTML = state.stages;
  if (focused) stages.querySelector("[tabindex]").focus();
  const text = state.running.length ? `Running: ${state.running.join(", ")}.` : "Nothing is running.";
  if (live.textContent !== text) live.textContent = text;
});
events.addEventListener("error", () => { live.textContent = "The server does not answer."; });
