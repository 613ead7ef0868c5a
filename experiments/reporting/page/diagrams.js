// The two diagrams in the geometry of diagrams.py.

const SIDE = 200;
const LEFT = 46;
const TOP = 8;
const TICKS = 18;
const STRIP = 30;
const SPIKES = 0.05;
const POINTS = 240;

const across = (share) => LEFT + SIDE * share;
const up = (share) => TOP + SIDE * (1 - share);

function frame(horizontal, vertical, most) {
  const middle = TOP + SIDE / 2;
  const below = TOP + SIDE + 12;
  const text = (kind, x, y, anchor, words, more = {}) =>
    make("text", { class: kind, x, y, "text-anchor": anchor, ...more }, words);
  return [
    make("rect", { class: "frame", x: LEFT, y: TOP, width: SIDE, height: SIDE }),
    ...[0, 0.5, 1].flatMap((share) => [
      text("tick", across(share), below, "middle", String(share)),
      text("tick", LEFT - 4, up(share) + 3, "end", String(Number((share * most).toPrecision(3)))),
    ]),
    text("axis", across(0.75), below, "middle", horizontal),
    text("axis", 9, middle, "middle", vertical, { transform: `rotate(-90 9 ${middle})` }),
  ];
}

function drawing(bottom, name, parts) {
  const box = `0 0 ${LEFT + SIDE + 12} ${bottom + 2}`;
  const element = make("svg", { class: "diagram", viewBox: box, role: "img", "aria-label": name });
  element.append(...parts);
  return element;
}

function bar(kind, start, end, floor, height) {
  const width = SIDE * (end - start);
  return make("rect", { class: kind, x: across(start), y: floor - height, width, height });
}

function stroke(kind, x0, y0, x1, y1) {
  return make("path", { class: kind, d: `M${across(x0)} ${up(y0)}L${across(x1)} ${up(y1)}` });
}

function reliabilityDiagram(bins, name) {
  const floor = TOP + SIDE + TICKS + STRIP;
  const most = Math.max(...bins.map((bin) => bin.rows));
  const parts = bins.flatMap((bin) => {
    const accuracy = bin.right / bin.rows;
    const at = bin.confidence / bin.rows;
    const [low, high] = wilson(bin.right, bin.rows);
    const dot = make("circle", { class: "dot", cx: across(at), cy: up(accuracy), r: 2.6 });
    return [
      bar("bin", bin.start, bin.end, TOP + SIDE, SIDE * accuracy),
      bar("count", bin.start, bin.end, floor, (STRIP * bin.rows) / most),
      stroke("whisker", at, low, at, high),
      dot,
    ];
  });
  const even = stroke("even", 0, 0, 1, 1);
  return drawing(floor, name, [...frame("confidence", "accuracy", 1), even, ...parts]);
}

// Curves of both settings; `marks` are the coverages at the threshold.
function coverageDiagram(curves, marks, name) {
  const risks = curves.flat().filter((point) => point.coverage >= SPIKES).map((p) => p.risk);
  const highest = risks.reduce((most, risk) => Math.max(most, risk), 0);
  const most = Math.min(Math.max(Math.ceil(20 * highest - 1e-9) / 20, 0.05), 1);
  const place = ({ coverage, risk }) => `${across(coverage)},${up(Math.min(risk / most, 1))}`;
  const parts = curves.flatMap((curve, which) => {
    const kind = which ? "second" : "first";
    const stride = Math.ceil(curve.length / POINTS);
    const drawn = curve.filter((_, i) => i % stride === 0 || i === curve.length - 1);
    const points = drawn.map(place).join(" ");
    return [
      make("polyline", { class: `curve ${kind}`, points }),
      stroke(`mark ${kind}`, marks[which], 0, marks[which], 1),
    ];
  });
  return drawing(TOP + SIDE + TICKS, name, [...frame("coverage", "risk", most), ...parts]);
}
