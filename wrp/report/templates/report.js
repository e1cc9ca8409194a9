"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const UNLABELLED = 255;
const PLAY_PAUSE = 100; // milliseconds from frame to frame

const scored = page.clips.some((one) => one.miou.some((value) => value !== null));
const hidden = new Set(); // indices of the classes that are switched off
let clip = page.clips[0];
let position = 0; // in clip.frames
let shown = null; // the decoded pictures of the frame that is on the screen
let wanted = 0; // counts the calls of show, so that a frame that loads slowly never replaces a later one
let playing = false;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Pictures

function table(colors) {
  // 256 RGBA colours as numbers in the machine's own byte order; values without a colour are transparent
  const bytes = new Uint8ClampedArray(1024);
  colors.forEach((color, i) => color && bytes.set([...color, 255], 4 * i));
  return new Uint32Array(bytes.buffer);
}

function ramp(stops) {
  return Array.from({ length: 256 }, (_, i) => {
    const place = i / 255 * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((from, channel) => from + (place - low) * (stops[low + 1][channel] - from));
  });
}

const certaintyTable = table(ramp(page.confidence_colors));
const provenanceTable = table(page.provenance_legend.map((entry) => entry.color));

async function load(data) {
  const image = new Image();
  image.src = "data:image/webp;base64," + data;
  await image.decode();
  return image;
}

async function numbers(data) {
  // decode the grey levels of a picture
  if (data === null) return null;
  const image = await load(data);
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const values = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
  const low = new Uint8Array(new Uint32Array([1]).buffer)[0] ? 0 : 24; // where the red byte is
  return { width: image.width, height: image.height, values: Uint8Array.from(values, (value) => value >>> low) };
}

function paint(canvas, picture, colors, keeps = () => true) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(picture.width, picture.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) if (keeps(i)) pixels[i] = colors[picture.values[i]];
  context.putImageData(image, 0, 0);
}

function paintLabels() {
  const { labels, truth } = shown;
  const colors = (shows) => table(page.classes.map((one, i) => (hidden.has(i) || !shows(one) ? null : one.color)));
  const isWrong = (i) => truth.values[i] !== UNLABELLED && truth.values[i] !== labels.values[i];
  const keeps = truth && at("wrong").checked ? isWrong : undefined;
  paint(at("labels"), labels, colors(() => true), keeps);
  paint(at("overlay"), labels, colors((one) => one.blended), keeps);
}

// Frames

async function show(next) {
  position = Math.max(0, Math.min(next, clip.frames.length - 1));
  const frame = clip.frames[position];
  const mine = ++wanted;
  at("scrub").value = position;
  at("scrub").setAttribute("aria-valuetext", `frame ${frame.stem}`);
  const [image, labels, certainty, provenance, truth] = await Promise.all([
    load(frame.image), numbers(frame.labels), numbers(frame.certainty), numbers(frame.provenance), numbers(frame.truth),
  ]);
  if (mine !== wanted) return;
  shown = { labels, truth };
  at("image").src = image.src;
  paintLabels();
  paint(at("certainty"), certainty, certaintyTable);
  const blank = { ...labels, values: new Uint8Array(labels.values.length).fill(UNLABELLED) };
  paint(at("provenance"), provenance ?? blank, provenanceTable);
  at("no-provenance").hidden = provenance !== null;
  at("wrong-label").hidden = truth === null;
  at("facts").textContent = describe(frame);
  for (const row of at("worst").tBodies[0].rows) row.setAttribute("aria-current", row.frame === frame);
  moveCursor();
}

function describe(frame) {
  const parts = [`${frame.stem}: index ${frame.index} of 0 … ${clip.miou.length - 1}`];
  parts.push(frame.method === "keyframe" ? "labelled by hand" : `by ${frame.method}`);
  if (frame.distance) parts.push(`${frame.distance} frame${frame.distance > 1 ? "s" : ""} from the nearest keyframe`);
  parts.push(`mean confidence ${frame.confidence.toFixed(3)}`);
  if (frame.miou !== null) parts.push(`mIoU ${frame.miou.toFixed(1)}`);
  return parts.join(" · ");
}

function nearest(index) {
  const distances = clip.frames.map((frame) => Math.abs(frame.index - index));
  return distances.indexOf(Math.min(...distances));
}

async function play(on) {
  if (on === playing) return;
  playing = on;
  at("play").textContent = on ? "Pause" : "Play";
  at("play").setAttribute("aria-pressed", on);
  while (playing) {
    await show((position + 1) % clip.frames.length);
    await new Promise((done) => setTimeout(done, PLAY_PAUSE));
  }
}

// Clips

function open(next, frame = sorted(next.frames)[0]) {
  clip = next;
  position = clip.frames.indexOf(frame);
  at("clip").value = page.clips.indexOf(clip);
  at("scrub").max = clip.frames.length - 1;
  drawTimeline();
  return show(position);
}

function filter() {
  const text = at("filter").value.trim().toLowerCase();
  const matching = page.clips.filter((one) => one.name.toLowerCase().includes(text));
  at("clip").replaceChildren(...matching.map((one) => new Option(one.name, page.clips.indexOf(one))));
  at("matches").textContent = text ? `${matching.length} of ${page.clips.length} clips` : "";
  listWorst(matching);
  if (matching.length && !matching.includes(clip)) open(matching[0]);
  else at("clip").value = page.clips.indexOf(clip);
}

function rank(frame) {
  // as FrameRow.rank; keyframes come last
  return frame.method === "keyframe" ? 2000 : frame.miou ?? 1000 + frame.confidence;
}

function sorted(frames) {
  return [...frames].sort((a, b) => rank(a) - rank(b));
}

function listWorst(clips) {
  const owners = new Map(clips.flatMap((one) => one.frames.map((frame) => [frame, one])));
  const queries = sorted(owners.keys()).filter((frame) => frame.method !== "keyframe");
  at("worst").tBodies[0].replaceChildren(...queries.map((frame) => {
    const one = owners.get(frame);
    const row = document.createElement("tr");
    const button = element("button", frame.stem, { type: "button" });
    button.addEventListener("click", () => {
      open(one, frame);
      at("frames-title").scrollIntoView();
    });
    const name = element("th", "", { scope: "row" });
    name.append(button);
    row.append(name, element("td", one.name), element("td", frame.distance ?? "–"),
      element("td", frame.confidence.toFixed(3)));
    if (scored) row.append(element("td", frame.miou === null ? "–" : frame.miou.toFixed(1)));
    row.frame = frame;
    row.setAttribute("aria-current", clip === one && clip.frames[position] === frame);
    return row;
  }));
}

// Timeline

const LEFT = 52; // pixels, room for the numbers
const RIGHT = 10;
const TRACK = 70;
const GAP = 26;

function svg(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function across(index) {
  const width = at("timeline").clientWidth - LEFT - RIGHT;
  return LEFT + (width * index) / Math.max(1, clip.miou.length - 1);
}

function track(values, top, kind, name, step, digits) {
  // draw one curve with its scale, which begins at the step below the least value and ends at the greatest possible value
  const known = values.filter((value) => value !== null);
  const most = 20 * step;
  const least = Math.min(Math.floor(known.reduce((a, b) => Math.min(a, b), most) / step), 19) * step;
  const down = (value) => top + (TRACK * (most - value)) / (most - least);
  const right = across(values.length - 1);
  let line = "";
  values.forEach((value, i) => {
    if (value !== null) line += `${values[i - 1] == null ? "M" : "L"}${across(i).toFixed(1)} ${down(value).toFixed(1)}h0`;
  });
  return [
    svg("text", { x: LEFT + 6, y: top - 7, class: kind }, name),
    ...[least, (least + most) / 2, most].flatMap((value) => [
      svg("path", { class: "grid", d: `M${LEFT} ${down(value)}H${right}` }),
      svg("text", { x: LEFT - 6, y: down(value) + 4, "text-anchor": "end" }, value.toFixed(digits)),
    ]),
    svg("path", { class: kind, d: line, "stroke-linecap": "round" }),
  ];
}

function drawTimeline() {
  const parts = track(clip.confidence, GAP, "confidence", "mean confidence", 0.05, 3);
  let bottom = GAP + TRACK;
  if (clip.miou.some((value) => value !== null)) {
    parts.push(...track(clip.miou, bottom + GAP, "miou", "mIoU, percent", 5, 1));
    bottom += GAP + TRACK;
  }
  for (const keyframe of clip.keyframes) {
    const x = across(keyframe);
    parts.push(svg("path", { class: "keyframe", d: `M${x} ${GAP}V${bottom}` }));
    const mark = svg("path", { class: "mark", d: `M${x} ${bottom + 3}l5 9h-10z` });
    mark.append(svg("title", {}, `keyframe, index ${keyframe}`));
    parts.push(mark);
  }
  parts.push(svg("path", { class: "cursor", id: "cursor" }));
  at("timeline").setAttribute("height", bottom + 16);
  at("timeline").replaceChildren(...parts);
  moveCursor();
}

function moveCursor() {
  const x = across(clip.frames[position].index);
  at("cursor").setAttribute("d", `M${x} ${GAP - 4}V${at("timeline").getAttribute("height") - 14}`);
}

function seek(event) {
  const width = across(clip.miou.length - 1) - LEFT;
  const ratio = (event.clientX - at("timeline").getBoundingClientRect().left - LEFT) / width;
  show(nearest(Math.round(ratio * (clip.miou.length - 1))));
}

// Legends

function swatch(tag, { name, color }, attributes = {}) {
  const made = element(tag, "", attributes);
  const patch = document.createElement("i");
  patch.style.background = `rgb(${color.join(" ")})`;
  made.append(patch, name);
  return made;
}

function showClasses(change) {
  change();
  [...at("classes").children].forEach((button, i) => button.setAttribute("aria-pressed", !hidden.has(i)));
  paintLabels();
}

function makeLegends() {
  at("classes").replaceChildren(...page.classes.map((one, i) => {
    const button = swatch("button", one, { type: "button", class: "class", "aria-pressed": true });
    button.addEventListener("click", () => showClasses(() => hidden.delete(i) || hidden.add(i)));
    return button;
  }));
  at("provenance-legend").replaceChildren(...page.provenance_legend.map((one) => swatch("span", one)));
  const stops = page.confidence_colors.map((color) => `rgb(${color.join(" ")})`);
  at("ramp").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
}

function setBlend() {
  at("overlay").style.opacity = at("blend").value / 100;
  at("blend-value").textContent = `${at("blend").value} %`;
}

const KEYS = {
  ArrowLeft: () => show(position - 1),
  ArrowRight: () => show(position + 1),
  Home: () => show(0),
  End: () => show(clip.frames.length - 1),
  " ": () => play(!playing),
};

document.addEventListener("keydown", (event) => {
  // form controls keep their own keys
  const owners = event.key === " " ? "input, select, button, summary" : "input, select";
  if (event.target.closest(owners) || event.ctrlKey || event.altKey || event.metaKey) return;
  if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
at("scrub").addEventListener("input", () => show(Number(at("scrub").value)));
at("play").addEventListener("click", () => play(!playing));
at("blend").addEventListener("input", setBlend);
at("wrong").addEventListener("change", paintLabels);
at("all").addEventListener("click", () => showClasses(() => hidden.clear()));
at("none").addEventListener("click", () => showClasses(() => page.classes.forEach((_, i) => hidden.add(i))));
at("clip").addEventListener("change", () => open(page.clips[Number(at("clip").value)]));
at("filter").addEventListener("input", filter);
at("timeline").addEventListener("pointerdown", seek);
at("timeline").addEventListener("pointermove", (event) => event.buttons && seek(event));
new ResizeObserver(drawTimeline).observe(at("timeline"));

at("choose").hidden = page.clips.length === 1;
makeLegends();
setBlend();
filter();
open(clip);
