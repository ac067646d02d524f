// What the page does beyond showing: filters, the view of one sample, and plots. Without it everything is readable.
"use strict";
document.documentElement.classList.add("scripted");
const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
const element = (name, text, attributes = {}) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};
const plain = (text) => text.normalize("NFKC").toLocaleLowerCase();

// --- Filters: every item has the values of its fields as data attributes; captions are searched word by word.
for (const tools of all("form.tools")) {
  const items = all(`#${tools.dataset.of} > li`);
  const texts = items.map((item) => plain(all(".text", item).map((part) => part.textContent).join("\n")));
  const output = tools.querySelector("output");
  const search = tools.querySelector("input[type=search]");
  const choices = all("select", tools);
  const apply = () => {
    const words = search ? plain(search.value).split(/\s+/).filter(Boolean) : [];
    let shown = 0;
    items.forEach((item, at) => {
      const wanted = words.every((word) => texts[at].includes(word))
        && choices.every((choice) => !choice.value || item.dataset[choice.name] === choice.value);
      item.hidden = !wanted;
      shown += wanted;
    });
    output.textContent = `${shown.toLocaleString("en")} of ${items.length.toLocaleString("en")} shown`;
  };
  tools.addEventListener("input", apply);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(apply));
  apply();
}

// --- One sample.
const dialog = document.querySelector("dialog");
const data = document.getElementById("samples");
if (dialog && data) {
  const samples = JSON.parse(data.textContent);
  const title = dialog.querySelector("h2");
  const images = dialog.querySelector(".group");
  const facts = dialog.querySelector("dl");
  const json = dialog.querySelector("pre");
  let here = null;
  const value = (content) => {
    const cell = element("dd", content, { dir: "auto" });
    if (!/^https?:\/\//.test(content)) return cell;
    cell.replaceChildren(element("a", content, { href: content, rel: "noreferrer noopener", target: "_blank" }));
    return cell;
  };
  const figure = (source, words) => {
    const made = element("figure");
    made.append(element("img", undefined, { src: source, alt: words }), element("figcaption", words));
    return made;
  };
  const show = (button) => {
    here = button;
    const sample = samples[button.dataset.sample];
    title.textContent = sample.title;
    images.replaceChildren(figure(button.querySelector("img").src, "original"));
    if (sample.reconstruction) images.append(figure(sample.reconstruction, sample.quality));
    facts.replaceChildren(...sample.facts.flatMap(([name, text]) => [element("dt", name), value(text)]));
    json.textContent = JSON.stringify(sample.json, null, 2);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  const move = (by) => {
    const visible = all("button.shot").filter((button) => button.offsetParent !== null);
    const next = visible[visible.indexOf(here) + by];
    if (next) show(next);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.shot");
    if (button) show(button);
    else if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("click", (event) => {
    const by = event.target.closest("button")?.dataset.by;
    if (by === "0") dialog.close();
    else if (by) move(Number(by));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") move(1);
    if (event.key === "ArrowLeft") move(-1);
  });
  dialog.addEventListener("close", () => here?.focus());
}

// --- Plots. The axes are drawn already, once for each scale; here the lines are, and the values under the cursor.
const number = (value) => (Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3)
  ? value.toExponential(2) : value.toLocaleString("en", { maximumSignificantDigits: 4 }));
const smooth = (points, weight) => {
  let mean = 0, sum = 0; // an exponential moving average, each without a bias towards the start
  return points.map(([x, y]) => {
    mean = weight * mean + (1 - weight) * y;
    sum = weight * sum + (1 - weight);
    return [x, mean / sum];
  });
};
for (const figure of all("figure.curves")) {
  const plot = JSON.parse(figure.querySelector("script").textContent);
  const svg = figure.querySelector("svg.plot");
  const [logBox, smoothBox] = [figure.querySelector("input[name=log]"), figure.querySelector("select")];
  const values = figure.querySelector(".values");
  const cursor = svg.querySelector(".cursor");
  const {left, right, top, bottom} = plot.frame;
  let at = null, drawn = [];
  const toX = (x) => left + (x - plot.x[0]) / (plot.x[1] - plot.x[0] || 1) * (right - left);
  const scale = () => (logBox?.checked ? Math.log10 : (y) => y);
  const draw = () => {
    const f = scale(), [low, high] = (logBox?.checked ? plot.ylog : plot.y).map(f);
    const toY = (y) => bottom - (f(y) - low) / (high - low || 1) * (bottom - top);
    svg.querySelector(".linear").toggleAttribute("hidden", Boolean(logBox?.checked));
    svg.querySelector(".log")?.toggleAttribute("hidden", !logBox?.checked);
    drawn = plot.series.map(({points}) => smooth(points, Number(smoothBox?.value || 0)));
    drawn.forEach((points, index) => {
      const usable = logBox?.checked ? points.filter(([, y]) => y > 0) : points;
      const places = usable.map(([x, y]) => [toX(x).toFixed(1), toY(y).toFixed(1)]);
      svg.querySelector(`polyline.s${index}`).setAttribute("points", places.map((place) => place.join()).join(" "));
      const every = Math.max(1, Math.ceil(places.length / 6));
      const marks = places.filter((_, place) => place % every === 0);
      all(`.mark.s${index}`, svg).forEach((mark, turn) => {
        mark.toggleAttribute("hidden", !marks[turn]);
        if (marks[turn]) mark.setAttribute("transform", `translate(${marks[turn].join()})`);
      });
    });
    point();
  };
  const point = () => {
    cursor.toggleAttribute("hidden", at === null);
    if (at === null) { values.textContent = values.dataset.hint; return; }
    cursor.setAttribute("x1", toX(at)); cursor.setAttribute("x2", toX(at));
    const parts = drawn.map((points, index) => {
      const near = points.reduce((best, each) => (Math.abs(each[0] - at) < Math.abs(best[0] - at) ? each : best));
      return `${plot.series[index].name} ${number(near[1])}`;
    });
    values.textContent = `${plot.x_label} ${number(at)}: ${parts.join(", ")}`;
  };
  const steps = [...new Set(plot.series.flatMap(({points}) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const nearest = (x) => steps.reduce((best, each) => (Math.abs(each - x) < Math.abs(best - x) ? each : best));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    at = nearest(plot.x[0] + (place - left) / (right - left) * (plot.x[1] - plot.x[0]));
    point();
  });
  svg.addEventListener("pointerleave", () => { at = null; point(); });
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!by) return;
    event.preventDefault();
    const place = at === null ? (by > 0 ? -1 : steps.length) : steps.indexOf(at);
    at = steps[Math.min(steps.length - 1, Math.max(0, place + by))];
    point();
  });
  svg.addEventListener("blur", () => { at = null; point(); });
  figure.addEventListener("input", draw);
  draw();
}
