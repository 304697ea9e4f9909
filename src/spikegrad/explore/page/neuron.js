// One neuron: what goes in, what it does with it, and how the gradient flows back through time.

let found = null; // what was computed last: {ready, run, back}

function neuronControls() {
  const {neuron} = view, about = NEURONS[neuron.name];
  const choose = choiceControl({name: "neuron", value: neuron.name, choices: Object.keys(NEURONS), change: name => {
    setNeuron(named(NEURONS, name, "neuron"), true);
    view.inputs = about.inputs && NEURONS[name].inputs.map((_, k) => standardInput(view, k));
    view.at = view.steps - 1;
    rebuild();
  }});
  const inputs = about.inputs.map((name, place) => inputControls(name, place));
  const steps = numberControl({
    name: "steps", value: view.steps, said: "time steps", about: {value: 200, low: 10, high: 1000, whole: true, words: "a whole number from 10 to 1000"},
    change: x => {
      view.steps = x;
      view.inputs = view.inputs.map(each => resized(each, view.steps));
      view.at = Math.min(view.at, view.steps - 1);
      document.getElementById("loss").replaceWith(lossControls());
      refresh();
    },
  });
  document.getElementById("neuron-choose").replaceChildren(choose, element("p", {class: "about"}, about.about), ...inputs, steps);
  const change = (kind, name, value) => setNeuron(withValue(view.neuron, kind, name, value), false);
  const numbers = element("fieldset", {class: "card"}, element("legend", {}, neuron.name), ...formulaControls(NEURONS, neuron, change));
  const cards = [numbers];
  if (about.spiking) {
    const spike = choiceControl({name: "surrogate", value: neuron.spike.name, choices: Object.keys(SURROGATES), change: name => {
      setNeuron({...view.neuron, spike: named(SURROGATES, name, "surrogate")}, true);
      rebuild();
    }});
    const changeSpike = (kind, name, value) => setNeuron({...view.neuron, spike: withValue(view.neuron.spike, kind, name, value)}, false);
    cards.push(element("fieldset", {class: "card"}, element("legend", {}, "Surrogate gradient"), spike, ...formulaControls(SURROGATES, neuron.spike, changeSpike)));
  }
  cards.push(lossControls());
  document.getElementById("neuron-numbers").replaceChildren(...cards);
  inputPanels();
  statePanels();
}

function inputControls(name, place) {
  const input = view.inputs[place], several = view.inputs.length > 1;
  const set = (change, anew) => {
    view.inputs = view.inputs.map((each, k) => k === place ? {...each, ...change} : each);
    if (anew) rebuild(); else refresh();
  };
  const shape = choiceControl({name: several ? name : "input", value: input.shape, choices: SHAPES, change: each => {
    const size = place === 0 ? fittingSize(view, each === "drawn" ? "step" : each) : input.size || 1;
    set(each === "drawn" ? {shape: each, size: 1, values: sequence(input, view.steps, place)} : {shape: each, size}, true);
  }});
  const most = 4 * input.size || 1;
  const size = input.shape === "drawn" ? null : numberControl({
    name: several ? `size of ${name}` : "size", value: input.size, about: {low: -Infinity, high: Infinity, words: "a number"},
    scale: even(Math.min(0, most), Math.max(0, most)), change: x => set({size: x}, false),
  });
  return element("div", {class: "input-controls"}, shape, size);
}

function lossControls() {
  const loss = choiceControl({name: "of", value: view.loss, choices: Object.keys(LOSSES), labels: LOSSES, change: each => { view.loss = each; rebuild(); }});
  const at = numberControl({
    name: "marked step", value: view.at, about: {value: 0, low: 0, high: view.steps - 1, whole: true, words: `a whole number from 0 to ${view.steps - 1}`},
    change: x => { view.at = x; refresh(); },
  });
  return element("fieldset", {class: "card", id: "loss"}, element("legend", {}, "Gradient"), loss, view.loss === "all" ? null : at);
}

/** Takes another neuron, unless a condition between its numbers is broken, which it says. */
function setNeuron(neuron, anew) {
  const {broken} = neuronOf(neuron);
  if (broken.length) return `${neuron.name} needs ${broken[0]}`;
  view.neuron = neuron;
  if (!anew) refresh();
}

function panel(id, title, said, height) {
  const hint = element("span", {class: "said"}, said ?? "");
  return element("figure", {}, element("figcaption", {}, `${title} `, hint), element("div", {id, class: "chart", "data-height": height}));
}

function statePanels() {
  const {neuron} = view, about = NEURONS[neuron.name], [first, ...rest] = shownStates(about);
  document.getElementById("main").replaceChildren(panel("state-0", `${first}${about.spiking ? " and spikes" : ""}`, about.said[first], 180));
  document.getElementById("states").replaceChildren(...rest.map((name, k) => panel(`state-${k + 1}`, name, about.said[name], 120)));
  document.getElementById("phase-figure").hidden = about.states.length !== 2;
}

/** The states of a neuron, its potential first. */
function shownStates(about) {
  return [...about.states].sort((a, b) => (b === "v") - (a === "v"));
}

function drawNeuron() {
  const {neuron, steps} = view, about = NEURONS[neuron.name];
  const ready = neuronOf(neuron), inputs = sequences(view), run = forward(ready, inputs), back = backward(ready, run, barsOf(run));
  found = {ready, run, back};
  const time = Array.from({length: steps}, (_, t) => t), x = [-0.5, steps - 0.5];
  const marks = view.loss === "all" ? [] : [{x: view.at, kind: "at"}];
  inputs.forEach((y, k) => draw(document.getElementById(`input-${k}`), {
    series: [{kind: "area", x: time, y, colour: inputColour(k)}], x, y: inputRange(y, k), yLabel: about.inputs[k], about: `${about.inputs[k]} over time`,
  }));
  const output = run.outputs[0], spikes = output.filter(each => each !== 0).length;
  shownStates(about).forEach((name, k) => draw(document.getElementById(`state-${k}`), {
    series: [
      {kind: "line", x: time, y: run.states[name], colour: colourOf(k)},
      ...k === 0 && about.spiking ? [{kind: "ticks", x: time, y: output, colour: "var(--ink)", width: 1.5}] : [],
    ],
    x, y: range(run.states[name]), yLabel: name, marks, strip: k === 0 && about.spiking, xLabel: k === about.states.length - 1 ? "time step" : "",
    about: `${name} over time${k === 0 && about.spiking ? `, with ${spikes} spikes` : ""}`,
  }));
  drawGradient({about, time, x, marks, run, back});
  later(() => { drawRate(ready, inputs); if (about.states.length === 2) drawPhase(ready, run, inputs); });
  return described({about, output, spikes, run, back});
}

/** The gradients that arrive for the loss that is looked at. */
function barsOf(run) {
  const steps = run.kept.length, one = Array.from({length: steps}, (_, t) => t === view.at ? 1 : 0);
  if (view.loss === "all") return {outputs: run.outputs.map(() => new Array(steps).fill(1))};
  if (view.loss === "output") return {outputs: run.outputs.map((_, k) => k === 0 ? one : [])};
  return {recorded: {u: one}};
}

function drawGradient({about, time, x, marks, run, back}) {
  const surrogate = found.ready.surrogate, excess = run.recorded.excess;
  document.getElementById("gate-figure").hidden = !excess;
  if (excess) {
    const y = excess.map(each => Number.isFinite(each) ? surrogate.derivative(each) : 0);
    draw(document.getElementById("gate"), {series: [{kind: "stems", x: time, y, colour: "var(--c3)", width: stemWidth(time.length)}], x, y: range(y, true), marks,
      about: "The surrogate's derivative at each step: how much gradient passes through the spike"});
  }
  const lines = about.states.map((name, k) => ({kind: "line", x: time, y: back.states[name], colour: colourOf(shownStates(about).indexOf(name)), dash: dashOf(8 * k), name}));
  const stems = back.inputs.map((y, k) => ({kind: "stems", x: time.map(t => t + 0.15 * k), y, colour: inputColour(k), width: stemWidth(time.length), name: about.inputs[k]}));
  const other = otherReset(), own = range(stems.flatMap(each => each.y), true);
  const ghost = other ? [{kind: "line", x: time, y: other.inputs[0], colour: "var(--c1)", dash: "2 3", width: 1.4}] : [];
  const both = range([...own, ...(ghost[0]?.y ?? [])]), far = both[1] - both[0] > 5 * (own[1] - own[0]); // it may be out of all bounds
  draw(document.getElementById("flow"), {series: [...stems, ...ghost], x, y: far ? own : both, marks,
    about: `Gradient of each input by time step${ghost.length ? "; dashed, with the other choice of detach_reset" : ""}`});
  const most = ghost.length ? ghost[0].y.reduce((a, b) => Math.abs(b) > Math.abs(a) ? b : a) : 0;
  legend("input-legend", stems.length > 1 ? stems : []);
  legend("reset-legend", ghost.length ? [{
    name: `with detach_reset=${inPython(!view.neuron.options.detach_reset)}${far ? `, up to ${shown(most)}` : ""}`, colour: "var(--c1)", dash: "2 3",
  }] : []);
  draw(document.getElementById("flow-states"), {series: [...lines], x, y: range(lines.flatMap(each => each.y), true), marks, xLabel: "time step",
    about: `Gradient of the states before each step: ${about.states.join(", ")}`});
  legend("flow-legend", lines);
}

const inputColour = place => place ? colourOf(3 + place) : "var(--muted)";
const stemWidth = steps => Math.max(1, Math.min(4, 400 / steps));

/** The gradients with the other choice of `detach_reset`, where the neuron has it and it makes a difference. */
function otherReset() {
  const {neuron} = view;
  if (!("detach_reset" in neuron.options)) return null;
  const ready = neuronOf({...neuron, options: {...neuron.options, detach_reset: !neuron.options.detach_reset}});
  const run = forward(ready, sequences(view));
  return backward(ready, run, barsOf(run));
}

function legend(id, entries) {
  document.getElementById(id).replaceChildren(...entries.map(({name, colour, dash}) => {
    const line = element("span", {class: "key", "aria-hidden": "true"});
    line.innerHTML = `<svg width="26" height="8"><path d="M0 4H26" stroke="${colour}" stroke-width="2" stroke-dasharray="${dash ?? ""}"/></svg>`;
    return element("span", {class: "entry"}, line, name);
  }));
}

const mean = values => values.reduce((sum, x) => sum + x, 0) / values.length;

/** The constant inputs that stand for those over time. */
const held = inputs => inputs.map(each => mean(each));

function drawRate(ready, inputs) {
  const constant = held(inputs), size = Math.max(...inputs[0].map(Math.abs), 1e-3), count = 60;
  const low = Math.min(...inputs[0]) < 0 ? -2 * size : 0, x = Array.from({length: count + 1}, (_, k) => low + (2 * size - low) * k / count);
  const y = x.map(each => rateOf(ready, [each, ...constant.slice(1)])), spiking = ready.about.spiking;
  const steps = y.filter(Number.isFinite);
  draw(document.getElementById("rate"), {
    series: [{kind: "line", x, y, colour: "var(--c0)"}, {kind: "dots", x, y, colour: "var(--c0)", width: 4}], x: [low, 2 * size], y: range(steps, true),
    xLabel: `constant ${ready.about.inputs[0]}`, yLabel: spiking ? "output per step" : "output", marks: [{x: constant[0], kind: "at"}],
    about: `Mean output per step against a constant ${ready.about.inputs[0]}, from ${shown(y[0])} to ${shown(y[count])}`,
  });
}

function drawPhase(ready, run, inputs) {
  const [a, b] = shownStates(ready.about), order = ready.about.states.indexOf(a), constant = held(inputs);
  const x = range(run.states[a]), y = range(run.states[b]);
  const moved = (p, q) => {
    const states = order === 0 ? [p, q] : [q, p], made = stepOf(ready, constant, states), n = ready.found.outputs;
    return {next: [made[n + order], made[n + 1 - order]], fired: made[0] !== 0};
  };
  const grid = (ends, count) => Array.from({length: count + 1}, (_, k) => ends[0] + (ends[1] - ends[0]) * k / count);
  const from = [], to = [];
  for (const p of grid(x, 14)) for (const q of grid(y, 10)) {
    const {next, fired} = moved(p, q);
    if (!fired && next.every(Number.isFinite)) { from.push([p, q]); to.push(next); }
  }
  const xs = grid(x, 50), ys = grid(y, 50), cells = xs.map(p => ys.map(q => ({...moved(p, q), at: [p, q]})));
  const still = place => zeroLines(cells.map(row => row.map(({next, fired, at}) => fired ? NaN : next[place] - at[place])), xs, ys);
  const spikes = run.outputs[0].map((s, t) => s !== 0 ? t : -1).filter(t => t >= 0);
  draw(document.getElementById("phase"), {
    series: [
      {kind: "arrows", from, to, colour: "var(--line-strong)", width: 1},
      {kind: "line", ...still(0), colour: "var(--c1)", dash: "6 3", width: 1.6}, {kind: "line", ...still(1), colour: "var(--c2)", dash: "2 3", width: 1.6},
      {kind: "line", x: run.states[a], y: run.states[b], colour: "var(--c0)", width: 1.3},
      {kind: "dots", x: spikes.map(t => run.states[a][t]), y: spikes.map(t => run.states[b][t]), colour: "var(--ink)", width: 5},
    ],
    x, y, xLabel: a, yLabel: b, about: `Phase plane: ${b} against ${a}; arrows and nullclines at the mean input`,
  });
  legend("phase-legend", [
    {name: "course", colour: "var(--c0)", dash: ""}, {name: `${a} stands still`, colour: "var(--c1)", dash: "6 3"}, {name: `${b} stands still`, colour: "var(--c2)", dash: "2 3"},
  ]);
}

function described({about, output, spikes, run, back}) {
  const finite = Object.values(run.states).every(each => each.every(Number.isFinite));
  if (!finite) return `${view.neuron.name} leaves all bounds under this input: its states are no numbers any more. Make the input or the step smaller.`;
  const first = output.findIndex(x => x !== 0), [state] = shownStates(about), values = run.states[state];
  const said = about.spiking ? `${spikes} spikes in ${view.steps} steps${first >= 0 ? `, the first at step ${first}` : ""}` : `output up to ${shown(Math.max(...output))}`;
  const sizes = back.inputs[0].map(Math.abs), most = Math.max(...sizes), at = sizes.indexOf(most);
  const flow = most > 0 ? `The gradient of ${LOSSES[view.loss]} is largest, ${shown(back.inputs[0][at])}, at step ${at}` : `No gradient of ${LOSSES[view.loss]} reaches the input`;
  const of = values => Object.entries(values).filter(([, x]) => x !== 0).map(([name, x]) => `${name} ${shown(x)}`).join(", ");
  const numbers = of(back.numbers), spike = of(back.spike);
  const learned = numbers || spike ? ` Of the numbers: ${[numbers, spike && `of the surrogate ${spike}`].filter(Boolean).join("; ")}.` : "";
  return `${view.neuron.name}: ${said}; ${state} from ${shown(Math.min(...values))} to ${shown(Math.max(...values))}. ${flow}.${learned}`;
}
