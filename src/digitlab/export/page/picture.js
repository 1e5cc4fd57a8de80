// Converts a picture to an image of the data set by the same steps as `digitlab predict` (data/own_images.py), with the
// arithmetic of Pillow for resizing and of float32 for comparisons, so that both see the same pixels.

const WORKING_PIXELS = 128;
const FAINTEST = Math.fround(0.05);
const LEAST_CONTRAST = 0.04;

class PictureError extends Error {}

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
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

// Resizing as in Pillow --------------------------------------------------------------------------------------------

const box = (x) => (x > -0.5 && x <= 0.5 ? 1 : 0);
const bicubic = (signed) => {
  const x = Math.abs(signed);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
};

// For each output, the first input that it needs and the weights of the inputs from there on.
function contributions(inputs, start, end, outputs, filter, filterSupport, normalise) {
  const scale = Math.fround(end - start) / outputs;
  const filterScale = Math.max(scale, 1);
  const support = filterSupport * filterScale;
  const inverse = 1 / filterScale;
  return Array.from({ length: outputs }, (_, output) => {
    const center = start + (output + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), inputs);
    const weights = [];
    for (let i = first; i < last; i++) weights.push(filter((i - center + 0.5) * inverse));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => normalise(sum === 0 ? weight : weight / sum)) };
  });
}

const FIXED = 1 << 22;
const toFixed = (weight) => Math.trunc(weight * FIXED + (weight < 0 ? -0.5 : 0.5));
const fromFixed = (sum) => clamp(Math.floor((sum + FIXED / 2) / FIXED), 0, 255);

function horizontalPass(values, width, height, columns) {
  const result = new Uint8Array(columns.length * height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < columns.length; column++) {
      const { first, weights } = columns[column];
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += values[row * width + first + i] * weights[i];
      result[row * columns.length + column] = fromFixed(sum);
    }
  }
  return result;
}

function verticalPass(values, width, rows) {
  const result = new Uint8Array(width * rows.length);
  for (let row = 0; row < rows.length; row++) {
    const { first, weights } = rows[row];
    for (let column = 0; column < width; column++) {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += values[(first + i) * width + column] * weights[i];
      result[row * width + column] = fromFixed(sum);
    }
  }
  return result;
}

// Resize the part `from` = [left, top, right, bottom] of bytes in two passes; each rounds to bytes. Pillow begins with
// the vertical pass if the height shrinks by more than twice as many pixels as the width.
function resize(values, width, height, newWidth, newHeight, from, filter, support) {
  const [left, top, right, bottom] = from.map(Math.fround);
  const columns = newWidth !== width || left || right !== newWidth
    ? contributions(width, left, right, newWidth, filter, support, toFixed) : null;
  const rows = newHeight !== height || top || bottom !== newHeight
    ? contributions(height, top, bottom, newHeight, filter, support, toFixed) : null;
  const shrunk = height - newHeight;
  if (rows && shrunk > 0 && shrunk > 2 * (width - newWidth)) {
    const low = verticalPass(values, width, rows);
    return columns ? horizontalPass(low, width, newHeight, columns) : low;
  }
  const narrow = columns ? horizontalPass(values, width, height, columns) : values;
  return rows ? verticalPass(narrow, newWidth, rows) : narrow;
}

// Average blocks of factorX * factorY bytes; those at the right and lower border can be smaller.
function reduce(values, width, height, factorX, factorY) {
  const [newWidth, newHeight] = [Math.ceil(width / factorX), Math.ceil(height / factorY)];
  const result = new Uint8Array(newWidth * newHeight);
  for (let row = 0; row < newHeight; row++) {
    for (let column = 0; column < newWidth; column++) {
      const [bottom, right] = [Math.min((row + 1) * factorY, height), Math.min((column + 1) * factorX, width)];
      const size = (bottom - row * factorY) * (right - column * factorX);
      let sum = Math.trunc(size / 2);
      for (let y = row * factorY; y < bottom; y++) {
        for (let x = column * factorX; x < right; x++) sum += values[y * width + x];
      }
      const multiplier = Math.trunc(Math.fround(2 ** 32 / (256 * size)));
      result[row * newWidth + column] = Math.floor((sum * multiplier) / 2 ** 24);
    }
  }
  return { values: result, width: newWidth, height: newHeight };
}

// Image.thumbnail with the filter BOX.
function thumbnail(values, width, height, side) {
  if (width <= side && height <= side) return { values, width, height };
  const aspect = width / height;
  const nearest = (number, distance) => {
    const [below, above] = [Math.floor(number), Math.ceil(number)];
    return Math.max(distance(above) < distance(below) ? above : below, 1);
  };
  const newWidth = aspect <= 1 ? nearest(side * aspect, (n) => Math.abs(aspect - n / side)) : side;
  const newHeight = aspect <= 1 ? side : nearest(side / aspect, (n) => (n === 0 ? 0 : Math.abs(aspect - side / n)));
  const [factorX, factorY] = [width / newWidth, height / newHeight].map((factor) => Math.trunc(factor / 2) || 1);
  const start = factorX > 1 || factorY > 1 ? reduce(values, width, height, factorX, factorY) : { values, width, height };
  const all = [0, 0, width / factorX, height / factorY];
  const resized = resize(start.values, start.width, start.height, newWidth, newHeight, all, box, 0.5);
  return { values: resized, width: newWidth, height: newHeight };
}

// ImageOps.fit: the centre of the picture with the aspect ratio of the data set, scaled with the filter BICUBIC.
function fit(values, { width, height }, newWidth, newHeight) {
  const [own, wanted] = [width / height, newWidth / newHeight];
  const cropWidth = own > wanted ? wanted * height : width;
  const cropHeight = own < wanted ? width / wanted : height;
  const [left, top] = [(width - cropWidth) * 0.5, (height - cropHeight) * 0.5];
  const from = [left, top, left + cropWidth, top + cropHeight];
  if (width === newWidth && height === newHeight && !left && !top) return values;
  return resize(values, width, height, newWidth, newHeight, from, bicubic, 2);
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
