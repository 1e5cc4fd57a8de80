// Resizes pictures as Pillow does, to the last bit: weights in fixed point, and bytes between the passes.

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
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
