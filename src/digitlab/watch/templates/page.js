
// The page of digitlab watch. It asks the server every second for what has changed, and shows one of three views: the
// overview, one sweep, or one run. The view is in the fragment of the address: #sweep=NAME, #run=NAME.

const runs = new Map(), sweeps = new Map();
let version = 0, clockOffset = 0, unread = 0, loaded = false, asking = null;
let view = {kind: "home", id: "", parts: {}};
const filters = new Map(), orders = new Map(), whole = new Set();

// Makes an element. `content` is text, nodes, or lists of them; text never becomes markup.
function make(tag, attributes = {}, ...content) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...content.flat().filter(each => each !== null && each !== undefined && each !== "").map(each => each instanceof Node ? each : String(each)));
  return node;
}

const now = () => Date.now() / 1000 + clockOffset;
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const shortName = id => id === "." ? "this folder" : id.split("/").pop();
const address = (kind, id) => `#${kind}=${encodeURIComponent(id)}`;
const reportAddress = id => `files/${id.split("/").map(encodeURIComponent).join("/")}/report.html`;

function duration(seconds) {
  const all = Math.max(0, Math.round(seconds));
  if (all >= 3600) return `${Math.floor(all / 3600)} h ${String(Math.floor(all % 3600 / 60)).padStart(2, "0")} min`;
  return all >= 60 ? `${Math.floor(all / 60)} min ${String(all % 60).padStart(2, "0")} s` : `${all} s`;
}

// Text that tick() keeps up to date. The word stands after a time.
function timeLeft(endsAt, word = "") {
  return endsAt ? make("span", {"data-ends": endsAt, "data-word": word}, leftText(endsAt, word)) : null;
}

function leftText(endsAt, word) {
  const seconds = endsAt - now();
  return seconds > 0 ? `at most ${duration(seconds)}${word}` : "ends soon";
}

function statusText(run) {
  return make("span", {class: `status ${run.status}`, title: statusTitle(run)}, run.status);
}

function statusTitle(run) {
  if (run.status === "unfinished") return "No process trains this run, and it has no result.";
  return run.status === "stopped" ? "A signal stopped this run; it was saved." : null;
}

function progressBar(parts, label) {
  const bar = make("div", {class: "progress", role: "img", "aria-label": label});
  for (const [css, part] of parts) {
    const piece = make("i", {class: css});
    piece.style.width = `${100 * part}%`;  // through the object model: the policy of the page forbids style attributes
    bar.append(piece);
  }
  return bar;
}

const part = run => run.max_epochs ? Math.min(1, run.epochs / run.max_epochs) : 0;
const epochText = run => run.max_epochs ? `${run.epochs}/${run.max_epochs}` : String(run.epochs);

// What a sweep varies, or for a single run everything that was typed, by key.
function settings(run) {
  return new Map(run.overrides.map(each => {
    const [key, ...value] = each.replace(/^[+~]+/, "").split("=");
    return [key, value.join("=")];
  }));
}

const ofSweep = id => [...runs.values()].filter(run => run.sweep === id);
const singles = () => [...runs.values()].filter(run => run.sweep === null);
const newest = (a, b) => (b.changed_at || 0) - (a.changed_at || 0);

function better(a, b) {
  if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
  return a.direction === "min" ? a.value - b.value : b.value - a.value;
}

function counts(members) {
  const found = {running: 0, finished: 0, failed: 0, stopped: 0, unfinished: 0};
  for (const run of members) found[run.status] = (found[run.status] || 0) + 1;
  return found;
}

function tiles(entries) {
  return make("dl", {class: "tiles"}, entries.filter(([, value]) => value !== null).map(([name, ...value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, ...value))));
}

// Tables -------------------------------------------------------------------------------------------------------------

// A table with a filter and columns that sort. A column is {name, words?, text(run), value?(run), node?(run)}.
function table(key, {columns, rows, order, limit = 100, empty}) {
  const box = make("div", {class: "filtered"});
  const input = make("input", {type: "search", placeholder: "filter, for example failed (press /)", "aria-label": "filter the rows",
    oninput: event => { filters.set(key, event.target.value); fill(); }});
  input.value = filters.get(key) || "";
  const shown = make("output"), head = make("thead"), body = make("tbody"), more = make("div");
  box.append(make("div", {class: "tools"}, input, shown), make("div", {class: "scroll"}, make("table", {class: "runs"}, head, body)), more);
  let current = {columns, rows, order};

  function sorted(list) {
    const {name, down} = orders.get(key) || {};
    const column = current.columns.find(each => each.name === name);
    if (!column) return [...list].sort(current.order);
    const value = column.value || column.text, sign = down ? -1 : 1;
    const missing = each => each === null || each === undefined || each === "";
    return [...list].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);  // empty cells stay at the end
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", {numeric: true}));
    });
  }

  function sortBy(name) {
    const before = orders.get(key);
    orders.set(key, {name, down: before && before.name === name ? !before.down : false});
    fill();
  }

  function fill() {
    const words = (filters.get(key) || "").toLowerCase().split(/\s+/).filter(Boolean);
    const text = run => `${run.id} ${current.columns.map(each => each.text(run)).join(" ")} ${run.error || ""}`.toLowerCase();
    const matching = current.rows.filter(run => { const all = words.length ? text(run) : ""; return words.every(word => all.includes(word)); });
    const visible = whole.has(key) ? matching : sorted(matching).slice(0, limit);
    const order = orders.get(key) || {};
    const labels = current.columns.map(each => each.name).join("\n") + JSON.stringify(order);
    if (head.dataset.labels !== labels) {
      head.dataset.labels = labels;
      head.replaceChildren(make("tr", {}, current.columns.map(each => make("th", {class: each.words && "words", scope: "col",
        "aria-sort": order.name === each.name ? (order.down ? "descending" : "ascending") : null},
        make("button", {onclick: () => sortBy(each.name)}, each.name)))));
    }
    body.replaceChildren(...(whole.has(key) ? sorted(matching) : visible).map(run => make("tr", {}, current.columns.map(each =>
      make("td", {class: [each.words && "words", each.css].filter(Boolean).join(" ") || null}, each.node ? each.node(run) : each.text(run))))));
    shown.textContent = words.length ? `${matching.length} of ${current.rows.length}` : current.rows.length ? count(current.rows.length, "run") : empty;
    const hidden = matching.length - visible.length;
    more.replaceChildren(...(hidden > 0 ? [make("button", {class: "more", onclick: () => { whole.add(key); fill(); }}, `show the other ${hidden}`)] : []));
  }

  fill();
  return {node: box, update: next => { current = {...current, ...next}; fill(); }};
}

const runLink = (run, text) => make("a", {href: address("run", run.id)}, text);
const statusColumn = {name: "status", words: true, text: run => run.status, node: statusText};
const epochColumn = {name: "epochs", text: epochText, value: run => run.epochs,
  node: run => run.status === "running" ? [progressBar([["", part(run)]], `${Math.round(100 * part(run))} %`), epochText(run)] : epochText(run)};
const testColumn = {name: "test/accuracy", text: run => run.test === null ? "" : metricText("test/accuracy", run.test), value: run => run.test};
const secondsColumn = {name: "training", text: run => run.train_seconds ? duration(run.train_seconds) : "", value: run => run.train_seconds};
const rateColumn = {name: "lr", text: run => run.lr === null ? "" : shortNumber(run.lr), value: run => run.lr};
const reportColumn = {name: "report", words: true, text: run => run.report ? "report" : "",
  node: run => run.report ? make("a", {href: reportAddress(run.id), target: "_blank", rel: "noopener"}, "report") : ""};
const valueColumn = metric => ({name: metric, text: run => run.metric === metric ? (run.value === null ? "" : metricText(metric, run.value)) : "",
  value: run => run.metric === metric ? run.value : null});

// The overview ---------------------------------------------------------------------------------------------------------

function sweepState(sweep) {
  const members = ofSweep(sweep.id), found = counts(members);
  const total = members.length + sweep.waiting;
  const ranked = members.filter(run => run.value !== null).sort(better);
  const done = members.reduce((sum, run) => sum + (run.status === "running" ? part(run) : ["finished", "failed"].includes(run.status) ? 1 : 0), 0);
  return {members, found, total, best: ranked[0] || null, done: total ? done / total : 0};
}

function sweepBar({found, total, members}) {
  const running = members.filter(run => run.status === "running").reduce((sum, run) => sum + part(run), 0);
  return progressBar([["done", found.finished / total], ["failed", found.failed / total], ["", running / total]],
    `${found.finished} of ${total} runs have finished`);
}

function sweepCounts({found}, sweep) {
  const texts = [`${found.finished} done`, found.failed && `${found.failed} failed`, found.running && `${found.running} running`,
    found.stopped + found.unfinished && `${found.stopped + found.unfinished} not finished`,
    sweep.waiting && `${sweep.waiting} ${sweep.running ? "waiting" : "not started"}`];
  return texts.filter(Boolean).join(" · ");
}

function sweepCard(sweep) {
  const state = sweepState(sweep);
  return make("a", {class: "card", href: address("sweep", sweep.id)}, make("strong", {}, shortName(sweep.id)), sweepBar(state),
    make("span", {class: "row"}, make("span", {}, sweepCounts(state, sweep)), sweep.running ? timeLeft(sweep.ends_at, " left") : null),
    state.best && make("span", {class: "row"}, make("span", {class: "faint"}, `best ${state.best.metric}`),
      make("span", {class: "value"}, metricText(state.best.metric, state.best.value))),
    sweep.note && make("span", {class: "status failed"}, sweep.note));
}

function runCard(run) {
  return make("a", {class: "card", href: address("run", run.id)},
    make("strong", {}, `${run.model || "run"} on ${run.data || "?"}`), make("span", {class: "faint"}, run.overrides.join(" ") || shortName(run.id)),
    progressBar([["", part(run)]], `epoch ${epochText(run)}`), sparkline(run.curve),
    make("span", {class: "row"}, make("span", {}, `epoch ${epochText(run)}`), timeLeft(run.ends_at, " left")),
    make("span", {class: "row"}, make("span", {class: "faint"}, `best ${run.metric}`), make("span", {class: "value"}, metricText(run.metric, run.value))));
}

function failure(run) {
  return make("li", {class: run.status}, runLink(run, run.id), make("br"), run.error || run.note ||
    (run.status === "unfinished" ? "No process trains this run any more, and it left no result." : run.status));
}

function buildHome() {
  const parts = {top: make("div"), running: make("section"), failures: make("section"), sweeps: make("section"), runs: make("section")};
  const list = table("home", {columns: [], rows: [], order: newest, empty: ""});
  parts.runs.append(make("h2", {}, "Single runs"), list.node);
  document.getElementById("view").replaceChildren(...Object.values(parts));
  return {...parts, list};
}

function updateHome(parts) {
  const all = [...runs.values()], found = counts(all), alone = singles(), liveSweeps = [...sweeps.values()].filter(each => each.running);
  if (!all.length && !sweeps.size) { parts.top.replaceChildren(emptyState()); [parts.running, parts.failures, parts.sweeps, parts.runs].forEach(each => { each.hidden = true; }); return; }
  parts.runs.hidden = !alone.length;
  parts.top.replaceChildren(make("h1", {}, found.running ? `${count(found.running, "run")} training` : "Nothing is training"),
    tiles([["running", found.running], ["finished", found.finished], ["failed", found.failed || null],
      ["stopped", found.stopped || null], ["unfinished", found.unfinished || null], ["sweeps", sweeps.size || null]]));
  const live = alone.filter(run => run.status === "running").sort(newest);
  parts.running.hidden = !live.length && !liveSweeps.length;
  parts.running.replaceChildren(make("h2", {}, "Training now"), make("div", {class: "cards"}, liveSweeps.map(sweepCard), live.map(runCard)));
  const broken = all.filter(run => run.status === "failed" || run.note || (run.status === "unfinished" && now() - run.changed_at < 86400)).sort(newest);
  parts.failures.hidden = !broken.length;
  parts.failures.replaceChildren(make("h2", {}, "Failures"), make("ul", {class: "failures"}, broken.slice(0, 8).map(failure)),
    broken.length > 8 ? make("p", {class: "note"}, `and ${broken.length - 8} more: filter the tables for failed`) : "");
  const ended = [...sweeps.values()].filter(each => !each.running);
  parts.sweeps.hidden = !ended.length;
  parts.sweeps.replaceChildren(make("h2", {}, "Sweeps"), make("div", {class: "cards"}, ended.sort((a, b) => latest(b) - latest(a)).map(sweepCard)));
  const metrics = [...new Set(alone.map(run => run.metric))];
  parts.list.update({rows: alone, columns: [
    {name: "run", words: true, css: "name", text: run => shortName(run.id), node: run => runLink(run, shortName(run.id))}, statusColumn,
    {name: "data", words: true, text: run => run.data || ""}, {name: "model", words: true, text: run => run.model || ""},
    ...metrics.map(valueColumn), testColumn, epochColumn, secondsColumn, reportColumn]});
}

const latest = sweep => Math.max(0, ...ofSweep(sweep.id).map(run => run.changed_at || 0));

function emptyState() {
  const train = document.body.dataset.train;
  return make("div", {class: "empty"}, make("h1", {}, "No runs yet"),
    make("p", {}, "This page shows every run and sweep under the folder above as soon as it starts. Try, in another terminal:"),
    make("pre", {class: "command"}, `${train} model=mlp\n${train} -m model=mlp,lenet seed=0,1,2`),
    make("p", {class: "note"}, "If your runs are elsewhere, start digitlab watch with --root FOLDER."));
}

// A sweep --------------------------------------------------------------------------------------------------------------

function buildSweep(id) {
  const parts = {top: make("div"), chart: make("div", {class: "chartbox"}), legend: make("p", {class: "legend"}), list: null, curves: new Map(), drawn: 0};
  parts.list = table(`sweep ${id}`, {columns: [], rows: [], order: better, limit: 250, empty: "no run has started"});
  parts.rest = make("div", {hidden: true}, make("h2", {}, "Curves"), parts.legend, parts.chart, make("h2", {}, "Runs"), parts.list.node);
  document.getElementById("view").replaceChildren(parts.top, parts.rest);
  return parts;
}

function updateSweep(parts, id) {
  const sweep = sweeps.get(id);
  parts.rest.hidden = !sweep;
  if (!sweep) { parts.top.replaceChildren(crumbs(), make("h1", {}, shortName(id)), make("p", {}, loaded && !unread ? "There is no such sweep." : "Reading …")); return; }
  const state = sweepState(sweep), metric = state.best ? state.best.metric : (state.members[0] || {}).metric || "";
  const together = state.members.filter(run => run.status === "running" && run.population).length;
  const left = state.members.filter(run => run.halved_after_epoch !== null).length;
  parts.top.replaceChildren(crumbs(), make("h1", {}, shortName(id)), sweepBar(state), tiles([
    ["runs", `${state.found.finished} of ${state.total}`], ["running", state.found.running || null], ["failed", state.found.failed || null],
    ["waiting", sweep.running && sweep.waiting || null], ["not finished", state.found.stopped + state.found.unfinished || null],
    [`best ${metric}`, state.best ? runLink(state.best, metricText(metric, state.best.value)) : null], ["time left", sweep.running ? timeLeft(sweep.ends_at) : null],
    ["population", together ? count(together, "member") : null], ["ended early by halving", left || null],
    ["report", sweep.report ? make("a", {href: reportAddress(id), target: "_blank", rel: "noopener"}, "open") : null]]),
    sweep.note ? make("p", {class: "status failed"}, sweep.note) : "");
  const keys = sweep.keys.filter(key => state.members.some(run => settings(run).has(key)));
  parts.list.update({rows: state.members, columns: [
    {name: "run", words: true, text: run => String(run.number ?? shortName(run.id)), value: run => run.number, node: run => runLink(run, String(run.number ?? shortName(run.id)))},
    statusColumn, ...keys.map(key => ({name: key, words: true, text: run => settings(run).get(key) ?? ""})),
    ...[...new Set(state.members.map(run => run.metric))].map(valueColumn), testColumn, epochColumn, ...(state.found.running ? [rateColumn] : []), secondsColumn,
    ...(left ? [{name: "halved after", text: run => run.halved_after_epoch ?? ""}] : []),
    ...(state.found.failed ? [{name: "error", words: true, css: "long", text: run => run.error || ""}] : []),
    ...(state.members.some(run => run.report) ? [reportColumn] : [])]});
  const ranked = state.members.filter(run => run.metric === metric).sort(better).map((run, rank) => ({
    name: keys.map(key => `${key}=${settings(run).get(key) ?? ""}`).join(" ") || shortName(run.id), css: rank < 6 ? `run c${rank}` : "run",
    points: parts.curves.get(run.id) || [], open: () => { location.hash = address("run", run.id); }}));
  const coloured = ranked.filter(line => line.css !== "run" && line.points.length);
  parts.legend.replaceChildren(...coloured.map(swatch), ranked.length > coloured.length ? "grey: other runs" : "");
  drawChart(parts.chart, {lines: ranked.reverse(), xLabel: "epoch", metric});
}

const crumbs = (...more) => make("p", {class: "crumbs"}, make("a", {href: "#"}, "all runs"), ...more);

// A run ----------------------------------------------------------------------------------------------------------------

function buildRun() {
  const parts = {top: make("div"), charts: make("div", {class: "charts"}), rows: [], generation: -1, losses: [], lossCount: 0, boxes: new Map()};
  document.getElementById("view").replaceChildren(parts.top, parts.charts);
  return parts;
}

function updateRun(parts, id) {
  const run = runs.get(id);
  if (!run) { parts.top.replaceChildren(crumbs(), make("h1", {}, shortName(id)), make("p", {}, loaded && !unread ? "There is no such run." : "Reading …")); return; }
  const up = run.sweep ? [" / ", make("a", {href: address("sweep", run.sweep)}, shortName(run.sweep))] : [];
  const last = parts.rows[parts.rows.length - 1] || {};
  parts.top.replaceChildren(crumbs(...up), make("h1", {}, `${run.model || "run"} on ${run.data || "?"} · ${shortName(id)}`), progressBar([[run.status === "finished" ? "done" : "", run.status === "finished" ? 1 : part(run)]], `epoch ${epochText(run)}`),
    tiles([["status", statusText(run)], ["epoch", epochText(run)], ["time left", timeLeft(run.ends_at)],
      [`best ${run.metric}`, metricText(run.metric, run.value)], ["test/accuracy", run.test === null ? null : metricText("test/accuracy", run.test)],
      ["learning rate", last.lr === undefined ? null : shortNumber(last.lr)], ["images per second", last.images_per_second ? shortNumber(last.images_per_second) : null],
      ["training", run.train_seconds ? duration(run.train_seconds) : null], ["seed", run.seed], ["member of a population", run.population ? "yes" : null],
      ["ended early by halving", run.halved_after_epoch === null ? null : `after epoch ${run.halved_after_epoch}`],
      ["report", run.report ? make("a", {href: reportAddress(id), target: "_blank", rel: "noopener"}, "open") : null]]),
    run.error || run.note ? make("p", {class: `status ${run.error ? run.status : "failed"}`}, run.error || run.note) : "",
    resumeHint(run), run.overrides.length ? make("pre", {class: "command"}, run.overrides.join(" ")) : "");
  const column = name => parts.rows.filter(row => name in row).map(row => [row.epoch, row[name]]);
  const both = name => [["train", "training"], ["val", "validation"]].map(([split, title]) => ({name: title, css: split, points: column(`${split}/${name}`)}));
  const [, monitored] = run.metric.split("/");
  const drawn = [...new Set(["accuracy", "loss", monitored])].map(name => [name, {lines: both(name), xLabel: "epoch", metric: name}]);
  drawn.push(["learning rate", {lines: [{name: "learning rate", css: "train", points: column("lr")}], xLabel: "epoch", metric: "lr", log: true}]);
  drawn.push(["images per second", {lines: [{name: "images per second", css: "train", points: column("images_per_second")}], xLabel: "epoch", metric: "speed"}]);
  if (parts.losses.length) drawn.push(["loss of single mini-batches", {lines: [{name: "loss", css: "train", points: parts.losses}], xLabel: "step", metric: "loss", log: true}]);
  for (const [title, chart] of drawn) {
    if (!parts.boxes.has(title)) {
      const box = make("div", {class: "chartbox"});
      const legend = chart.lines.length > 1 ? make("span", {class: "legend"}, chart.lines.map(line => swatch(line))) : "";
      parts.charts.append(make("figure", {}, make("figcaption", {}, title, legend), box));
      parts.boxes.set(title, box);
    }
    const box = parts.boxes.get(title);
    // A run that is over gets no more values, so an empty chart would stay empty.
    box.parentNode.hidden = run.status !== "running" && !chart.lines.some(line => line.points.length);
    drawChart(box, chart);
  }
}

function swatch(line) {
  const svg = svgNode("svg", {viewBox: "0 0 27 10", "aria-hidden": "true"});
  svg.append(svgNode("path", {d: "M0 5H27", class: line.css}));
  return make("span", {class: "swatch"}, svg, make("span", {}, line.name));
}

function resumeHint(run) {
  if (run.sweep !== null || !["unfinished", "stopped"].includes(run.status) || run.id === ".") return "";
  const folder = `${document.getElementById("root").textContent}/${run.id}`;
  const quoted = /^[\w@%+=:,./-]+$/.test(folder) ? folder : `'${folder.replaceAll("'", "'\\''")}'`;
  return make("p", {class: "note"}, "To continue: ", make("code", {}, `${document.body.dataset.train} resume=${quoted}`));
}

// The views, and asking the server -------------------------------------------------------------------------------------

const BUILD = {home: buildHome, sweep: buildSweep, run: buildRun}, UPDATE = {home: updateHome, sweep: updateSweep, run: updateRun};

function readAddress() {
  const [kind, id] = location.hash.slice(1).split("=");
  let name = "";
  try { name = decodeURIComponent(id || ""); } catch { /* not an address of this page: show the overview */ }
  return name && (kind === "sweep" || kind === "run") ? {kind, id: name} : {kind: "home", id: ""};
}

function show() {
  view = readAddress();
  pressed = false;
  view.parts = BUILD[view.kind](view.id);
  window.scrollTo(0, 0);
  update();
  ask();
}

// While the reader presses a link or selects text, the page must not replace what is under the pointer.
let pressed = false, late = false;

function isHeld() {
  const selection = document.getSelection();
  return pressed || Boolean(selection && !selection.isCollapsed && document.getElementById("view").contains(selection.anchorNode));
}

function update() {
  if (!loaded) return;
  document.title = title();
  late = isHeld();
  if (late) return;
  const focused = document.activeElement && document.activeElement.getAttribute("href");
  UPDATE[view.kind](view.parts, view.id);
  if (!focused || document.activeElement !== document.body) return;
  // The link that had the focus was replaced by a new one.
  const link = [...document.querySelectorAll("#view a")].find(each => each.getAttribute("href") === focused);
  if (link) link.focus({preventScroll: true});
}

// Progress first, because a browser's tab shows only a few words.
function title() {
  const run = view.kind === "run" && runs.get(view.id), sweep = view.kind === "sweep" && sweeps.get(view.id);
  if (run) return `${run.status === "running" ? `${epochText(run)} · ${metricText(run.metric, run.value)}` : run.status} · ${shortName(run.id)}`;
  if (sweep) { const state = sweepState(sweep); return `${state.found.finished}/${state.total}${state.found.failed ? ` · ${state.found.failed} failed` : ""} · ${shortName(sweep.id)}`; }
  const all = [...runs.values()], live = all.filter(each => each.status === "running");
  if (!live.length) return "digitlab watch";
  const liveSweeps = [...sweeps.values()].filter(each => each.running);
  const parts = [...live.filter(each => each.sweep === null).map(part), ...liveSweeps.map(each => sweepState(each).done)];
  return `${Math.round(100 * parts.reduce((a, b) => a + b, 0) / Math.max(1, parts.length))} % · ${count(live.length, "run")} training`;
}

function question() {
  const asked = new URLSearchParams({since: version});
  const {kind, id, parts} = view;
  if (kind === "run") { asked.set("run", id); asked.set("rows", parts.rows.length); asked.set("generation", parts.generation); asked.set("losses", parts.lossCount); }
  if (kind === "sweep") { asked.set("sweep", id); asked.set("drawn", parts.drawn); }
  return `state?${asked}`;
}

function take(answer, asked) {
  const changed = !loaded || answer.runs.length || answer.sweeps.length || answer.removed.length || unread !== answer.unread;
  ({version, unread} = answer);
  clockOffset = answer.now - Date.now() / 1000;
  document.getElementById("root").textContent = answer.root;
  for (const id of answer.removed) { runs.delete(id); sweeps.delete(id); }
  for (const run of answer.runs) runs.set(run.id, run);
  for (const sweep of answer.sweeps) sweeps.set(sweep.id, sweep);
  loaded = true;
  const curves = asked === view && takeCurves(answer);
  if (changed || curves || late) update();
}

function takeCurves(answer) {
  const {kind, id, parts} = view;
  if (kind === "run" && answer.run && answer.run.id === id) {
    const {generation, first, rows, losses, loss_count} = answer.run;
    parts.rows.splice(first, Infinity, ...rows);
    parts.generation = generation;
    if (losses) { parts.losses = losses; parts.lossCount = loss_count; }
    return rows.length || losses;
  }
  if (kind === "sweep" && answer.curves && answer.curves.id === id) {
    parts.drawn = answer.version;
    for (const [run, points] of Object.entries(answer.curves.curves)) parts.curves.set(run, points);
    return Object.keys(answer.curves.curves).length;
  }
  return false;
}

async function ask() {
  clearTimeout(asking);
  const connection = document.getElementById("connection"), asked = view;
  let pause = document.hidden ? 5000 : 1000;
  try {
    const response = await fetch(question(), {cache: "no-store"});
    if (!response.ok) throw new Error(await response.text());
    take(await response.json(), asked);
    connection.className = "";
    connection.textContent = unread ? `reading ${unread} more runs …` : late ? "updates wait while text is selected" : "";
    if (unread) pause = 50;
  } catch (error) {
    connection.className = "lost";
    connection.textContent = error instanceof TypeError ? "no connection: has digitlab watch ended?" : String(error.message || error);
    pause = 3000;
  }
  if (asked === view) { clearTimeout(asking); asking = setTimeout(ask, pause); }
}

function tick() {
  for (const node of document.querySelectorAll("[data-ends]")) node.textContent = leftText(+node.dataset.ends, node.dataset.word);
}

window.addEventListener("hashchange", show);
window.addEventListener("resize", update);
document.addEventListener("pointerdown", () => { pressed = true; });
// A click comes after the pointer is up.
for (const name of ["pointerup", "pointercancel"]) document.addEventListener(name, () => setTimeout(() => { pressed = false; }, 0));
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
document.addEventListener("keydown", event => {
  const input = document.querySelector("input[type=search]");
  if (event.key === "/" && input && document.activeElement !== input) { event.preventDefault(); input.focus(); }
  else if (event.key === "Escape" && document.activeElement === input) input.blur();
  else if (event.key === "Escape" && view.kind !== "home") history.length > 1 ? history.back() : (location.hash = "");
});
setInterval(tick, 1000);
show();
