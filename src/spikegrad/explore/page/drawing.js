// Panels in which an input is drawn: with a mouse, a finger, or the arrow keys.

/** The range of an input's panel, which stays while it is drawn in. */
function inputRange(y, place) {
  const host = document.getElementById(`input-${place}`);
  if (host.drawing) return host.range;
  const ready = range(y, true), most = Math.max(...y.map(Math.abs), 1e-6);
  return host.range = [Math.min(ready[0], -0.15 * most), Math.max(ready[1], 1.6 * most)];
}

function inputPanels() {
  const about = NEURONS[view.neuron.name];
  const panels = about.inputs.map((name, place) => {
    const host = element("div", {
      id: `input-${place}`, class: "chart drawn", "data-height": about.inputs.length > 1 ? 100 : 120, tabindex: 0, role: "slider",
      "aria-label": `${name}, drawn: left and right choose a step, up and down change its value, with shift ten steps at once`,
      "aria-orientation": "vertical", "aria-valuenow": 0,
    });
    host.cursor = 0;
    enableDrawing(host, place);
    const told = element("span", {class: "hint"}, "draw here with mouse or finger, or with the arrow keys");
    return element("figure", {}, element("figcaption", {}, `${name} `, told), host);
  });
  document.getElementById("inputs").replaceChildren(...panels);
}

/** Sets an input from one step to another, along a line. */
function setInput(place, from, to) {
  const values = [...sequence(view.inputs[place], view.steps, place)], was = view.inputs[place].shape;
  const [[t0, y0], [t1, y1]] = from[0] <= to[0] ? [from, to] : [to, from];
  for (let t = Math.max(0, t0); t <= Math.min(view.steps - 1, t1); t++)
    values[t] = round3(t1 === t0 ? to[1] : y0 + (y1 - y0) * (t - t0) / (t1 - t0));
  view.inputs = view.inputs.map((each, k) => k === place ? {shape: "drawn", size: 1, values} : each);
  if (was !== "drawn") {
    document.querySelectorAll("#neuron-choose select")[1 + place].value = "drawn";
    document.querySelectorAll("#neuron-choose .input-controls")[place].querySelector(".number")?.remove();
  }
  refresh();
}

function enableDrawing(host, place) {
  let before = null;
  const at = event => {
    const box = host.getBoundingClientRect(), [low, high] = host.range;
    const t = Math.round(host.scale.x(event.clientX - box.left)), y = host.scale.y(event.clientY - box.top);
    return [Math.max(0, Math.min(view.steps - 1, t)), Math.abs(y) < 0.02 * (high - low) ? 0 : Math.max(low, Math.min(high, y))];
  };
  host.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    host.setPointerCapture(event.pointerId);
    host.drawing = true;
    before = at(event);
    setInput(place, before, before);
    event.preventDefault();
    host.focus({preventScroll: true});
  });
  host.addEventListener("pointermove", event => {
    if (!before) return;
    const now = at(event);
    setInput(place, before, now);
    before = now;
  });
  for (const name of ["pointerup", "pointercancel"]) host.addEventListener(name, () => {
    before = null;
    host.drawing = false;
    refresh();
  });
  host.addEventListener("keydown", event => {
    const sideways = {ArrowLeft: -1, ArrowRight: 1}[event.key], upwards = {ArrowUp: 1, ArrowDown: -1}[event.key];
    const wide = event.shiftKey ? 10 : 1;
    if (event.key === "Home" || event.key === "End") host.cursor = event.key === "Home" ? 0 : view.steps - 1;
    else if (sideways) host.cursor = Math.max(0, Math.min(view.steps - 1, host.cursor + sideways * wide));
    else if (upwards) {
      const values = sequence(view.inputs[place], view.steps, place), [low, high] = host.range;
      const y = round3(values[host.cursor] + upwards * (high - low) / 20);
      host.drawing = true;
      setInput(place, [host.cursor, y], [Math.min(view.steps - 1, host.cursor + wide - 1), y]);
      host.drawing = false;
    } else return;
    event.preventDefault();
    tellCursor(host, place);
    refresh();
  });
  host.addEventListener("focus", () => tellCursor(host, place));
}

function tellCursor(host, place) {
  host.cursor = Math.min(host.cursor, view.steps - 1);
  const value = sequence(view.inputs[place], view.steps, place)[host.cursor];
  host.setAttribute("aria-valuenow", value);
  host.setAttribute("aria-valuemin", host.range[0]);
  host.setAttribute("aria-valuemax", host.range[1]);
  host.setAttribute("aria-valuetext", `step ${host.cursor}: ${shown(value)}`);
}
