// Shows what the networks answer: probabilities, the parts of the image that matter, and hidden units.

const [CHANNELS, HEIGHT, WIDTH] = facts.image_shape;
const PIXELS = CHANNELS * HEIGHT * WIDTH;
// With more classes, only the most probable ones are listed.
const LISTED_CLASSES = 12;
// The occlusion map of a large network has fewer patches, so that it takes about this long.
const OCCLUSION_MILLISECONDS = 1500;

const percent = (value) => `${(100 * value).toFixed(1)} %`;
const argmax = (values) => values.indexOf(largest(values));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Let the browser draw and react.
const pause = () => new Promise((resolve) => { setTimeout(resolve); });

// Draw an image of the data set, Uint8Array (C, H, W), on a canvas of its size; CSS enlarges it.
function drawImage(canvas, pixels) {
  Object.assign(canvas, { width: WIDTH, height: HEIGHT });
  const image = new ImageData(WIDTH, HEIGHT);
  for (let i = 0; i < HEIGHT * WIDTH; i++) {
    for (let band = 0; band < 3; band++) image.data[4 * i + band] = pixels[(CHANNELS === 3 ? band : 0) * HEIGHT * WIDTH + i];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

class NetworkView {
  constructor(section, description, network) {
    Object.assign(this, { section, network, names: description.class_names });
    this.bars = section.querySelector(".bars");
    this.answer = section.querySelector(".answer");
    this.occlusion = section.querySelector(".occlusion");
    this.units = section.querySelector(".units");
    this.milliseconds = 0;
    this.fastest = Infinity;
    this.rows = Array.from({ length: Math.min(this.names.length, LISTED_CLASSES) }, () => {
      const row = document.createElement("li");
      for (const name of ["name", "bar", "value"]) row.append(Object.assign(document.createElement("span"), { className: name }));
      this.bars.append(row);
      return row;
    });
    this.empty();
  }

  empty() {
    this.probabilities = null;
    this.answer.textContent = "–";
    this.showBars(new Float32Array(this.names.length));
    for (const [canvas, name] of [[this.occlusion, "Occlusion map"], [this.units, "Hidden units"]]) {
      if (!canvas) continue;
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      canvas.setAttribute("aria-label", `${name}, nothing yet`);
    }
  }

  // Answer for one image; the result is the text for screen readers.
  async show(pixels) {
    const start = performance.now();
    const { probabilities, units } = await this.network.evaluate(pixels, 1);
    this.milliseconds = performance.now() - start;
    this.fastest = Math.min(this.fastest, this.milliseconds);
    this.probabilities = probabilities;
    const best = argmax(probabilities);
    this.answer.textContent = `${this.names[best]} `;
    this.summary = `${this.names[best]} (${percent(probabilities[best])})`;
    const detail = document.createElement("span");
    detail.textContent = `${percent(probabilities[best])} · ${Math.max(1, Math.round(this.milliseconds))} ms`;
    this.answer.append(detail);
    this.showBars(probabilities);
    if (units && this.units) this.showUnits(units);
    return `${this.names[best]}, ${Math.round(100 * probabilities[best])} per cent`;
  }

  showBars(probabilities) {
    const order = [...probabilities.keys()];
    if (order.length > this.rows.length) order.sort((a, b) => probabilities[b] - probabilities[a]);
    const best = probabilities.some((value) => value > 0) ? argmax(probabilities) : -1;
    this.rows.forEach((row, number) => {
      const index = order[number];
      const [name, bar, value] = row.children;
      name.textContent = this.names[index];
      bar.style.setProperty("--share", probabilities[index]);
      value.textContent = percent(probabilities[index]);
      row.classList.toggle("best", index === best);
    });
  }

  // One cell per unit; orange is positive, blue negative, and the strongest unit has the full colour.
  showUnits(units) {
    const columns = Math.min(units.length, Math.ceil(Math.sqrt(units.length * 2)));
    const rows = Math.ceil(units.length / columns);
    Object.assign(this.units, { width: columns * 8, height: rows * 8 });
    const context = this.units.getContext("2d");
    const most = largest(units.map(Math.abs)) || 1;
    const [positive, negative, line] = [colour("--orange"), colour("--blue"), colour("--line")];
    units.forEach((value, i) => {
      const place = [(i % columns) * 8, Math.floor(i / columns) * 8, 7, 7];
      context.globalAlpha = 1;
      context.fillStyle = line;
      context.fillRect(...place);
      context.globalAlpha = Math.abs(value) / most;
      context.fillStyle = value > 0 ? positive : negative;
      context.fillRect(...place);
    });
    const active = units.filter((value) => value > 0).length;
    const text = `${units.length} units of the last hidden layer, ${active} of them positive`;
    this.section.querySelector(".unit-text").textContent = text;
    this.units.setAttribute("aria-label", text);
  }

  // Hide one square after the other, and measure by how much the probability of the answer falls. If `stopped()` is
  // true, stop early.
  async showOcclusion(pixels, stopped) {
    const answer = argmax(this.probabilities);
    const side = Math.max(2, Math.round(Math.min(HEIGHT, WIDTH) / 4.5));
    const strides = [2, 3, 4, 6];
    const count = (stride) => Math.ceil((HEIGHT - side) / stride + 1) * Math.ceil((WIDTH - side) / stride + 1);
    const stride = strides.find((each) => count(each) * this.fastest <= OCCLUSION_MILLISECONDS) ?? strides.at(-1);
    const starts = (length) => {
      const places = [];
      for (let place = 0; place < length - side; place += stride) places.push(place);
      return [...places, length - side];
    };
    const fill = hidingColour(pixels);
    const [falls, covers] = [new Float32Array(HEIGHT * WIDTH), new Float32Array(HEIGHT * WIDTH)];
    const columns = starts(WIDTH);
    for (const top of starts(HEIGHT)) {
      const images = new Uint8Array(columns.length * PIXELS);
      columns.forEach((left, number) => images.set(hidden(pixels, fill, top, left, side), number * PIXELS));
      const { probabilities } = await this.network.evaluate(images, columns.length);
      columns.forEach((left, number) => {
        const fall = this.probabilities[answer] - probabilities[number * this.names.length + answer];
        for (let row = top; row < top + side; row++) {
          for (let column = left; column < left + side; column++) {
            falls[row * WIDTH + column] += fall;
            covers[row * WIDTH + column] += 1;
          }
        }
      });
      await pause();
      if (stopped()) return;
    }
    this.drawOcclusion(pixels, falls.map((fall, i) => fall / covers[i]), this.names[answer]);
  }

  drawOcclusion(pixels, falls, name) {
    drawImage(this.occlusion, pixels);
    const context = this.occlusion.getContext("2d");
    const most = Math.max(largest(falls.map(Math.abs)), 0.01);
    const [orange, blue] = ["#f08a3c", "#56a9e8"];
    falls.forEach((fall, i) => {
      context.globalAlpha = 0.75 * (Math.abs(fall) / most);
      context.fillStyle = fall > 0 ? orange : blue;
      context.fillRect(i % WIDTH, Math.floor(i / WIDTH), 1, 1);
    });
    const place = argmax(falls);
    const part = (index, length, names) => names[Math.min(Math.floor((3 * index) / length), 2)];
    const where = `${part(Math.floor(place / WIDTH), HEIGHT, ["top", "middle", "bottom"])} ${part(place % WIDTH, WIDTH, ["left", "centre", "right"])}`;
    const text = largest(falls) > 0 ? `Hiding the ${where} lowers the probability of ${name} most, by ${percent(largest(falls))}` : `No part is needed for ${name}`;
    this.occlusion.setAttribute("aria-label", `Occlusion map. ${text}`);
  }
}

// The colour of a hidden square: black where images are figures on black, else the mean of each channel.
function hidingColour(pixels) {
  return Array.from({ length: CHANNELS }, (_, channel) => {
    if (facts.pen) return 0;
    const band = pixels.subarray(channel * HEIGHT * WIDTH, (channel + 1) * HEIGHT * WIDTH);
    return band.reduce((sum, value) => sum + value, 0) / band.length;
  });
}

function hidden(pixels, fill, top, left, side) {
  const copy = pixels.slice();
  fill.forEach((value, channel) => {
    for (let row = top; row < top + side; row++) {
      const start = (channel * HEIGHT + row) * WIDTH + left;
      copy.fill(value, start, start + side);
    }
  });
  return copy;
}
