// Surrogates beside each other: their curves, and what is known of them.

const colourOf = place => `var(--c${place % 8})`;
const dashOf = place => ["", "7 3", "2 3"][Math.floor(place / 8) % 3];

function surrogateControls() {
  const host = document.getElementById("surrogate-controls");
  const cards = view.curves.map((curve, place) => {
    const pick = choiceControl({
      name: `surrogate ${place + 1}`, value: curve.name, choices: Object.keys(SURROGATES),
      change: name => setCurve(place, named(SURROGATES, name, "surrogate"), true),
    });
    const change = (kind, name, value) => setCurve(place, withValue(view.curves[place], kind, name, value), false);
    const remove = element("button", {type: "button", class: "quiet", "aria-label": `remove ${curve.name}`, onclick: () => {
      view.curves = view.curves.filter((_, k) => k !== place);
      rebuild();
      document.getElementById("add-curve").focus();
    }}, "Remove");
    const swatch = element("span", {class: "swatch", style: `background:${colourOf(place)}`, "aria-hidden": "true"});
    return element("fieldset", {class: "card"}, element("legend", {}, swatch, curve.name),
      pick, ...formulaControls(SURROGATES, curve, change), element("p", {class: "about"}, SURROGATES[curve.name].about),
      view.curves.length > 1 ? remove : null);
  });
  const add = element("button", {type: "button", id: "add-curve", onclick: () => {
    const used = view.curves.map(each => each.name), free = Object.keys(SURROGATES).find(name => !used.includes(name));
    view.curves = [...view.curves, named(SURROGATES, free ?? "ATan", "surrogate")];
    rebuild();
    document.querySelector("#surrogate-controls fieldset:last-of-type select").focus();
  }}, "Compare one more");
  add.disabled = view.curves.length >= MOST_CURVES;
  const reach = numberControl({
    name: "reach", about: {value: 2, low: 0.01, high: 1000, above: true, words: "from 0.01 to 1000"}, value: view.reach,
    said: "potentials shown on either side of the threshold", change: x => { view.reach = x; refresh(); },
  });
  host.replaceChildren(reach, ...cards, add);
}

function setCurve(place, curve, anew) {
  view.curves = view.curves.map((each, k) => k === place ? curve : each);
  if (anew) rebuild(); else refresh();
}

/** Potentials close together around the threshold, where narrow bumps are. */
function potentials(reach) {
  const found = [];
  for (let k = -400; k <= 400; k++) found.push(reach * k / 400, reach / 25 * k / 400);
  return found.sort((a, b) => a - b);
}

function drawSurrogates() {
  const x = potentials(view.reach), ends = [-view.reach, view.reach];
  const ready = view.curves.map(surrogateOf);
  const lines = part => ready.flatMap((spike, k) => spike[part] ? [{
    kind: "line", x, y: x.map(spike[part]), colour: colourOf(k), dash: dashOf(k), width: 2,
  }] : []);
  const facts = view.curves.map(factsOf);
  const names = view.curves.map(each => written(SURROGATES, each)).join(", ");
  const common = {x: ends, marks: [{x: 0}], xLabel: "potential minus threshold"};
  const derivatives = lines("derivative"), primitives = lines("primitive");
  draw(document.getElementById("derivative"), {
    ...common, series: derivatives, y: range(derivatives.flatMap(each => each.y), true), yLabel: "derivative",
    about: `Derivatives of ${names}`,
  });
  draw(document.getElementById("primitive"), {
    ...common, series: [{kind: "line", x: [-view.reach, 0, 0, view.reach], y: [0, 0, 1, 1], colour: "var(--muted)", dash: "3 3", width: 1}, ...primitives],
    y: range([0, 1, ...primitives.flatMap(each => each.y)]), yLabel: "primitive", about: `Primitives of ${names}, the soft steps, beside the step`,
  });
  const rows = view.curves.map((curve, k) => element("tr", {},
    element("th", {scope: "row"}, element("span", {class: "swatch", style: `background:${colourOf(k)}`, "aria-hidden": "true"}), written(SURROGATES, curve)),
    ...[shown(facts[k].peak), shown(facts[k].area), shown(facts[k].half_width), supportOf(facts[k].support), SURROGATES[curve.name].noise]
      .map(text => element("td", {}, text))));
  document.querySelector("#facts tbody").replaceChildren(...rows);
  return `${view.curves.length} surrogate${view.curves.length > 1 ? "s" : ""}. ` + view.curves.map((curve, k) =>
    `${written(SURROGATES, curve)}: peak ${shown(facts[k].peak)}, area ${shown(facts[k].area)}, half width ${shown(facts[k].half_width)}.`).join(" ");
}

function supportOf([low, high]) {
  return low === -Infinity && high === Infinity ? "everywhere" : `${shown(low)} to ${shown(high)}`;
}
