// Elements made of names, attributes and text; text never becomes markup.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "rect", "path", "circle", "text", "polyline", "line"]);

function make(name, attributes = {}, ...children) {
  const element = DRAWN.has(name)
    ? document.createElementNS(SVG, name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function picker(name, labels, chosen, changed) {
  const options = labels.map((label, place) => make("option", { value: place }, label));
  const select = make("select", {}, ...options);
  select.value = String(chosen);
  select.addEventListener("change", changed);
  return { element: make("label", {}, `${name} `, select), select };
}

function slider(name, { min, max, step = 1, value }, changed) {
  const input = make("input", { type: "range", min, max, step });
  input.value = String(value);
  const output = make("output");
  input.addEventListener("input", changed);
  return { element: make("label", { class: "slider" }, `${name} `, input, " ", output), input, output };
}

function choice(name, words, changed) {
  const inputs = words.map((word, place) => {
    const input = make("input", { type: "radio", name, value: place });
    input.checked = place === 0;
    input.addEventListener("change", changed);
    return input;
  });
  const labels = words.map((word, place) => make("label", {}, inputs[place], ` ${word}`));
  return { element: make("span", { class: "choice" }, ...labels), inputs };
}

function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)} %`;
}

function signed(value, digits) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
}
