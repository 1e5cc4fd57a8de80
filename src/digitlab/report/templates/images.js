// The test images of the cells of a confusion matrix. Each browser belongs to the matrix in the same section.

const ANY = "any", WRONG = "wrong";
const MOST_TILES = 300;
// Probabilities are stored as bytes: 255 stands for 1.
const percent = (byte) => (byte >= 254 ? "> 99 %" : byte <= 1 ? "< 1 %" : `${Math.round(byte / 2.55)} %`);

function make(kind, className, text) {
  const element = document.createElement(kind);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

class ImageBrowser {
  constructor(place) {
    this.place = place;
    this.data = JSON.parse(place.dataset.browser);
    this.bytes = null; // decoded on the first click
    this.table = place.closest("section").querySelector("table.heat");
    this.choose = Object.fromEntries(["run", "true", "predicted"].map((name) => [name, place.querySelector(`select.${name}`)]));
    const classes = this.data.classes.map((name, index) => [String(index), name]);
    this.fill(this.choose.true, [[ANY, "any"], ...classes]);
    this.fill(this.choose.predicted, [[WRONG, "any wrong one"], [ANY, "any"], ...classes]);
    for (const select of Object.values(this.choose)) if (select) select.addEventListener("change", () => this.show());
    if (this.choose.run) this.choose.run.addEventListener("change", () => this.drawMatrix());
    this.drawMatrix();
    place.hidden = false;
  }

  fill(select, options) {
    for (const [value, text] of options) {
      const option = make("option", "", text);
      option.value = value;
      select.append(option);
    }
  }

  get run() { return this.choose.run ? Number(this.choose.run.value) : 0; }

  cells() { return [...this.table.tBodies[0].rows].map((row) => [...row.cells].slice(1)); }

  // Write the numbers of the chosen run into the matrix, as buttons that show the images of a cell.
  // The counts are a flat list of three numbers for each cell with images: true class, predicted class, count.
  drawMatrix() {
    const size = this.data.classes.length, counts = Array.from({ length: size }, () => Array(size).fill(0));
    const flat = this.data.counts[this.run];
    for (let at = 0; at < flat.length; at += 3) counts[flat[at]][flat[at + 1]] = flat[at + 2];
    const sums = counts.map((row) => Math.max(row.reduce((a, b) => a + b, 0), 1));
    let largest = 0;
    counts.forEach((row, t) => row.forEach((count, p) => { if (t !== p) largest = Math.max(largest, count / sums[t]); }));
    this.cells().forEach((row, t) => {
      const right = counts[t][t];
      row.forEach((cell, p) => {
        if (p === size) { cell.textContent = `${(100 * right / sums[t]).toFixed(1)} %`; return; }
        const count = counts[t][p], share = count / sums[t], shade = t === p || !largest ? 0 : share / largest;
        cell.style.setProperty("--share", shade.toFixed(3));
        cell.classList.toggle("deep", shade > 0.8);
        const text = `true class ${this.data.classes[t]}, predicted ${this.data.classes[p]}: ${count} (${(100 * share).toFixed(1)} %)`;
        cell.title = text;
        if (!count) { cell.textContent = size > 25 ? "" : "0"; return; }
        const button = make("button", "", String(count));
        button.type = "button";
        button.setAttribute("aria-label", `${text}. Show these images`);
        button.addEventListener("click", () => this.pick(t, p));
        cell.replaceChildren(button);
      });
    });
  }

  pick(truth, predicted) {
    this.choose.true.value = String(truth);
    this.choose.predicted.value = String(predicted);
    this.show();
    this.place.querySelector(".found").scrollIntoView({ block: "nearest" });
  }

  // The most probable classes of an image with their probabilities, as pairs [class, byte].
  answers(image) {
    if (!this.bytes) this.bytes = Uint8Array.from(atob(this.data.predictions), (letter) => letter.charCodeAt(0));
    const { answers, numbers } = this.data, start = 2 * answers * (this.run * numbers.length + image);
    return Array.from({ length: Math.min(answers, this.data.classes.length) }, (_, rank) =>
      [this.bytes[start + rank], this.bytes[start + answers + rank]]);
  }

  show() {
    const truth = this.choose.true.value, predicted = this.choose.predicted.value, found = [];
    this.data.labels.forEach((label, image) => {
      const [first, confidence] = this.answers(image)[0];
      const fits = predicted === ANY || (predicted === WRONG ? first !== label : first === Number(predicted));
      if (fits && (truth === ANY || label === Number(truth))) found.push([image, first === label, confidence]);
    });
    // Mistakes first, the most confident one in front; then correct predictions, the least confident one in front.
    found.sort((a, b) => a[1] - b[1] || (a[1] ? a[2] - b[2] : b[2] - a[2]) || a[0] - b[0]);
    let total = 0;
    const flat = this.data.counts[this.run];
    for (let at = 0; at < flat.length; at += 3) {
      const fits = predicted === ANY || (predicted === WRONG ? flat[at] !== flat[at + 1] : flat[at + 1] === Number(predicted));
      if (fits && (truth === ANY || flat[at] === Number(truth))) total += flat[at + 2];
    }
    const named = (select) => select.selectedOptions[0].textContent;
    const cut = found.length > MOST_TILES ? `; the first ${MOST_TILES} are shown` : "";
    this.place.querySelector(".found").textContent = `True class ${named(this.choose.true)}, predicted ` +
      `${named(this.choose.predicted)}: ${total} images, ${found.length} of them on this page${cut}.`;
    this.place.querySelector(".answer").replaceChildren();
    this.place.querySelector(".gallery").replaceChildren(...found.slice(0, MOST_TILES).map(([image]) => this.tile(image)));
  }

  tile(image) {
    const { classes, labels, numbers, size: [width, height], columns } = this.data;
    const scale = Math.max(1, Math.round(56 / width)), tile = make("div", `tile ${this.place.dataset.tile}`);
    const answers = this.answers(image).map(([label, byte]) => `${classes[label]} ${percent(byte)}`).join(", ");
    const text = `test image ${numbers[image]}, true class ${classes[labels[image]]}, predicted ${answers}`;
    Object.assign(tile.style, {
      width: `${width * scale}px`, height: `${height * scale}px`,
      backgroundSize: `${columns * width * scale}px auto`,
      backgroundPosition: `${-(image % columns) * width * scale}px ${-Math.floor(image / columns) * height * scale}px`,
    });
    tile.classList.toggle("wrong", this.answers(image)[0][0] !== labels[image]);
    tile.tabIndex = 0;
    tile.setAttribute("role", "listitem");
    tile.setAttribute("aria-label", text);
    for (const event of ["mouseenter", "focus"]) tile.addEventListener(event, () => this.explain(image));
    return tile;
  }

  // The bars of probabilities of the image under the pointer or with the focus.
  explain(image) {
    const { classes, labels, numbers } = this.data;
    const lines = this.answers(image).map(([label, byte]) => {
      const line = make("div", label === labels[image] ? "bar true" : "bar"), fill = make("span", "fill");
      fill.style.width = `${byte / 2.55}%`;
      const track = make("span", "track");
      track.append(fill);
      line.append(make("span", "name", classes[label]), track, make("span", "value", percent(byte)));
      return line;
    });
    const head = make("div", "head", `test image ${numbers[image]}, true class ${classes[labels[image]]}`);
    this.place.querySelector(".answer").replaceChildren(head, ...lines);
  }
}

for (const place of document.querySelectorAll(".browser")) new ImageBrowser(place);
