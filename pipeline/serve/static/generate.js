"use strict";
// The page /generate: send the form, show images as they come, remember what was drawn.
// All texts are set with textContent: a prompt is never parsed as HTML.

const form = document.getElementById("request");
const state = document.getElementById("state");
const progress = document.getElementById("progress");
const images = document.getElementById("images");
const part = document.getElementById("images-part");
const stop = document.getElementById("stop");
const history = document.getElementById("history");
const forget = document.getElementById("forget");
const HISTORY = "pipeline-serve-history";
const MOST_REMEMBERED = 40;
const THUMBNAIL = 96;
let running = null;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function numberOf(name) {
  const field = form.elements[name];
  return field && field.value !== "" ? Number(field.value) : null;
}

function values() {
  const asked = { prompt: form.elements.prompt.value, model: form.elements.model.value };
  for (const name of ["count", "seed", "cond_scale", "top_k", "temperature", "best"]) {
    const value = numberOf(name);
    if (value !== null) asked[name] = value;
  }
  return asked;
}

async function refusal(response) {
  let message = `The server answered ${response.status}.`;
  try { message = (await response.json()).error || message; } catch { /* not JSON */ }
  const wait = response.headers.get("Retry-After");
  return new Error(wait ? `${message} (${wait} s)` : message);
}

async function uploadPrime(signal) {
  const file = form.elements.prime.files[0];
  if (!file) return {};
  const response = await fetch("/api/prime", { method: "POST", body: file, signal });
  if (!response.ok) throw await refusal(response);
  const rows = numberOf("prime_rows");
  return { prime: (await response.json()).id, ...(rows === null ? {} : { prime_rows: rows }) };
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const line of parts) if (line) yield JSON.parse(line);
  }
}

function slot(index, prompt) {
  const known = document.getElementById(`image-${index}`);
  if (known) return known;
  const image = element("img", { alt: `Image ${index + 1}: ${prompt}` });
  const made = element("li", { id: `image-${index}` }, image);
  images.append(made);
  return made;
}

function show(event, asked, seed) {
  const place = slot(event.index, asked.prompt);
  const image = place.querySelector("img");
  image.src = event.png ? `data:image/png;base64,${event.png}` : `data:image/jpeg;base64,${event.jpeg}`;
  image.classList.toggle("unfinished", !event.png);
  if (!event.png) return;
  const name = `seed-${seed}-${event.index}.png`;
  const save = element("a", { href: image.src, download: name, textContent: "Save" });
  save.setAttribute("aria-label", `Save image ${event.index + 1}`);
  place.append(save);
  if (event.score !== undefined) place.append(` CLIP ${event.score.toFixed(2)}`);
}

async function draw(asked, signal) {
  const response = await fetch("/api/generate", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...asked, ...(await uploadPrime(signal)) }),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  const wanted = asked.best || asked.count || 1;
  let done = 0, seed = null, cut = false;
  for await (const event of lines(response)) {
    if (event.event === "queued") {
      seed = event.seed;
      state.textContent = event.before ? `Waiting: ${event.before} images before yours.` : "Starting…";
    } else if (event.event === "begun") {
      cut = event.cut;
      state.textContent = cut ? "Drawing. The prompt is longer than the model reads: its end is ignored."
        : "Drawing…";
    } else if (event.event === "preview") {
      show(event, asked, seed);
      progress.value = Math.max(progress.value, (done + event.share) / wanted);
    } else if (event.event === "image") {
      done += 1;
      progress.value = done / wanted;
      show(event, asked, seed);
    } else if (event.event === "error") {
      throw new Error(event.message);
    } else if (event.event === "done") {
      state.textContent = `${done} ${done === 1 ? "image" : "images"}, seed ${seed}.`
        + (cut ? " The end of the prompt was ignored: it is longer than the model reads." : "");
      remember({ ...asked, seed });
      return;
    }
  }
  throw new Error("The connection ended before the images were complete.");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) running.abort();
  const mine = new AbortController();
  running = mine;
  images.replaceChildren();
  part.hidden = false;
  progress.hidden = stop.hidden = false;
  progress.value = 0;
  state.classList.remove("error");
  try {
    await draw(values(), mine.signal);
  } catch (error) {
    if (running !== mine) return;
    if (error.name === "AbortError") {
      state.textContent = "Stopped.";
    } else {
      state.textContent = error.message;
      state.classList.add("error");
    }
  }
  if (running === mine) {
    running = null;
    progress.hidden = stop.hidden = true;
  }
});

stop.addEventListener("click", () => running && running.abort());

// --- History --------------------------------------------------------------------------------------

function remembered() {
  try {
    const found = JSON.parse(localStorage.getItem(HISTORY));
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

function thumbnail() {
  const image = images.querySelector("img");
  if (!image || !image.naturalWidth) return "";
  const canvas = element("canvas", { width: THUMBNAIL, height: THUMBNAIL });
  canvas.getContext("2d").drawImage(image, 0, 0, THUMBNAIL, THUMBNAIL);
  return canvas.toDataURL("image/jpeg", 0.7);
}

async function remember(asked) {
  const image = images.querySelector("img");
  if (image) await image.decode().catch(() => {});
  const entries = [{ ...asked, thumbnail: thumbnail() }, ...remembered()].slice(0, MOST_REMEMBERED);
  try {
    localStorage.setItem(HISTORY, JSON.stringify(entries));
  } catch { /* full or forbidden: the page works without */ }
  list();
}

function recall(entry) {
  for (const [name, value] of Object.entries(entry)) {
    const field = form.elements[name];
    if (field && name !== "prime") field.value = value;
  }
  form.elements.prompt.focus();
}

function list() {
  const entries = remembered();
  history.replaceChildren(...entries.map((entry) => {
    const isImage = typeof entry.thumbnail === "string" && entry.thumbnail.startsWith("data:image/jpeg");
    const image = isImage ? [element("img", { src: entry.thumbnail, alt: "" })] : [];
    const text = element("bdi", { textContent: String(entry.prompt) });
    const more = element("small", { textContent: `seed ${entry.seed}, ${entry.model}` });
    const button = element("button", { type: "button" }, ...image, text, more);
    button.addEventListener("click", () => recall(entry));
    return element("li", {}, button);
  }));
  forget.hidden = entries.length === 0;
}

forget.addEventListener("click", () => {
  localStorage.removeItem(HISTORY);
  list();
});
list();
