"use strict";
// Line charts as SVG for the page of digitlab watch. Only text nodes are made from data: nothing is read as markup.

const SVG = "http://www.w3.org/2000/svg";

function svgNode(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function isPercentage(metric) {
  return /(^|\/)(balanced_)?(accuracy|f1|f1_weighted)$/.test(metric || "");
}

function metricText(metric, value) {
  if (value === null || value === undefined) return "–";
  return isPercentage(metric) ? `${(100 * value).toFixed(2)} %` : shortNumber(value);
}

function shortNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
}

// The numbers at the lines of an axis: at most `most` multiples of 1, 2 or 5 times a power of ten.
function ticks(low, high, most) {
  const power = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = power * [1, 2, 5, 10].find(each => (high - low) / (power * each) <= most);
  const found = [];
  for (let number = Math.ceil(low / step - 1e-9); number * step <= high + 1e-9 * step; number++) found.push(number * step);
  return found;
}

function axis(values, start, end, {log = false, whole = false} = {}) {
  let low = Math.min(...values), high = Math.max(...values);
  const useLog = log && low > 0 && high / low > 50;
  if (low === high) { low -= Math.abs(low) * 0.05 || 0.5; high += Math.abs(high) * 0.05 || 0.5; }
  const at = useLog ? Math.log10 : value => value;
  const [first, last] = [at(low), at(high)];
  let marks = useLog ? ticks(first, last, 5).filter(Number.isInteger).map(each => 10 ** each) : ticks(low, high, 5);
  if (whole) marks = marks.filter(Number.isInteger);
  return {place: value => start + (at(value) - first) / (last - first) * (end - start), marks, log: useLog};
}

// Draws lines into `box` and lets the reader point at them with a mouse, a finger or the arrow keys.
// A line is {name, css, points: [[x, y], …], open?}; `open` is called when the reader clicks the line nearest to the pointer.
function drawChart(box, {lines, xLabel, metric, percent = isPercentage(metric), log = false}) {
  const shown = lines.map(line => ({...line, points: line.points.filter(([, y]) => y !== null)})).filter(line => line.points.length);
  let svg = box.querySelector("svg");
  if (!svg) {
    svg = svgNode("svg", {tabindex: "0", role: "img"});
    const readout = document.createElement("output");
    readout.className = "readout";
    box.append(svg, readout);
    listen(box, svg);
  }
  const width = Math.max(280, box.clientWidth || 400), height = Math.round(Math.min(Math.max(190, width * 0.5), 360));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  box.chart = null;
  if (!shown.length) {
    svg.append(svgNode("text", {x: width / 2, y: height / 2, class: "x"}, "no value yet"));
    return;
  }
  const xs = shown.flatMap(line => line.points.map(([x]) => x)), ys = shown.flatMap(line => line.points.map(([, y]) => y));
  const [left, right, top, bottom] = [52, width - 20, 10, height - 34];
  const x = axis(xs, left, right, {whole: true}), y = axis(ys, bottom, top, {log});
  for (const mark of y.marks) {
    svg.append(svgNode("line", {x1: left, x2: right, y1: y.place(mark), y2: y.place(mark), class: "grid"}));
    svg.append(svgNode("text", {x: left - 6, y: y.place(mark), class: "y"}, percent ? `${+(100 * mark).toFixed(6)} %` : shortNumber(mark)));
  }
  for (const mark of x.marks) svg.append(svgNode("text", {x: x.place(mark), y: bottom + 15, class: "x"}, shortNumber(mark)));
  svg.append(svgNode("text", {x: (left + right) / 2, y: height - 4, class: "x"}, xLabel));
  svg.append(svgNode("line", {x1: left, x2: right, y1: bottom, y2: bottom, class: "axis"}));
  for (const line of shown) {
    const places = line.points.map(([px, py]) => [x.place(px), y.place(py)]);
    const path = places.map(([px, py], number) => `${number ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
    line.node = svgNode("path", {d: path, class: line.css});
    svg.append(line.node);
    // A single value is no line. Round ends turn a path without length into a dot in the colour of the line.
    if (places.length === 1) svg.append(svgNode("path", {d: `${path}h0`, class: `${line.css} single`}));
  }
  svg.setAttribute("aria-label", `${metric} against ${xLabel}: ` + shown.slice(0, 4).map(line => {
    const [px, py] = line.points[line.points.length - 1];
    return `${line.name} ${metricText(metric, py)} at ${px}`;
  }).join(", "));
  box.chart = {lines: shown, x, y, left, right, top, bottom, width, metric, xLabel};
  if (box.pointed) point(box, box.pointed.x, box.pointed.y);
}

function listen(box, svg) {
  const toChart = event => {
    const rect = svg.getBoundingClientRect();
    const scale = box.chart ? box.chart.width / rect.width : 1;
    return [(event.clientX - rect.left) * scale, (event.clientY - rect.top) * scale];
  };
  svg.addEventListener("pointermove", event => {
    const [x, y] = toChart(event);
    box.pointed = {x, y};
    point(box, x, y);
  });
  svg.addEventListener("pointerleave", () => leave(box));
  svg.addEventListener("blur", () => leave(box));
  svg.addEventListener("click", () => { if (box.nearest && box.nearest.open) box.nearest.open(); });
  svg.addEventListener("keydown", event => {
    if (!box.chart || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    const xs = [...new Set(box.chart.lines.flatMap(line => line.points.map(([x]) => x)))].sort((a, b) => a - b);
    const last = box.pointed && box.pointed.value !== undefined ? xs.indexOf(box.pointed.value) : xs.length;
    const next = Math.max(0, Math.min(xs.length - 1, last + (event.key === "ArrowLeft" ? -1 : 1)));
    box.pointed = {x: box.chart.x.place(xs[next]), y: null, value: xs[next]};
    point(box, box.pointed.x, null);
  });
}

function leave(box) {
  box.pointed = box.nearest = null;
  for (const old of box.querySelectorAll(".cursor")) old.remove();
  for (const old of box.querySelectorAll(".picked")) old.classList.remove("picked");
  box.querySelector(".readout").textContent = "";
}

// Shows the values at the x nearest to the pointer: of all lines if they are few, else of the line nearest to it.
function point(box, px, py) {
  const chart = box.chart;
  if (!chart) return;
  const {pointed} = box;
  leave(box);
  box.pointed = pointed;
  const near = line => line.points.reduce((best, each) => Math.abs(chart.x.place(each[0]) - px) < Math.abs(chart.x.place(best[0]) - px) ? each : best);
  let lines = chart.lines;
  if (lines.length > 4) {
    const distance = line => Math.abs(chart.y.place(near(line)[1]) - (py === null ? chart.top : py));
    lines = [lines.reduce((best, each) => distance(each) < distance(best) ? each : best)];
    lines[0].node.classList.add("picked");
    box.nearest = lines[0];
  }
  const at = near(lines[0])[0];
  box.querySelector("svg").append(svgNode("line", {x1: chart.x.place(at), x2: chart.x.place(at), y1: chart.top, y2: chart.bottom, class: "cursor"}));
  box.querySelector(".readout").textContent = `${chart.xLabel} ${at} · ` +
    lines.map(line => `${line.name} ${metricText(chart.metric, near(line)[1])}`).join(" · ");
}

// A small curve without axes.
function sparkline(points) {
  const svg = svgNode("svg", {class: "spark", viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true"});
  const shown = points.filter(([, y]) => y !== null);
  if (shown.length > 1) {
    const x = axis(shown.map(([each]) => each), 1, 99), y = axis(shown.map(([, each]) => each), 37, 3);
    svg.append(svgNode("path", {d: shown.map(([px, py], number) => `${number ? "L" : "M"}${x.place(px).toFixed(1)} ${y.place(py).toFixed(1)}`).join("")}));
  }
  return svg;
}
