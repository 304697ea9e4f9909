// The page: which view is shown, its address, and what the buttons do.

const ORIGINAL = document.documentElement.outerHTML; // before anything is changed: what a saved page is made of

const PRESETS = [
  ["Surrogates", [
    ["Four common surrogates", "show=surrogates&curves=ATan(),FastSigmoid(slope=10),Sigmoid(),Triangle()&reach=2"],
    ["One surrogate, four slopes", "show=surrogates&curves=FastSigmoid(slope=1),FastSigmoid(slope=5),FastSigmoid(slope=25),FastSigmoid(slope=100)&reach=1"],
    ["Tails: heavy, light, none", "show=surrogates&curves=InverseAbs(),ATan(),Gaussian(),Boxcar()&reach=4"],
    ["Negative lobes", "show=surrogates&curves=MultiGaussian(),Fourier(),Gaussian()&reach=5"],
  ]],
  ["Neurons", [
    ["Leaky integrate-and-fire", "show=neuron&neuron=Leaky()&input=step(0.2)&steps=200&loss=all"],
    ["A threshold that adapts", "show=neuron&neuron=Adaptive(jump=0.3)&input=step(0.4)&steps=200&loss=all"],
    ["Izhikevich: regular spiking", "show=neuron&neuron=Izhikevich()&input=step(10)&steps=800&loss=all"],
    ["Izhikevich: bursting", "show=neuron&neuron=Izhikevich(c=-50,d=2)&input=step(10)&steps=800&loss=all"],
    ["AdEx: phase plane", "show=neuron&neuron=AdEx()&input=step(1.6)&steps=400&loss=all"],
    ["A resonator and its pulses", "show=neuron&neuron=ResonateAndFire(damping=-0.05,omega=0.5)&input=pulses(0.5)&steps=200&loss=all"],
  ]],
  ["Gradients", [
    ["Gone after twenty steps", "show=neuron&neuron=Leaky(beta=0.8)&input=constant(0.1)&steps=100&loss=potential&at=90"],
    ["Remembered: a slow leak", "show=neuron&neuron=Leaky(beta=0.98)&input=constant(0.015)&steps=100&loss=potential&at=90"],
    ["Exploding through the reset", "show=neuron&neuron=Leaky(beta=0.95,detach_reset=false,spike=FastSigmoid(slope=10,height=5))&input=constant(0.3)&steps=100&loss=potential&at=90"],
    ["Too steep: no gradient between spikes", "show=neuron&neuron=Leaky(spike=FastSigmoid(slope=100))&input=step(0.2)&steps=200&loss=all"],
  ]],
];

const START = "show=neuron&neuron=Leaky()&input=step(0.2)&steps=200&loss=all&at=199&curves=ATan(),FastSigmoid(slope=10),Sigmoid()&reach=2";

let view = null;

/** Says something to everyone: on the screen and to screen readers. */
function say(text, wrong = false) {
  const host = document.getElementById("message");
  host.textContent = text;
  host.classList.toggle("wrong", wrong);
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { host.textContent = ""; }, 6000);
}

/** Runs when nothing has changed for a moment: what takes longest. */
function later(work) {
  clearTimeout(later.timer);
  later.timer = setTimeout(work, 60);
}

let waiting = false;

/** Draws again, once in a frame however much has changed. */
function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawNow();
  });
}

function drawNow() {
  const text = view.tab === "surrogates" ? drawSurrogates() : drawNeuron();
  clearTimeout(drawNow.timer);
  drawNow.timer = setTimeout(() => {
    document.getElementById("summary").textContent = text;
    remember();
  }, 250);
}

/** Makes all controls again, since a view or a formula has changed, and draws. */
function rebuild() {
  const focused = document.activeElement?.id;
  for (const tab of ["surrogates", "neuron"]) {
    document.getElementById(tab).hidden = view.tab !== tab;
    const button = document.getElementById(`tab-${tab}`);
    button.setAttribute("aria-selected", String(view.tab === tab));
    button.tabIndex = view.tab === tab ? 0 : -1;
  }
  made = 0; // so that the control that had the focus has its name again
  if (view.tab === "surrogates") surrogateControls(); else neuronControls();
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
  drawNow();
}

function remember() {
  const wanted = `#${address(view)}`;
  if (location.hash !== wanted) {
    try { history.replaceState(null, "", wanted); } catch { /* a page in a frame may not */ }
  }
}

function open(text) {
  try {
    view = readAddress(text, view ?? readAddress(START, {}));
  } catch (error) {
    view ??= readAddress(START, {});
    say(`This link cannot be shown: ${error.message}.`, true);
  }
  rebuild();
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without a secure address a browser has no clipboard
    const field = element("textarea", {class: "away"}, text);
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (!done) return say(`${what}: ${text}`);
  }
  return say(`Copied: ${what === "link" ? "the link to this view" : text}`);
}

function save() {
  const named = `<meta name="spikegrad-view" content="${svgText(address(view))}">`;
  const page = `<!doctype html>\n${ORIGINAL.replace(/<meta name="spikegrad-view"[^>]*>/, () => named)}`;
  const link = element("a", {href: URL.createObjectURL(new Blob([page], {type: "text/html"})), download: "spikegrad-view.html"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  say("Saved as spikegrad-view.html; it opens with this view");
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById("theme").setAttribute("aria-pressed", String(theme === "dark"));
}

function begin() {
  const menu = document.getElementById("presets");
  for (const [title, entries] of PRESETS)
    menu.append(element("optgroup", {label: title}, ...entries.map(([name, text]) => element("option", {value: text}, name))));
  menu.addEventListener("change", () => {
    const {value} = menu;
    menu.selectedIndex = 0;
    if (value) open(value);
  });
  const tabs = ["neuron", "surrogates"];
  for (const tab of tabs) document.getElementById(`tab-${tab}`).addEventListener("click", () => { view.tab = tab; rebuild(); });
  document.querySelector("[role=tablist]").addEventListener("keydown", event => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    view.tab = tabs.find(tab => tab !== view.tab);
    rebuild();
    document.getElementById(`tab-${view.tab}`).focus();
  });
  document.getElementById("copy-python").addEventListener("click", () => copy(python(view), "python"));
  document.getElementById("copy-link").addEventListener("click", () => { remember(); copy(location.href.split("#")[0] + `#${address(view)}`, "link"); });
  document.getElementById("save").addEventListener("click", save);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  addEventListener("hashchange", () => open(location.hash));
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; refresh(); } });
  open(location.hash.length > 1 ? location.hash : document.querySelector("meta[name=spikegrad-view]").content || START);
}

begin();
