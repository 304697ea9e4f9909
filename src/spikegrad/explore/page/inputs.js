// What goes into a neuron: currents over time.

/** Numbers between 0 and 1 that look random and are the same each time. */
function randomFrom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  };
}

/** An input's value at each step. */
function sequence({shape, size, values}, steps, place = 0) {
  if (shape === "drawn") return values;
  const random = randomFrom(7 + place);
  const at = {
    constant: () => 1,
    step: t => t >= steps * 0.1 && t < steps * 0.7 ? 1 : 0,
    ramp: t => t / (steps - 1),
    pulses: () => random() < 0.12 ? 1 : 0,
  }[shape];
  return Array.from({length: steps}, (_, t) => size * at(t));
}

const sequences = view => view.inputs.map((input, k) => sequence(input, view.steps, k));

/** What an input is when its neuron is chosen: the first as strong as makes it spike now and then, the others quiet. */
function standardInput(view, place) {
  const name = NEURONS[view.neuron.name].inputs[place];
  if (place > 0) return {shape: "constant", size: name === "conductance" ? 0.5 : 0};
  return {shape: "step", size: fittingSize(view, "step")};
}

/** Of sizes with two digits the one that makes about so many spikes in so many steps. */
function fittingSize({neuron, steps}, shape) {
  const ready = neuronOf(neuron), about = NEURONS[neuron.name], wanted = shape === "pulses" ? steps / 25 : steps / 20;
  if (!about.spiking) return 1;
  const others = about.inputs.slice(1).map((name, k) => sequence(standardInput({neuron, steps}, k + 1), steps));
  let best = 1, least = Infinity;
  for (let k = -6; k <= 11; k += 0.25) {
    const size = Number((2 ** k).toPrecision(2));
    const made = forward(ready, [sequence({shape, size}, steps), ...others]).outputs[0];
    const miss = Math.abs(Math.log((made.filter(x => x !== 0).length + 0.01) / wanted));
    if (miss < least) [best, least] = [size, miss];
  }
  return best;
}
