// Connects the parts of the page: an image comes from the paper, a file or the test set, and all networks answer.

const seen = document.getElementById("seen");
const state = document.getElementById("state");
const announcement = document.getElementById("announcement");
const summary = document.getElementById("summary");
const seenNote = document.getElementById("seen-note");
const usualNote = seenNote.textContent;

let views = [];
let testImages = null;
let game = null;
// The image that the networks should answer for, null if there is none, undefined if they have answered.
let wanted;
let working = false;
let announcing;

// Let the networks answer for an image, Uint8Array (C, H, W), or for none. The latest call counts.
async function ask(pixels) {
  wanted = pixels;
  if (working || views.length === 0) return;
  working = true;
  while (wanted !== undefined) {
    const image = wanted;
    wanted = undefined;
    if (image === null) {
      views.forEach((view) => view.empty());
      summary.textContent = "";
      continue;
    }
    const texts = [];
    for (const view of views) texts.push(await view.show(image));
    summary.textContent = views.map((view, i) => `${facts.networks[i].name}: ${view.summary}`).join(" · ");
    announce(texts.map((text, i) => `${facts.networks[i].name}: ${text}`).join("; "));
    await pause();
    for (const view of views) {
      if (wanted === undefined) await view.showOcclusion(image, () => wanted !== undefined);
    }
  }
  working = false;
}

// Screen readers hear an answer once nothing has changed for a moment.
function announce(text) {
  clearTimeout(announcing);
  announcing = setTimeout(() => { announcement.textContent = text; }, 700);
}

function showSeen(pixels, text) {
  if (pixels) drawImage(seen, pixels);
  else seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
  seen.setAttribute("aria-label", text);
  seenNote.textContent = pixels ? usualNote : text;
}

// Convert a picture to an image of the data set and ask the networks; null is an empty paper.
function see(picture) {
  try {
    const pixels = picture && asDataSetImage(picture, facts.image_shape, facts.margin_pixels);
    showSeen(pixels, pixels ? `Your picture with ${WIDTH} by ${HEIGHT} pixels` : usualNote);
    ask(pixels);
  } catch (error) {
    if (!(error instanceof PictureError)) throw error;
    showSeen(null, `The network sees nothing, because the picture is ${error.message}.`);
    ask(null);
  }
}

async function openFile(file) {
  if (!file) return;
  try {
    const picture = await decodePicture(file);
    sheet.show(picture.bitmap, picture.width, picture.height);
    see(picture);
  } catch (error) {
    showSeen(null, `${file.name || "The picture"} can't be read as a picture by this browser.`);
    ask(null);
  }
}

function testImage(index) {
  return testImages.slice(index * PIXELS, (index + 1) * PIXELS);
}

const className = (index) => facts.class_names[facts.test_labels[index]];

function showTestImage(index) {
  const pixels = testImage(index);
  const canvas = document.createElement("canvas");
  drawImage(canvas, pixels);
  sheet.show(canvas, WIDTH, HEIGHT);
  showSeen(pixels, `Test image ${index + 1}`);
  seenNote.textContent = `Test image ${index + 1}. Its true class is ${className(index)}.`;
  ask(pixels);
}

function listTestImages() {
  facts.test_labels.forEach((_, index) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.setAttribute("aria-label", `Test image ${index + 1}, ${className(index)}`);
    const canvas = document.createElement("canvas");
    drawImage(canvas, testImage(index));
    button.append(canvas);
    button.addEventListener("click", () => {
      showTestImage(index);
      document.getElementById("input-title").scrollIntoView({ block: "start" });
    });
    document.getElementById("images").append(button);
  });
}

// The guessing game -----------------------------------------------------------------------------------------------------

class Game {
  constructor() {
    this.order = facts.test_labels.map((_, index) => index).sort(() => Math.random() - 0.5);
    this.asked = 0;
    this.right = { you: 0, networks: views.map(() => 0) };
    this.round = -1;
    this.choices = facts.class_names.map((name, label) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      button.addEventListener("click", () => this.guess(label));
      document.getElementById("choices").append(button);
      return button;
    });
    document.getElementById("next").addEventListener("click", () => this.next());
    document.getElementById("inspect").addEventListener("click", () => showTestImage(this.index));
    this.next();
  }

  get index() {
    return this.order[this.round % this.order.length];
  }

  next() {
    this.round += 1;
    drawImage(document.getElementById("riddle"), testImage(this.index));
    document.getElementById("verdict").textContent = "";
    this.allow(true);
  }

  // Let the user guess if `open`; otherwise, let the user look at the answer.
  allow(open) {
    for (const button of this.choices) {
      button.disabled = !open;
      button.classList.remove("right", "wrong");
    }
    document.getElementById("inspect").disabled = open;
  }

  async guess(label) {
    this.allow(false);
    const truth = facts.test_labels[this.index];
    this.choices[truth].classList.add("right");
    if (label !== truth) this.choices[label].classList.add("wrong");
    const pixels = testImage(this.index);
    this.asked += 1;
    this.right.you += label === truth;
    const parts = [label === truth ? `Right: ${facts.class_names[truth]}.` : `It is ${facts.class_names[truth]}.`];
    for (const [i, view] of views.entries()) {
      const { probabilities } = await view.network.evaluate(pixels, 1);
      const best = argmax(probabilities);
      const correct = view.names[best] === facts.class_names[truth];
      this.right.networks[i] += correct;
      parts.push(`${facts.networks[i].name} says ${view.names[best]} (${percent(probabilities[best])})${correct ? "" : ", which is wrong"}.`);
    }
    document.getElementById("verdict").textContent = parts.join(" ");
    const scores = [`you ${this.right.you}`, ...this.right.networks.map((right, i) => `${facts.networks[i].name} ${right}`)];
    document.getElementById("score").textContent = `Right of ${this.asked}: ${scores.join(", ")}.`;
    document.getElementById("next").focus();
  }
}

// Start -----------------------------------------------------------------------------------------------------------------

let picture;
let frame = null;
// At most one conversion for each frame that the browser draws.
const sheet = new Paper((changed) => {
  picture = changed;
  frame ??= requestAnimationFrame(() => {
    frame = null;
    see(picture);
  });
});

document.getElementById("file").addEventListener("change", ({ target }) => {
  openFile(target.files[0]);
  target.value = "";
});
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    if (name === "drop") openFile(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => openFile(event.clipboardData.files[0]));
document.getElementById("random").addEventListener("click", () => {
  if (testImages) showTestImage(Math.floor(Math.random() * facts.test_labels.length));
});

async function start() {
  try {
    const networks = await startNetworks();
    testImages = await unpack("test-images");
    views = [...document.querySelectorAll(".network")].map((section, i) => new NetworkView(section, facts.networks[i], networks[i]));
    // The first call prepares the network's memory, so that the first answer is as fast as the others.
    for (const view of views) await view.network.evaluate(testImage(0), 1);
    listTestImages();
    game = new Game();
    state.textContent = "Ready.";
    document.body.dataset.ready = "true";
    if (wanted !== undefined) ask(wanted);
  } catch (error) {
    state.textContent = `This browser can't run the network: ${error.message}`;
    throw error;
  }
}

start();
