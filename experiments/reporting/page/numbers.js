// From the page's JSON to arrays, and from arrays to the numbers shown: as in `calibration`.

const Z = 1.959963984540054;

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function bits(text, count) {
  const packed = bytes(text);
  return Uint8Array.from({ length: count }, (_, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1);
}

// Confidence is the logistic of the margin, rounded to float32 as the tables have it.
function confidences(margin) {
  return margin.map((m) => (m >= 0 ? 1 / (1 + Math.exp(-m)) : Math.exp(m) / (1 + Math.exp(m))));
}

function readSetting(found, rows) {
  const margin = found.margin === null ? null : new Float32Array(bytes(found.margin).buffer);
  return {
    label: found.label,
    correct: bits(found.correct, rows),
    margin,
    confidence: margin && confidences(margin),
    order: margin && Uint32Array.from(margin.keys()).sort((i, j) => margin[j] - margin[i]),
  };
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// B + 1 edges: k / B, or midway between the neighbours of runs of equally many rows.
function edgesOf(confidence, count, equalMass) {
  if (!equalMass) return Float32Array.from({ length: count + 1 }, (_, k) => k / count);
  const sorted = confidence.slice().sort();
  const last = sorted.length - 1;
  const whole = Math.floor(sorted.length / count);
  const left = sorted.length % count;
  return Float32Array.from({ length: count + 1 }, (_, k) => {
    if (k === 0 || k === count) return k / count;
    const bound = k * whole + Math.min(k, left);
    return (sorted[Math.max(bound - 1, 0)] + sorted[Math.min(bound, last)]) / 2;
  });
}

// Bins (lo, hi], the first with its lower edge.
function binsOf({ confidence, correct }, count, equalMass) {
  const edges = edgesOf(confidence, count, equalMass);
  const bins = Array.from({ length: count }, (_, k) => ({
    start: edges[k], end: edges[k + 1], rows: 0, confidence: 0, right: 0,
  }));
  confidence.forEach((value, row) => {
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (value <= edges[middle + 1]) high = middle;
      else low = middle + 1;
    }
    bins[low].rows += 1;
    bins[low].confidence += value;
    bins[low].right += correct[row];
  });
  return bins.filter((bin) => bin.rows > 0);
}

function calibrationError(bins, rows) {
  return bins.reduce((sum, bin) => sum + Math.abs(bin.confidence - bin.right), 0) / rows;
}

function wilson(right, rows) {
  const rate = right / rows;
  const centre = (rate + Z ** 2 / (2 * rows)) / (1 + Z ** 2 / rows);
  const spread = Math.sqrt((rate * (1 - rate)) / rows + (Z / (2 * rows)) ** 2);
  const width = (Z * spread) / (1 + Z ** 2 / rows);
  return [Math.max(centre - width, 0), Math.min(centre + width, 1)];
}

// Coverage and risk behind every group of equal margins, the most confident first.
function riskCoverage({ margin, correct, order }) {
  const points = [];
  let errors = 0;
  order.forEach((row, rank) => {
    errors += 1 - correct[row];
    const next = order[rank + 1];
    if (next === undefined || margin[next] !== margin[row]) {
      points.push({ coverage: (rank + 1) / order.length, risk: errors / (rank + 1) });
    }
  });
  return points;
}

function answeredAbove({ margin, correct }, threshold) {
  let answered = 0;
  let errors = 0;
  margin.forEach((value, row) => {
    if (value >= threshold) {
      answered += 1;
      errors += 1 - correct[row];
    }
  });
  return { answered, errors };
}

// p = 2 P(Bin(n, ½) ≤ min), at most 1.
function mcnemar(lost, won) {
  const n = lost + won;
  let term = -n * Math.LN2;
  let sum = 0;
  for (let k = 0; k <= Math.min(lost, won); k += 1) {
    sum += Math.exp(term);
    term += Math.log((n - k) / (k + 1));
  }
  return Math.min(2 * sum, 1);
}

// Mean difference second − first with its 95 % interval, rows of one picture together.
function pairedDifference(first, second, images) {
  const difference = Float64Array.from(first, (value, row) => second[row] - value);
  const centre = mean(difference);
  const sums = new Map();
  difference.forEach((value, row) => {
    sums.set(images[row], (sums.get(images[row]) ?? 0) + value - centre);
  });
  const squares = [...sums.values()].reduce((sum, value) => sum + value ** 2, 0);
  const error = Math.sqrt((sums.size / (sums.size - 1)) * squares) / first.length;
  return { centre, low: centre - Z * error, high: centre + Z * error };
}
