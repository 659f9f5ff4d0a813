"use strict";

// A pointer over a chart shows the values of every curve at the nearest step.
function number(value) {
  if (value === null) return "none";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

// Hours of the day as 06:05.
function time(hours) {
  const minutes = Math.round(hours * 60);
  return [Math.floor(minutes / 60), minutes % 60].map((part) => String(part).padStart(2, "0")).join(":");
}

function element(name, attributes, parent) {
  const svg = ["line", "circle"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

function readOut(plot) {
  const source = plot.querySelector("script");
  if (!source) return;
  const { box, x: xName, clock, curves } = JSON.parse(source.textContent);
  const svg = plot.querySelector("svg");
  const marks = [];
  let tip = null;
  const clear = () => {
    marks.splice(0).forEach((mark) => mark.remove());
    if (tip) tip.remove();
    tip = null;
  };
  svg.addEventListener("pointerleave", clear);
  svg.addEventListener("pointermove", (event) => {
    clear();
    const frame = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / frame.width;
    const at = (event.clientX - frame.left) * scale;
    if (at < box[0] - 8 || at > box[2] + 8) return;
    let nearest = null;
    for (const curve of curves)
      curve.px.forEach((px, i) => {
        if (px !== null && (!nearest || Math.abs(px - at) < Math.abs(nearest.px - at))) nearest = { px, x: curve.x[i] };
      });
    if (!nearest) return;
    marks.push(element("line", { class: "cross", x1: nearest.px, x2: nearest.px, y1: box[1], y2: box[3] }, svg));
    tip = element("div", { class: "tip" }, plot);
    element("b", {}, tip).textContent = clock ? time(nearest.x) : `${xName} ${number(nearest.x)}`;
    for (const curve of curves) {
      const i = curve.px.findIndex((px) => px !== null && Math.abs(px - nearest.px) < 1);
      if (i < 0 || curve.y[i] === null) continue;
      if (curve.py[i] !== null)
        marks.push(element("circle", { class: `spot ${curve.style}`, cx: curve.px[i], cy: curve.py[i], r: 4 }, svg));
      const row = element("div", { class: `key ${curve.style}` }, element("div", {}, tip));
      element("i", {}, row);
      const band = curve.band && curve.band[0][i] !== null ? ` (${number(curve.band[0][i])} to ${number(curve.band[1][i])})` : "";
      row.append(`${curve.name} ${number(curve.y[i])}${band}`);
    }
    const place = svg.offsetLeft || frame.left - plot.getBoundingClientRect().left;
    const px = place + nearest.px / scale;
    if (nearest.px > (box[0] + box[2]) / 2) tip.style.right = `${plot.clientWidth - px + 12}px`;
    else tip.style.left = `${px + 12}px`;
  });
}

// Episodes play together on one clock; a shorter one rests on its last frame.
class Episode {
  constructor(data, labels, parent) {
    this.data = data;
    this.tiles = [];
    const card = element("div", { class: "episode" }, parent);
    const header = element("header", {}, card);
    element("b", {}, header).textContent = data.caption;
    if (data.reached !== null) {
      const verdict = element("span", { class: data.reached ? "good" : "bad" }, header);
      verdict.textContent = data.reached ? "✓ goal reached" : "✗ not reached";
    }
    const row = element("div", { class: "tiles" }, card);
    const zoom = Math.max(1, Math.ceil(288 / Math.max(data.width, data.height)));
    const kinds = [["real", labels[0]]];
    if (data.imagined) kinds.push(["imagined", labels[1]]);
    if (data.goal) kinds.push(["goal", labels[2]]);
    for (const [kind, label] of kinds) {
      const figure = element("figure", {}, row);
      const canvas = element("canvas", { width: data.width * zoom, height: data.height * zoom }, figure);
      element("figcaption", {}, figure).textContent = label;
      this.tiles.push({ kind, canvas, pen: canvas.getContext("2d"), zoom });
    }
    this.sheet = new Image();
    this.sheet.onload = () => this.draw(this.step || 0);
    this.sheet.src = data.sheet;
  }

  draw(step) {
    this.step = step;
    if (!this.sheet.complete || !this.sheet.naturalWidth) return;
    const { steps, width, height, columns, imagined } = this.data;
    const t = Math.min(step, steps - 1);
    for (const { kind, canvas, pen, zoom } of this.tiles) {
      const cell = kind === "real" ? t : kind === "imagined" ? steps + t : steps * (imagined ? 2 : 1);
      pen.imageSmoothingEnabled = width > 128;
      pen.drawImage(this.sheet, (cell % columns) * width, Math.floor(cell / columns) * height, width, height,
        0, 0, canvas.width, canvas.height);
      if (kind === "real") {
        this.line(pen, zoom, (this.data.path || []).slice(0, t + 1), "--way", []);
        this.line(pen, zoom, (this.data.plans || [])[t] || [], "--plan", [1, 7]);
      }
    }
  }

  line(pen, zoom, points, colour, dashes) {
    const finite = points.filter((p) => p[0] !== null && p[1] !== null);
    if (finite.length < 2) return;
    pen.beginPath();
    finite.forEach(([x, y], i) => (i ? pen.lineTo : pen.moveTo).call(pen, x * zoom, y * zoom));
    pen.lineCap = pen.lineJoin = "round";
    pen.setLineDash([]);
    pen.lineWidth = 6;
    pen.strokeStyle = "rgb(255 255 255 / .55)";
    pen.stroke();
    pen.setLineDash(dashes);
    pen.lineWidth = dashes.length ? 4.5 : 3;
    pen.strokeStyle = getComputedStyle(document.body).getPropertyValue(colour);
    pen.stroke();
  }
}

function player(root) {
  const { rollouts, labels, framesPerSecond } = JSON.parse(root.querySelector("script").textContent);
  const last = Math.max(...rollouts.map((r) => r.steps)) - 1;
  const keys = element("div", { class: "overlays" }, root);
  const key = (style, text) => {
    const made = element("span", { class: `key ${style}` }, keys);
    element("i", {}, made);
    made.append(text);
  };
  if (rollouts.some((r) => r.path)) key("way", "way taken so far");
  if (rollouts.some((r) => r.plans)) key("plan", "way imagined from here");
  const controls = element("div", { class: "controls" }, root);
  const button = element("button", { type: "button" }, controls);
  const slider = element("input", { type: "range", min: 0, max: last, value: 0, "aria-label": "step" }, controls);
  const output = element("output", {}, controls);
  const grid = element("div", { class: "episodes" }, root);
  const episodes = rollouts.map((r) => new Episode(r, labels, grid));
  const rest = Math.round(framesPerSecond * 1.5);
  let clock = 0;
  let timer = null;
  const show = () => {
    const step = Math.min(clock, last);
    slider.value = step;
    output.textContent = `step ${step} of ${last}`;
    episodes.forEach((episode) => episode.draw(step));
  };
  const play = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(() => { clock = (clock + 1) % (last + 1 + rest); show(); }, 1000 / framesPerSecond) : null;
    button.textContent = on ? "Pause" : "Play";
  };
  button.addEventListener("click", () => {
    if (!timer && clock >= last) clock = 0;
    play(!timer);
  });
  slider.addEventListener("input", () => {
    play(false);
    clock = Number(slider.value);
    show();
  });
  const asked = /^#step-(\d+)$/.exec(location.hash);
  if (asked) clock = Number(asked[1]);
  show();
  play(false);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches || asked;
  if (!still && "IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      play(true);
    }, { threshold: 0.2 });
    seen.observe(root);
  }
}

document.querySelectorAll(".plot").forEach(readOut);
document.querySelectorAll(".player").forEach(player);
