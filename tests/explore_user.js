// Everything is chosen once, sliders are moved, an input is drawn by mouse and by keyboard.
play(async () => {
  await pause(400);
  told.wide = [];
  const narrow = what => { if (document.documentElement.scrollWidth > innerWidth) told.wide.push(what); };
  told.neurons = [];
  told.extreme = [];
  for (const name of Object.keys(NEURONS)) {
    choose(document.querySelector("#neuron-choose select"), name);
    await pause(700);
    told.neurons.push([name, numbers().some(path => /NaN|undefined|Infinity/.test(path)), document.getElementById("summary").textContent, location.hash]);
    narrow(name);
    for (const slider of document.querySelectorAll("#neuron-numbers input[type=range]")) {
      for (const value of [0, 1000, 500]) { slide(slider, value); await pause(40); }
    }
    for (const field of document.querySelectorAll("#neuron input[type=text]")) {
      for (const value of ["1e300", "-1e300", "1e-300", "0", "-1", "soup", ""]) { type(field, value); await pause(40); }
    }
    await pause(700);
    if (numbers().some(path => /NaN|undefined|Infinity/.test(path))) told.extreme.push(name);
    choose(document.querySelectorAll("#neuron-choose select")[1], "pulses");
  }
  show("neuron=Leaky()&input=step(0.2)&steps=200&loss=all");
  await pause(700);
  const sliders = [...document.querySelectorAll("#neuron-numbers input[type=range]")];
  told.slider = [];
  for (const id of ["state-0", "flow", "flow-states", "gate", "rate"]) told.slider.push(await changes(id, () => slide(sliders[0], Number(sliders[0].value) - 10)));
  told.surrogate = await changes("flow", () => slide(sliders[2], 900));
  told.still = await changes("state-0", () => slide(sliders[2], 800));
  told.reset = await changes("state-0", () => choose(document.querySelectorAll("#neuron-numbers select")[0], "zero"));
  show("neuron=Leaky()&input=step(0.2)&steps=200&loss=output&at=150");
  await pause(700);
  const [size, steps] = document.querySelectorAll("#neuron-choose input[type=range]");
  told.size = [await changes("input-0", () => slide(size, 700)), view.inputs[0].size];
  told.steps = [await changes("input-0", () => slide(steps, 93)), view.steps, view.at, document.querySelector("#loss input[type=text]").value];
  type(document.querySelectorAll("#neuron-choose input[type=text]")[1], "100.5");
  told.half = [document.getElementById("message").textContent, view.steps];
  const host = document.getElementById("input-0"), box = host.getBoundingClientRect();
  host.setPointerCapture = () => {};
  const point = (kind, x, y) => host.dispatchEvent(new PointerEvent(kind, {clientX: box.left + x * box.width, clientY: box.top + y * box.height, button: 0, bubbles: true}));
  told.drawn = await changes("state-0", () => { point("pointerdown", 0.3, 0.3); point("pointermove", 0.6, 0.1); point("pointerup", 0.6, 0.1); });
  told.shape = view.inputs[0].shape;
  host.focus();
  const press = key => host.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  press("Home"); press("ArrowRight");
  told.keyboard = await changes("input-0", () => { press("ArrowUp"); press("ArrowUp"); });
  told.said = host.getAttribute("aria-valuetext");
  const field = document.querySelector("#neuron-numbers input[type=text]");
  type(field, "7");
  told.refused = [document.getElementById("message").textContent, field.value, view.neuron.numbers.beta];
  document.getElementById("tab-surrogates").click();
  await pause(700);
  told.surrogates = [];
  for (const name of Object.keys(SURROGATES)) {
    choose(document.querySelector("#surrogate-controls select"), name);
    await pause(700);
    told.surrogates.push([name, numbers().some(path => /NaN|undefined/.test(path)), document.querySelector("#facts tbody").textContent]);
    narrow(name);
  }
  told.curve = await changes("derivative", () => slide(document.querySelector("#surrogate-controls fieldset input[type=range]"), 700));
  for (let k = 0; k < 9; k++) document.getElementById("add-curve").click();
  told.curves = view.curves.length;
  narrow("six curves");
  for (const [, entries] of PRESETS) for (const [name, text] of entries) { location.hash = text; await pause(700); narrow(name); }
  location.hash = "neuron=Nobody()";
  await pause(100);
  told.wrong = document.getElementById("message").textContent;
  told.unlabelled = [...document.querySelectorAll("input, select, button")].filter(each =>
    !each.labels?.length && !each.getAttribute("aria-label") && !each.textContent.trim()).length;
});
