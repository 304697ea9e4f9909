// Sliders, numbers and choices, each with a label.

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
};

/** From 0 to 1 to a number's values and back: by factors where it is positive, evenly between ends, else around its default. */
function scaleOf({value, low, high, above}) {
  if (low >= 0 && above && value > 0) {
    const ends = [Math.log(Math.max(value / 30, low)), Math.log(Math.min(value * 30, high))];
    return {of: share => Math.exp(ends[0] + share * (ends[1] - ends[0])), back: x => (Math.log(Math.max(x, 1e-300)) - ends[0]) / (ends[1] - ends[0])};
  }
  if (Number.isFinite(low) && Number.isFinite(high)) return even(low, high);
  const room = Math.max(2 * Math.abs(value), 1);
  return even(Math.max(low, value - room), Math.min(high, value + room));
}

function even(low, high) {
  return {of: share => low + share * (high - low), back: x => (x - low) / (high - low)};
}

let made = 0;

/** The label of a control, and what is said of it. */
function titled(control, name, said) {
  const note = said && element("small", {id: `${control.id}-said`}, said);
  if (note) control.setAttribute("aria-describedby", note.id);
  return element("div", {class: "titled"}, element("label", {for: control.id, class: "name"}, name), note || null);
}

/** A slider and a number field for one number, a whole one if `about.whole`. `change(value)` says what is wrong, or nothing. */
function numberControl({name, about, value, said, change, scale = scaleOf(about)}) {
  const id = `${view.tab}-${made++}`, steps = 1000;
  const place = x => String(Math.round(Math.max(0, Math.min(1, scale.back(x))) * steps));
  const slider = element("input", {type: "range", id, min: 0, max: steps, step: 1, "aria-valuetext": shown(value)});
  const field = element("input", {type: "text", inputmode: "decimal", autocomplete: "off", "aria-label": `${name}, as a number`});
  const set = x => {
    slider.value = place(x);
    slider.setAttribute("aria-valuetext", shown(x));
    if (document.activeElement !== field) field.value = String(x);
  };
  let last = value;
  const accept = x => {
    const fits = inRange(about, x) && (!about.whole || Number.isInteger(x));
    const wrong = fits ? change(x) : `${name} must be ${about.words}`;
    field.setAttribute("aria-invalid", wrong ? "true" : "false");
    if (wrong) say(wrong, true);
    else last = x;
    return !wrong;
  };
  slider.addEventListener("input", () => {
    const exact = scale.of(slider.value / steps), x = about.whole ? Math.round(exact) : Number(exact.toPrecision(3));
    const bounded = Math.min(about.high, Math.max(about.low, x));
    if (accept(bounded)) {
      field.value = String(bounded);
      slider.setAttribute("aria-valuetext", shown(bounded));
    } else set(last);
  });
  field.addEventListener("change", () => {
    const x = Number(field.value.trim().replace("−", "-").replace(",", "."));
    if (field.value.trim() && accept(x)) set(x);
    else { field.value = String(last); set(last); }
  });
  field.value = String(value);
  set(value);
  return element("div", {class: "number"}, titled(slider, name, said), slider, field);
}

/** A choice among values. */
function choiceControl({name, value, choices, said, labels = {}, change}) {
  const id = `${view.tab}-${made++}`;
  const options = choices.map(each => element("option", {value: String(each), selected: each === value}, labels[each] ?? String(each)));
  const select = element("select", {id, onchange: () => change(choices[select.selectedIndex])}, ...options);
  return element("div", {class: "choice"}, titled(select, name, said), select);
}

/** The numbers and the structure of a surrogate or a neuron. `change("numbers", name, value)` says what is wrong, or nothing. */
function formulaControls(table, formula, change) {
  const about = table[formula.name], said = about.said ?? {};
  const numbers = Object.entries(about.numbers).map(([name, each]) => numberControl({
    name, about: each, value: formula.numbers[name], said: said[name], change: x => change("numbers", name, x),
  }));
  const options = Object.entries(about.options).map(([name, {choices}]) => choiceControl({
    name, choices, value: formula.options[name], said: said[name], change: x => change("options", name, x),
  }));
  return [...numbers, ...options];
}

/** A formula with one other value. */
const withValue = (formula, kind, name, value) => ({...formula, [kind]: {...formula[kind], [name]: value}});
