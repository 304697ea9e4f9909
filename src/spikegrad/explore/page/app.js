// The page: which view is shown, its address, and what the buttons do.

const ORIGINAL = document.documentElement.outerHTML; // before anything is changed: what a saved page is made of

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
  drawNow.timer = setTimeout(() => { // not at every place of a slider: a screen reader reads it
    document.getElementById("summary").textContent = text;
    remember();
  }, 500);
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

function show(text) {
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
    if (value) show(value);
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
  addEventListener("hashchange", () => show(location.hash));
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; refresh(); } });
  show(location.hash.length > 1 ? location.hash : document.querySelector("meta[name=spikegrad-view]").content || START);
}

begin();
