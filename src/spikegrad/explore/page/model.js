// Runs the printed formulas. What it computes is held against Python's in tests/test_explore.py; it knows no page.

/** The error function: a series of positive terms, exact to a few roundings. */
function erf(x) {
  if (!(Math.abs(x) < 6)) return x > 0 ? 1 : x < 0 ? -1 : x;
  let term = x, sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= 2 * x * x / (2 * n + 1);
  return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
}

/** The variant of a neuron or a surrogate for these values of its structure. */
function variantOf(about, options) {
  return about.variants.find(({when}) => Object.keys(when).every(name => when[name] === options[name]));
}

const defaults = table => Object.fromEntries(Object.entries(table).map(([name, {value}]) => [name, value]));

/** Whether a number is in the range that its field has. */
const inRange = ({low, high, above}, x) => Number.isFinite(x) && (above ? x > low : x >= low) && x <= high;

/** A surrogate with its numbers: functions of potential minus threshold. */
function surrogateOf({name, numbers, options}) {
  const about = SURROGATES[name], found = variantOf(about, options);
  const given = Object.keys(about.numbers).map(each => numbers[each]);
  const of = part => found[part] && (x => found[part](x, ...given));
  const by = {};
  for (const each of Object.keys(about.numbers)) if (found[`by_${each}`]) by[each] = of(`by_${each}`);
  return {derivative: of("derivative"), primitive: of("primitive"), by};
}

/** Peak, area, half width and support: as they are stated, or measured on the curve. */
function factsOf(spike) {
  const about = SURROGATES[spike.name], values = {...spike.numbers, ...spike.options}, {scale} = spike.numbers;
  const g = surrogateOf(spike).derivative, found = {};
  for (const [name, fact] of Object.entries(about.facts)) {
    const value = fact(values);
    found[name] = name === "peak" || name === "area" ? value * scale : value;
  }
  if (!("peak" in found && "half_width" in found)) {
    const [peak, at] = topOf(g);
    found.peak ??= peak;
    found.half_width ??= (edgeOf(g, found.peak, at, -1) + edgeOf(g, found.peak, at, 1)) / 2;
  }
  return found;
}

/** The largest value of a curve and where it is. */
function topOf(g) {
  let best = 0, spacing = 12 / 4000;
  for (let k = -4000; k <= 4000; k++) if (g(k * spacing) > g(best)) best = k * spacing;
  for (let round = 0; round < 6; round++, spacing /= 10)
    for (let k = -10, middle = best; k <= 10; k++) if (g(middle + k * spacing / 10) > g(best)) best = middle + k * spacing / 10;
  return [g(best), best];
}

/** How far from the peak, in a direction, the curve falls below half of it; Infinity if it never does. */
function edgeOf(g, peak, at, direction) {
  const low = offset => g(at + direction * offset) < peak / 2;
  let inner = 0, outer = 1e-9;
  while (!low(outer)) {
    inner = outer;
    outer *= 1.002;
    if (outer > 1e9) return Infinity;
  }
  for (let round = 0; round < 60; round++) {
    const middle = (inner + outer) / 2;
    if (low(middle)) outer = middle; else inner = middle;
  }
  return outer;
}

/**
 * A neuron {name, numbers, options, rests, spike} made ready to run.
 * `rests` may leave out states that rest where the catalogue says.
 */
function neuronOf({name, numbers, options, rests = {}, spike}) {
  const about = NEURONS[name], found = variantOf(about, options), surrogate = surrogateOf(spike);
  const above = options.spike_at_threshold === false;
  const fire = above ? x => x > 0 ? 1 : x <= 0 ? 0 : NaN : x => x >= 0 ? 1 : x < 0 ? 0 : NaN;
  const given = Object.keys(about.numbers).map(each => numbers[each]);
  const resting = about.states.map(each => rests[each] ?? about.rests[each]);
  return {
    about, found, given, resting, surrogate,
    parameters: found.constants(...given),
    first: found.resting(...given, ...resting),
    words: {fire, derivative: surrogate.derivative, by: () => 0},
    broken: Object.keys(found.valid).filter(words => !found.valid[words](...given)),
  };
}

/** One step: outputs, states after it, recorded values, kept values, one after the other. */
const stepOf = (neuron, inputs, states) => neuron.found.forward.apply(neuron.words, [...inputs, ...states, ...neuron.parameters]);

/**
 * All steps: the sequences of outputs, of the states after each step, of recorded and of kept values.
 * `inputs` has a sequence for each input of the neuron; `first` are the states before the first step.
 */
function forward(neuron, inputs, first = neuron.first) {
  const {about, found} = neuron, n = found.outputs, m = n + about.states.length, r = m + found.recorded.length;
  const made = [];
  for (let t = 0, states = first; t < inputs[0].length; t++) {
    made.push(stepOf(neuron, inputs.map(x => x[t]), states));
    states = made[t].slice(n, m);
  }
  const sequence = place => made.map(each => each[place]);
  const named = (names, start) => Object.fromEntries(names.map((name, k) => [name, sequence(start + k)]));
  return {
    inputs, first,
    outputs: Array.from({length: n}, (_, k) => sequence(k)),
    states: named(about.states, n),
    recorded: named(found.recorded, m),
    kept: made.map(each => each.slice(r)),
  };
}

/**
 * The gradients of all that went in, from those that arrive: `bars.outputs`, for each output a sequence; `bars.states`, of the last
 * states; `bars.recorded`, by name. Returns gradients of `inputs`; of `states`, before each step; of `numbers`; of the surrogate's `spike`.
 */
function backward(neuron, run, bars = {}) {
  const back = by => passBack(neuron, {...neuron.words, by}, run, bars);
  const found = back(() => 0), spike = {};
  for (const [name, by] of Object.entries(neuron.surrogate.by)) spike[name] = back(by).sums["spike.number"] ?? 0;
  const {about} = neuron, sums = neuron.found.parameters.map(name => found.sums[name] ?? 0);
  const pulled = neuron.found.pull(...neuron.given, ...neuron.resting, ...sums, ...about.states.map(name => found.states[name][0]));
  const numbers = Object.fromEntries(Object.keys(about.numbers).map((name, k) => [name, pulled[k]]));
  return {inputs: found.inputs, states: found.states, numbers, spike};
}

function passBack(neuron, words, run, bars) {
  const {about, found, parameters} = neuron, steps = run.kept.length, numbers = ["spike.number", ...found.parameters];
  const places = names => names.map(name => found.adjoints.indexOf(name)); // -1 where it is always 0
  const ofInputs = places(about.inputs), ofStates = places(about.states), ofNumbers = places(numbers);
  const reread = found.reread.map(name => run.inputs[about.inputs.indexOf(name)]);
  const start = found.restored.map(name => run.first[about.states.indexOf(name)]);
  const zeros = new Array(steps).fill(0), given = sequences => sequences.map(each => each ?? zeros);
  const outputs = given(run.outputs.map((_, k) => bars.outputs?.[k])), recorded = given(found.recorded.map(name => bars.recorded?.[name]));
  const inputs = about.inputs.map(() => new Array(steps)), states = about.states.map(() => new Array(steps)), sums = numbers.map(() => 0);
  let arriving = about.states.map(name => bars.states?.[name] ?? 0);
  for (let t = steps - 1; t >= 0; t--) {
    const at = sequences => sequences.map(each => each[t]);
    const restored = t > 0 && start.length ? found.restore.apply(words, [...run.kept[t - 1], ...parameters]) : start;
    const adjoints = found.reverse.apply(words, [...run.kept[t], ...at(reread), ...restored, ...parameters, ...at(outputs), ...arriving, ...at(recorded)]);
    const into = (targets, places) => places.forEach((place, k) => { targets[k][t] = place < 0 ? 0 : adjoints[place]; });
    into(inputs, ofInputs);
    into(states, ofStates);
    arriving = states.map(each => each[t]);
    ofNumbers.forEach((place, k) => { if (place >= 0) sums[k] += adjoints[place]; });
  }
  const named = (names, values) => Object.fromEntries(names.map((name, k) => [name, values[k]]));
  return {inputs, states: named(about.states, states), sums: named(numbers, sums)};
}

/** How often a neuron spikes, or its mean output, in each step under constant inputs, after a time to settle. */
function rateOf(neuron, inputs, steps = 400, settle = 100) {
  let states = neuron.first, sum = 0;
  for (let t = 0; t < steps + settle; t++) {
    const made = stepOf(neuron, inputs, states);
    states = made.slice(neuron.found.outputs, neuron.found.outputs + states.length);
    if (t >= settle) sum += made[0];
  }
  return sum / steps;
}
