// Read each section's numbers and bring its panels to life.

function readRun(section) {
  const found = JSON.parse(section.querySelector("script.data").textContent);
  const masks = found.masks.map((text) => bits(text, found.side ** 2));
  return {
    ...found,
    images: new Uint32Array(bytes(found.images).buffer),
    settings: found.settings.map((one) => ({ ...readSetting(one, found.rows), budget: one.budget })),
    examples: found.examples.map((one, place) => {
      const name = `${section.id}-q${place}`;
      return { ...one, name, key: document.querySelector(`#${name} h4 a`).textContent };
    }),
    mask: (example, place) => {
      const which = example.masks[place] ?? null;
      return which === null ? null : masks[which];
    },
  };
}

const PANELS = { compare: comparePanel, examples: questionCards };

for (const section of document.querySelectorAll("section.run")) {
  const run = readRun(section);
  for (const root of section.querySelectorAll("[data-live]")) {
    PANELS[root.dataset.live](run, root);
    root.hidden = false;
  }
}
