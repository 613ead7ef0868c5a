// The questions listed: method and budget step through the tokens in the order they came.

function questionCards(run, root) {
  if (!run.methods.length) return;
  const cards = run.examples.map((example) => questionCard(run, example));
  const names = ["what changed each most", ...run.methods.map((method) => method.name)];
  const move = () => {
    const which = Number(method.select.value) - 1;
    budget.element.hidden = which < 0;
    if (which < 0) {
      cards.forEach((moveCard, place) => moveCard(...home(run, run.examples[place])));
      return;
    }
    const { settings } = run.methods[which];
    budget.input.max = String(settings.length - 1);
    const place = Number(budget.input.value);
    budget.output.textContent = `K = ${run.settings[settings[place]].budget}`;
    cards.forEach((moveCard) => moveCard(which, place));
  };
  const method = picker("All questions by", names, 0, move);
  const budget = slider("Budget", { min: 0, max: 0, value: 0 }, move);
  budget.element.hidden = true;
  root.append(make("div", { class: "controls" }, method.element, budget.element));
}

// The method and the place among its budgets that a card shows at first.
function home(run, example) {
  const which = run.methods.findIndex((one) => one.settings.includes(example.shown));
  return [which, run.methods[which].settings.indexOf(example.shown)];
}

// Add the controls to a card; return what moves it to a method and a place among its budgets.
function questionCard(run, example) {
  const card = document.getElementById(example.name);
  const head = card.querySelector("thead th:nth-of-type(2)");
  const bars = [...card.querySelectorAll("tbody td:last-child")];
  const tokens = card.querySelector(".tokens");
  const chips = card.querySelector(".chips");
  const names = run.methods.map((one) => one.name);
  const [start, first] = home(run, example);

  const show = () => {
    const settings = run.methods[Number(method.select.value)].settings;
    budget.input.max = String(settings.length - 1);
    const shown = settings.slice(0, Number(budget.input.value) + 1);
    const last = shown.at(-1);
    budget.output.textContent = `K = ${run.settings[last].budget}`;
    head.replaceChildren(...heading(run, example, last));
    bars.forEach((cell, choice) => fill(cell, example.parts[last][choice] / run.whole));
    const masks = shown.map((place) => run.mask(example, place));
    if (tokens && masks.every((mask) => mask !== null)) {
      const steps = stepsOf(masks);
      tokens.setAttribute("href", overlay(run, steps));
      chips.replaceChildren(...shown.map((place, step) => chip(run, place, step + 1)));
    }
  };
  const method = picker("by", names, start, show);
  const most = run.methods[start].settings.length - 1;
  const budget = slider("Budget", { min: 0, max: most, value: first }, show);
  budget.output.textContent = `K = ${run.settings[example.shown].budget}`;
  card.querySelector(".seen").append(
    make("div", { class: "controls" }, method.element, budget.element),
  );
  return (which, place) => {
    method.select.value = String(which);
    budget.input.max = String(run.methods[which].settings.length - 1);
    budget.input.value = String(place);
    show();
  };
}

function heading(run, example, place) {
  const setting = run.settings[place];
  const word = setting.correct[example.row] ? "right" : "wrong";
  return [
    make("b", {}, setting.label),
    make("span", { class: "said", dir: "auto" }, example.said[place]),
    make("span", { class: `verdict ${word}` }, word),
  ];
}

function fill(cell, share) {
  cell.querySelector("rect").setAttribute("width", (100 * share).toFixed(2));
  cell.querySelector("span").textContent = percent(share);
}

// The step at which each token came, from 1; 0 for what the last mask drops.
function stepsOf(masks) {
  const last = masks.at(-1);
  return Array.from(last, (keeps, token) => keeps && masks.findIndex((mask) => mask[token]) + 1);
}

function colourOf(run, step) {
  const count = run.colours.length;
  return run.colours[step < count ? step : 2 + ((step - 2) % (count - 2))];
}

function overlay(run, steps) {
  const canvas = make("canvas", { width: run.side, height: run.side });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(run.side, run.side);
  steps.forEach((step, token) => pixels.data.set(colourOf(run, step), 4 * token));
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

function chip(run, place, step) {
  const [red, green, blue, opacity] = colourOf(run, step);
  const square = make("svg", { viewBox: "0 0 10 10" }, make("rect", {
    width: 10, height: 10, fill: `rgb(${red},${green},${blue})`, "fill-opacity": opacity / 255,
  }));
  return make("span", { class: "chip" }, square, `K = ${run.settings[place].budget}`);
}
