// Plays a user in the page, and leaves what it tells in the document: see test_explore_browser.py.
window.requestAnimationFrame = draw => setTimeout(draw, 16); // a browser without a window draws no frames
const errors = [], told = {};
addEventListener("error", event => errors.push(event.message));
addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
console.error = console.warn = (...words) => errors.push(words.join(" "));
const pause = time => new Promise(done => setTimeout(done, time));
const picture = id => document.getElementById(id).innerHTML;
const changes = async (id, act) => { const before = picture(id); act(); await pause(400); return picture(id) !== before; };
const slide = (input, value) => { input.value = value; input.dispatchEvent(new Event("input", {bubbles: true})); };
const type = (field, value) => { field.value = value; field.dispatchEvent(new Event("change")); };
const choose = (select, value) => { select.value = value; select.dispatchEvent(new Event("change", {bubbles: true})); };
const numbers = () => [...document.querySelectorAll("main section:not([hidden]) .svg, main section:not([hidden]) svg path")].map(each => each.getAttribute("d") ?? "");
const play = drive => addEventListener("load", () => drive().catch(error => errors.push(String(error.stack))).then(() => {
  const result = btoa(unescape(encodeURIComponent(JSON.stringify({...told, errors}))));
  document.body.replaceChildren(Object.assign(document.createElement("pre"), {id: "result", textContent: result}));
}));
