// The paper on which the user draws with mouse, finger, pen or keyboard. It also shows pictures from files.

const paper = document.getElementById("paper");
const paperContext = paper.getContext("2d", { willReadFrequently: true });

// `changed` is called after each change with the picture {data, width, height}, or null if the paper is empty.
class Paper {
  constructor(changed) {
    this.changed = changed;
    // Strokes are lists of points {x, y, width}, in pixels of the canvas.
    this.strokes = [];
    this.keyboardPen = { x: paper.width / 2, y: paper.height / 2, down: false };
    this.clear();
    if (facts.pen) this.listen();
  }

  clear() {
    this.strokes = [];
    this.keyboardPen.down = false;
    this.drawAll();
    this.changed(null);
  }

  undo() {
    this.strokes.pop();
    this.keyboardPen.down = false;
    this.drawAll();
    this.report();
  }

  // Show the pixels of an image of the data set, or a picture, as large as fits. The next stroke starts on new paper.
  show(source, width, height) {
    this.strokes = [];
    this.drawAll();
    const scale = Math.min(paper.width / width, paper.height / height);
    paperContext.imageSmoothingEnabled = scale < 4;
    const [left, top] = [(paper.width - width * scale) / 2, (paper.height - height * scale) / 2];
    paperContext.drawImage(source, left, top, width * scale, height * scale);
  }

  report() {
    const { width, height } = paper;
    this.changed(this.strokes.length === 0 ? null : { data: paperContext.getImageData(0, 0, width, height).data, width, height });
  }

  drawAll() {
    paperContext.fillStyle = "#fff";
    paperContext.fillRect(0, 0, paper.width, paper.height);
    for (const stroke of this.strokes) stroke.forEach((point, i) => this.drawLine(stroke[Math.max(i - 1, 0)], point));
  }

  drawLine(from, to) {
    Object.assign(paperContext, { strokeStyle: "#000", fillStyle: "#000", lineCap: "round", lineWidth: to.width });
    paperContext.beginPath();
    paperContext.moveTo(from.x, from.y);
    paperContext.lineTo(to.x, to.y);
    paperContext.stroke();
    // A line without length draws nothing, but a click should leave a dot.
    paperContext.beginPath();
    paperContext.arc(to.x, to.y, to.width / 2, 0, 2 * Math.PI);
    paperContext.fill();
  }

  begin(point) {
    if (this.strokes.length === 0) this.drawAll();
    this.strokes.push([]);
    this.extend(point);
  }

  extend(point) {
    const stroke = this.strokes.at(-1);
    this.drawLine(stroke.at(-1) ?? point, point);
    stroke.push(point);
  }

  // The position of the pointer on the canvas, and the width of the line; pressing a pen makes the line wider.
  point(event) {
    const area = paper.getBoundingClientRect();
    const width = Number(document.getElementById("pen-width").value);
    return {
      x: ((event.clientX - area.left) * paper.width) / area.width,
      y: ((event.clientY - area.top) * paper.height) / area.height,
      width: event.pointerType === "pen" && event.pressure > 0 ? width * (0.5 + event.pressure) : width,
    };
  }

  listen() {
    let drawing = null;
    paper.addEventListener("pointerdown", (event) => {
      if (drawing !== null || event.button > 0) return;
      drawing = event.pointerId;
      paper.classList.remove("keys");
      paper.setPointerCapture(drawing);
      this.begin(this.point(event));
      this.report();
    });
    paper.addEventListener("pointermove", (event) => {
      if (event.pointerId !== drawing) return;
      const events = event.getCoalescedEvents?.() ?? [];
      for (const each of events.length > 0 ? events : [event]) this.extend(this.point(each));
      this.report();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      paper.addEventListener(name, (event) => { if (event.pointerId === drawing) drawing = null; });
    }
    document.getElementById("clear").addEventListener("click", () => this.clear());
    document.getElementById("undo").addEventListener("click", () => this.undo());
    paper.addEventListener("keydown", (event) => this.key(event));
    this.showPen();
  }

  key(event) {
    const pen = this.keyboardPen;
    const step = event.shiftKey ? 2 : 8;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const point = () => ({ x: pen.x, y: pen.y, width: Number(document.getElementById("pen-width").value) });
    if (event.key in moves) {
      pen.x = Math.min(Math.max(pen.x + moves[event.key][0], 0), paper.width);
      pen.y = Math.min(Math.max(pen.y + moves[event.key][1], 0), paper.height);
      if (pen.down) this.extend(point());
      if (pen.down) this.report();
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) this.begin(point());
      if (pen.down) this.report();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      this.undo();
    } else {
      return;
    }
    event.preventDefault();
    paper.classList.add("keys");
    this.showPen();
  }

  // Move the ring that shows the place of the keyboard's pen while the paper has the focus.
  showPen() {
    const { x, y, down } = this.keyboardPen;
    const ring = document.getElementById("pen");
    ring.style.left = `${(100 * x) / paper.width}%`;
    ring.style.top = `${(100 * y) / paper.height}%`;
    ring.classList.toggle("down", down);
  }
}

// Decode a picture file without any change of its colours; it is rotated as the camera recorded.
async function decodePicture(file) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, options);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return { data, width, height, bitmap };
}
