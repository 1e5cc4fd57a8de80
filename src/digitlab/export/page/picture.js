// Converts a picture to an image of the data set by the same steps as `digitlab predict` (data/own_images.py), with the
// arithmetic of Pillow for resizing and of float32 for comparisons, so that both see the same pixels.

const WORKING_PIXELS = 128;
const FAINTEST = Math.fround(0.05);
const LEAST_CONTRAST = 0.04;

class PictureError extends Error {}

const largest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
const smallest = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);

// Python rounds halves to the nearest even number.
function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

// Convert `picture` ({data: RGBA bytes, width, height}) to the pixels of an image, a Uint8Array of C * H * W values.
// `margin` is the margin_pixels of the data set, or null for data sets of whole pictures.
function asDataSetImage(picture, [channels, height, width], margin) {
  const bands = opaqueBands(picture);
  if (margin === null || channels === 3) {
    const fitted = (channels === 1 ? [grey(bands)] : bands).map((band) => fit(band, picture, width, height));
    const pixels = new Uint8Array(channels * height * width);
    fitted.forEach((band, channel) => pixels.set(band, channel * height * width));
    return pixels;
  }
  const figure = findFigure(grey(bands), picture.width, picture.height);
  const scaled = scaleFigure(figure, height - 2 * margin, width - 2 * margin);
  const [top, left] = place(scaled, height, width, margin > 0);
  const pixels = new Uint8Array(height * width);
  for (let row = 0; row < scaled.height; row++) {
    for (let column = 0; column < scaled.width; column++) {
      const value = scaled.values[row * scaled.width + column];
      pixels[(top + row) * width + left + column] = roundHalfEven(Math.fround(value * 255));
    }
  }
  return pixels;
}

// Red, green and blue without transparency: transparent pixels become white in a dark picture, black in a light one.
function opaqueBands({ data }) {
  const count = data.length / 4;
  const bands = [new Uint8Array(count), new Uint8Array(count), new Uint8Array(count)];
  let transparent = false;
  for (let i = 0; i < count; i++) {
    bands[0][i] = data[4 * i];
    bands[1][i] = data[4 * i + 1];
    bands[2][i] = data[4 * i + 2];
    transparent ||= data[4 * i + 3] < 255;
  }
  if (!transparent) return bands;
  const greys = grey(bands);
  let light = 0;
  let opacity = 0;
  for (let i = 0; i < count; i++) {
    light += greys[i] * data[4 * i + 3];
    opacity += data[4 * i + 3];
  }
  const background = light > 127.5 * opacity ? 0 : 255;
  for (let i = 0; i < count; i++) {
    const share = data[4 * i + 3] * 128;
    for (const band of bands) {
      const sum = band[i] * share + background * (255 * 128 - share) + (0x80 << 7);
      band[i] = data[4 * i + 3] === 0 ? background : ((sum >> 8) + sum) >> 15;
    }
  }
  return bands;
}

function grey([red, green, blue]) {
  const greys = new Uint8Array(red.length);
  for (let i = 0; i < greys.length; i++) greys[i] = (red[i] * 19595 + green[i] * 38470 + blue[i] * 7471 + 0x8000) >> 16;
  return greys;
}

// The figure and its place --------------------------------------------------------------------------------------------

const lowerMedian = (values) => Float32Array.from(values).sort()[(values.length - 1) >> 1];

// The cropped figure of a grey picture: values in [0, 1], 0 is the background.
function findFigure(greys, pictureWidth, pictureHeight) {
  const { values, width, height } = thumbnail(greys, pictureWidth, pictureHeight, WORKING_PIXELS);
  let { contrast, noise } = backgroundContrast(values, width, height);
  if (-smallest(contrast) > largest(contrast)) contrast = contrast.map((value) => -value);
  if (largest(contrast) - noise < LEAST_CONTRAST) throw new PictureError("blank: nothing in it stands out from its border");
  let figure = contrast.map((value) => Math.max(value - noise, 0));
  const most = largest(figure);
  figure = figure.map((value) => value / most);
  let [top, bottom, left, right] = [height, -1, width, -1];
  figure.forEach((value, i) => {
    if (value <= FAINTEST) return;
    const [row, column] = [Math.floor(i / width), i % width];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
  });
  const cropped = { width: right - left + 1, height: bottom - top + 1 };
  cropped.values = new Float32Array(cropped.width * cropped.height);
  for (let row = 0; row < cropped.height; row++) {
    const from = (top + row) * width + left;
    cropped.values.set(figure.subarray(from, from + cropped.width), row * cropped.width);
  }
  return cropped;
}

// The difference of each pixel from a plane fitted to the border, and how much the border itself varies.
function backgroundContrast(values, width, height) {
  const pixels = Float32Array.from(values, (value) => value / 255);
  const axis = (index, length) => (length === 1 ? -1 : -1 + (2 * index) / (length - 1));
  const terms = (i) => [1, axis(Math.floor(i / width), height), axis(i % width, width)];
  const border = [];
  for (let i = 0; i < pixels.length; i++) {
    const [row, column] = [Math.floor(i / width), i % width];
    if (row === 0 || row === height - 1 || column === 0 || column === width - 1) border.push(i);
  }
  const median = lowerMedian(border.map((i) => pixels[i]));
  const deviations = Float32Array.from(border, (i) => Math.abs(Math.fround(pixels[i] - median)));
  const limit = Math.fround(3 * lowerMedian(deviations));
  const usual = border.filter((_, number) => deviations[number] <= limit);
  const plane = leastSquares(usual.map(terms), usual.map((i) => pixels[i]));
  const contrast = pixels.map((pixel, i) => pixel - terms(i).reduce((sum, term, k) => sum + term * plane[k], 0));
  return { contrast, noise: 6 * lowerMedian(border.map((i) => Math.abs(contrast[i]))) };
}

// Solve the normal equations of three unknowns by elimination; unknowns that the rows do not determine are 0.
function leastSquares(rows, targets) {
  const m = [0, 1, 2].map((a) => [
    ...[0, 1, 2].map((b) => rows.reduce((sum, row) => sum + row[a] * row[b], 0)),
    rows.reduce((sum, row, i) => sum + row[a] * targets[i], 0),
  ]);
  for (let pivot = 0; pivot < 3; pivot++) {
    if (Math.abs(m[pivot][pivot]) < 1e-9 * rows.length) {
      m.forEach((row, a) => { row[pivot] = a === pivot ? 1 : 0; });
      m[pivot] = [0, 1, 2, 3].map((b) => (b === pivot ? 1 : 0));
      continue;
    }
    for (let other = 0; other < 3; other++) {
      if (other === pivot) continue;
      const factor = m[other][pivot] / m[pivot][pivot];
      m[other] = m[other].map((value, b) => value - factor * m[pivot][b]);
    }
  }
  return m.map((row, a) => row[3] / row[a]);
}

// Scale the figure without distortion to the largest size inside the box (bilinear, antialiased); its maximum is 1.
function scaleFigure(figure, boxHeight, boxWidth) {
  const factor = Math.min(boxHeight / figure.height, boxWidth / figure.width);
  const [height, width] = [figure.height, figure.width].map((side) => Math.max(1, roundHalfEven(side * factor)));
  const bilinear = (x) => Math.max(1 - Math.abs(x), 0);
  const along = (inputs, outputs) => contributions(inputs, 0, inputs, outputs, bilinear, 1, (weight) => weight);
  const columns = along(figure.width, width);
  const rows = along(figure.height, height);
  const narrow = new Float32Array(figure.height * width);
  for (let row = 0; row < figure.height; row++) {
    columns.forEach(({ first, weights }, column) => {
      narrow[row * width + column] = weights.reduce(
        (sum, weight, i) => sum + weight * figure.values[row * figure.width + first + i], 0);
    });
  }
  const values = new Float32Array(height * width);
  rows.forEach(({ first, weights }, row) => {
    for (let column = 0; column < width; column++) {
      values[row * width + column] = weights.reduce((sum, weight, i) => sum + weight * narrow[(first + i) * width + column], 0);
    }
  });
  const most = largest(values);
  return { values: values.map((value) => value / most), width, height };
}

// The row and column of the figure's first pixel: by its centre of mass, or in the middle.
function place({ values, width, height }, frameHeight, frameWidth, byMass) {
  return [[frameHeight, height, (i) => Math.floor(i / width)], [frameWidth, width, (i) => i % width]].map(
    ([side, length, position]) => {
      if (!byMass) return Math.floor((side - length + 1) / 2);
      let [moment, mass] = [0, 0];
      values.forEach((value, i) => {
        moment += value * position(i);
        mass += value;
      });
      // Rounded, so that sums in another order place a symmetrical figure in the same way.
      const centre = roundHalfEven((moment / mass) * 1000) / 1000;
      return clamp(roundHalfEven(side / 2 - centre), 0, side - length);
    });
}
