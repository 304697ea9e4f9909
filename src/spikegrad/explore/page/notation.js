// How a view is written: in the address as in `Leaky(beta=0.9,spike=ATan(slope=2))`, and as a line of Python.

/** Reads `name`, a number, true, false or `name(...)` with values by name or by position; throws where it cannot. */
function parsed(text) {
  let place = 0;
  const fail = () => { throw new Error(`“${text.slice(0, 60)}” is not understood at “${text.slice(place, place + 12)}”`); };
  const take = pattern => {
    const found = text.slice(place).match(pattern);
    if (found) place += found[0].length;
    return found && found[0].trim();
  };
  const value = depth => {
    const number = take(/^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*/i);
    if (number !== null) return Number(number);
    const name = take(/^\s*[A-Za-z_]\w*\s*/);
    if (name === null || depth > 3) return fail();
    if (!take(/^\(/)) return name === "true" ? true : name === "false" ? false : name;
    const call = {name, values: Object.create(null), list: []};
    while (!take(/^\s*\)\s*/)) {
      const key = take(/^\s*[A-Za-z_]\w*\s*=/);
      if (key !== null) call.values[key.slice(0, -1).trim()] = value(depth + 1);
      else call.list.push(value(depth + 1));
      if (!take(/^\s*,/) && text[place] !== ")") fail();
    }
    return call;
  };
  const found = value(0);
  if (place < text.length) fail();
  return found;
}

/** The parts between commas that are in no parentheses. */
function separated(text) {
  const parts = [""];
  let depth = 0;
  for (const sign of text) {
    depth += (sign === "(") - (sign === ")");
    if (sign === "," && depth === 0) parts.push("");
    else parts[parts.length - 1] += sign;
  }
  return parts.filter(part => part.trim());
}

/** A surrogate or neuron of a table from what was parsed; unknown names and values outside of their range are errors. */
function named(table, call, what) {
  const {name, values, list} = typeof call === "string" ? {name: call, values: {}, list: []} : call ?? {};
  if (!Object.hasOwn(table, name ?? "")) throw new Error(`there is no ${what} “${name ?? call}”`);
  const about = table[name], found = {name, numbers: defaults(about.numbers), options: defaults(about.options)};
  const order = [...Object.keys(about.numbers), ...Object.keys(about.options)];
  const given = {...Object.fromEntries(list.map((each, k) => [order[k], each])), ...values};
  for (const [key, each] of Object.entries(given)) {
    if (key === "spike" && about.spiking) found.spike = named(SURROGATES, each, "surrogate");
    else if (Object.hasOwn(about.numbers, key)) {
      if (!inRange(about.numbers[key], each)) throw new Error(`${key} of ${name} must be ${about.numbers[key].words}, not ${each}`);
      found.numbers[key] = each;
    } else if (Object.hasOwn(about.options, key)) {
      if (!about.options[key].choices.includes(each)) throw new Error(`${key} of ${name} cannot be ${each}`);
      found.options[key] = each;
    } else throw new Error(`${name} has no “${key}”`);
  }
  if (table === NEURONS) {
    found.spike ??= named(SURROGATES, "ATan", "surrogate");
    const {broken} = neuronOf(found);
    if (broken.length) throw new Error(`${name} needs ${broken[0]}`);
  }
  return found;
}

/** The fields that differ from the catalogue's. */
function changed(table, {name, numbers, options}) {
  const about = table[name];
  return [
    ...Object.keys(numbers).filter(key => numbers[key] !== about.numbers[key].value).map(key => [key, numbers[key]]),
    ...Object.keys(options).filter(key => options[key] !== about.options[key].value).map(key => [key, options[key]]),
  ];
}

function written(table, formula) {
  const fields = changed(table, formula).map(([key, value]) => `${key}=${value}`);
  const spike = formula.spike && table[formula.name].spiking ? written(SURROGATES, formula.spike) : "ATan()";
  if (spike !== "ATan()") fields.push(`spike=${spike}`);
  return `${formula.name}(${fields.join(",")})`;
}

const SHAPES = ["constant", "step", "ramp", "pulses", "drawn"];
const LOSSES = {all: "the sum of all outputs", output: "the output at the marked step", potential: "the potential at the marked step"};
const MOST_CURVES = 6;

const round3 = x => Number(x.toPrecision(3));

function writtenInput({shape, size, values}) {
  return shape === "drawn" ? `drawn(${values.map(round3).join(",")})` : `${shape}(${size})`;
}

function readInput(text, steps) {
  const {name, list} = parsed(text);
  if (!SHAPES.includes(name) || !list.every(Number.isFinite)) throw new Error(`“${text.slice(0, 40)}” is no input`);
  if (name !== "drawn") return {shape: name, size: list[0] ?? 1};
  return {shape: name, size: 1, values: Array.from({length: steps}, (_, t) => list[t] ?? 0)};
}

/** A view as the part of an address behind #. */
function address(view) {
  const parts = [`show=${view.tab}`];
  if (view.tab === "surrogates") parts.push(`curves=${view.curves.map(each => written(SURROGATES, each)).join(",")}`, `reach=${view.reach}`);
  else {
    parts.push(`neuron=${written(NEURONS, view.neuron)}`, `input=${view.inputs.map(writtenInput).join(",")}`);
    parts.push(`steps=${view.steps}`, `loss=${view.loss}`, `at=${view.at}`);
  }
  return parts.join("&");
}

/** The view of an address, over another one for what it does not say; throws an Error that says what is wrong. */
function readAddress(text, before) {
  let plain = text.replace(/^#/, "");
  try { plain = decodeURIComponent(plain); } catch { throw new Error("the link is cut short"); }
  const given = Object.create(null);
  for (const part of plain.split("&")) {
    const at = part.indexOf("=");
    if (at > 0) given[part.slice(0, at)] = part.slice(at + 1);
  }
  const view = {...before};
  const whole = (name, low, high) => {
    const value = Number(given[name]);
    if (!Number.isInteger(value) || value < low || value > high) throw new Error(`${name} must be from ${low} to ${high}, not ${given[name]}`);
    return value;
  };
  if (given.curves) view.curves = separated(given.curves).slice(0, MOST_CURVES).map(each => named(SURROGATES, parsed(each), "surrogate"));
  if (given.reach) view.reach = Number(given.reach);
  if (!(view.reach >= 0.01 && view.reach <= 1000)) throw new Error(`reach must be from 0.01 to 1000, not ${given.reach}`);
  if (given.steps) view.steps = whole("steps", 10, 1000);
  if (given.neuron) {
    view.neuron = named(NEURONS, parsed(given.neuron), "neuron");
    view.inputs = null;
  }
  if (given.input) view.inputs = separated(given.input).map(each => readInput(each, view.steps));
  const count = NEURONS[view.neuron.name].inputs.length;
  view.inputs = Array.from({length: count}, (_, k) => view.inputs?.[k] ?? standardInput(view, k));
  view.inputs = view.inputs.map(each => resized(each, view.steps));
  if (given.loss && !Object.hasOwn(LOSSES, given.loss)) throw new Error(`there is no loss “${given.loss}”`);
  view.loss = given.loss ?? view.loss;
  view.at = Math.min(given.at ? whole("at", 0, 1000) : view.at, view.steps - 1);
  if (given.show) view.tab = given.show === "surrogates" ? "surrogates" : "neuron";
  return view;
}

const resized = (input, steps) => input.shape !== "drawn" ? input
  : {...input, values: Array.from({length: steps}, (_, t) => input.values[t] ?? 0)};

const inPython = value => value === true ? "True" : value === false ? "False" : typeof value === "string" ? `"${value}"` : String(value);

function pythonOf(table, {name, numbers, options, spike}, prefix = "") {
  const about = table[name];
  const shown = Object.keys(numbers).filter(key => key !== "scale" || numbers.scale !== 1).map(key => [key, numbers[key]]);
  const fields = [...shown, ...changed(table, {name, numbers: {}, options})].map(([key, value]) => `${key}=${inPython(value)}`);
  if (about.spiking) fields.push(`spike=${pythonOf(SURROGATES, spike)}`);
  return `${prefix}${name}(${fields.join(", ")})`;
}

/** What is on the screen as one line of Python. */
function python(view) {
  if (view.tab === "surrogates") {
    const names = [...new Set(view.curves.map(each => each.name))].sort();
    const curves = view.curves.map(each => pythonOf(SURROGATES, each)).join(", ");
    return `from spikegrad import ${[...names, "plots"].join(", ")}; figure = plots.curves([${curves}])`;
  }
  const {neuron} = view, names = NEURONS[neuron.name].spiking ? [neuron.spike.name] : [];
  return `from spikegrad import ${[...names, "neurons", "nn"].join(", ")}; layer = nn.Layer(${pythonOf(NEURONS, neuron, "neurons.")})`;
}
