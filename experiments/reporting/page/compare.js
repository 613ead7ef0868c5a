// Any two settings of a run: reliability, risk against coverage, and flips.

const FEWEST = 5;
const MOST = 50;
const USUAL = 15;
const THRESHOLDS = 400;
const TINY = 1e-30;

function comparePanel(run, root) {
  const labels = run.settings.map((setting) => setting.label);
  const draw = () => [drawReliability, drawCoverage, drawFlips].forEach((part) => part());
  const first = picker("Compare", labels, 0, draw);
  const second = picker("with", labels, Math.min(1, labels.length - 1), draw);
  const chosen = () => [first, second].map((one) => run.settings[Number(one.select.value)]);

  const drawReliability = reliabilityPart(chosen, root);
  const drawCoverage = coveragePart(run, chosen, root);
  const drawFlips = flipsPart(run, chosen, root);
  root.prepend(make("div", { class: "controls" }, first.element, second.element));
  draw();
}

function reliabilityPart(chosen, root) {
  const draw = () => {
    const count = Number(bins.input.value);
    const equalMass = cut.inputs[1].checked;
    bins.output.textContent = `${count} bins`;
    place.replaceChildren(...chosen().map((setting, which) => reliabilityFigure(setting, which, count, equalMass)));
  };
  const bins = slider("Bins", { min: FEWEST, max: MOST, value: USUAL }, draw);
  const cut = choice(`${root.closest("section").id}-cut`, ["equal width", "equal mass"], draw);
  const place = make("div", { class: "stills" });
  root.append(make("div", { class: "controls" }, bins.element, cut.element), place);
  return draw;
}

function reliabilityFigure(setting, which, count, equalMass) {
  const kind = { class: which ? "still second" : "still" };
  const title = make("figcaption", {}, make("b", {}, setting.label), make("br"));
  if (!setting.margin) {
    title.append("drawn in 15 bins only, below");
    return make("figure", kind, title);
  }
  const found = binsOf(setting, count, equalMass);
  const error = calibrationError(found, setting.correct.length);
  const says =
    `accuracy ${mean(setting.correct).toFixed(3)}, ` +
    `mean confidence ${mean(setting.confidence).toFixed(3)}, ECE ${error.toFixed(3)}`;
  title.append(make("span", { class: "ece" }, says));
  const name = `Reliability of ${setting.label}: ${says}`;
  return make("figure", kind, title, reliabilityDiagram(found, name));
}

function coveragePart(run, chosen, root) {
  const finite = run.settings.flatMap(({ margin }) => (margin ? [extremes(margin)] : []));
  const low = Math.min(...finite.map((one) => one[0]));
  const high = Math.max(...finite.map((one) => one[1]));
  const draw = () => {
    const settings = chosen().filter((setting) => setting.margin);
    const share = Number(threshold.input.value) / THRESHOLDS;
    const value = share === 0 ? -Infinity : low + (high - low) * share;
    threshold.output.textContent =
      share === 0 ? "every question" : `confidence ≥ ${confidences([value])[0].toPrecision(5)}`;
    const found = settings.map((setting) => answeredAbove(setting, value));
    const marks = found.map(({ answered }) => answered / run.rows);
    const curves = settings.map((setting) => (setting.curve ??= riskCoverage(setting)));
    place.replaceChildren(coverageDiagram(curves, marks, "Risk against coverage of both settings"));
    place.append(answeredTable(run, settings, found));
  };
  const limits = { min: 0, max: THRESHOLDS, value: Math.round(THRESHOLDS / 4) };
  const threshold = slider("Answer only with", limits, draw);
  const place = make("div", { class: "stills" });
  root.append(make("div", { class: "controls" }, threshold.element), place);
  return draw;
}

function extremes(margin) {
  const finite = margin.filter(Number.isFinite);
  return [finite.reduce((a, b) => Math.min(a, b), 0), finite.reduce((a, b) => Math.max(a, b), 0)];
}

function answeredTable(run, settings, found) {
  const heads = ["setting", "answered", "coverage", "risk", "95 % interval"];
  const head = make("tr", {}, ...heads.map((word) => make("th", { scope: "col" }, word)));
  const rows = settings.map((setting, which) => {
    const { answered, errors } = found[which];
    const ends = answered ? wilson(errors, answered).map((end) => percent(end)) : [];
    const cells = [
      `${answered} of ${run.rows}`,
      percent(answered / run.rows),
      answered ? percent(errors / answered) : "–",
      ends.length ? `[${ends.join(", ")}]` : "–",
    ];
    const name = make("th", { scope: "row", class: which ? "second" : "first" }, setting.label);
    return make("tr", {}, name, ...cells.map((cell) => make("td", {}, cell)));
  });
  return make("table", { class: "answered" }, make("thead", {}, head), make("tbody", {}, ...rows));
}

function flipsPart(run, chosen, root) {
  const place = make("div", { class: "flips" });
  root.append(place);
  return () => {
    const [first, second] = chosen();
    let lost = 0;
    let won = 0;
    first.correct.forEach((right, row) => {
      lost += right & ~second.correct[row] & 1;
      won += ~right & second.correct[row] & 1;
    });
    const { centre, low, high } = pairedDifference(first.correct, second.correct, run.images);
    const points = [centre, low, high].map((value) => signed(100 * value, 1));
    place.replaceChildren(
      make("p", {}, `From ${first.label} to ${second.label}: `,
        make("b", {}, `${lost} right → wrong, ${won} wrong → right`),
        `; McNemar's exact p ${spelledP(mcnemar(lost, won))}. Accuracy changes by `,
        make("b", {}, `${points[0]} points [${points[1]}, ${points[2]}]`),
        " (normal approximation of the mean paired difference, questions of a picture together)."),
      flipped(run, first, second, "right → wrong", 1),
      flipped(run, first, second, "wrong → right", 0),
    );
  };
}

function spelledP(p) {
  return p > TINY ? `= ${p.toPrecision(2)}` : `< ${TINY}`;
}

// Links to the questions listed that went one way.
function flipped(run, first, second, words, before) {
  const found = run.examples.filter(
    ({ row }) => first.correct[row] === before && second.correct[row] !== before,
  );
  const links = found.flatMap(({ name, key }) => [make("a", { href: `#${name}` }, key), " "]);
  const list = make("p", { class: "links" }, ...(links.length ? links : ["none of them"]));
  const title = `${words}, of the questions listed below: ${found.length}`;
  return make("details", {}, make("summary", {}, title), list);
}
