// Charts as inline SVG: text stays text, colours follow the theme, and a description stands in for the picture.

const svgText = text => String(text).replace(/[&<>"]/g, sign => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})[sign]);

/** A number for people: four digits, powers of ten where there are too many zeros. */
function shown(x) {
  if (x === Infinity) return "∞";
  if (x === -Infinity) return "−∞";
  if (!Number.isFinite(x)) return "not a number";
  const size = Math.abs(x);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? x.toExponential(2).replace(/\.?0*e\+?/, "e") : String(Number(x.toPrecision(4)));
  return text.replace("-", "−");
}

/** Round numbers between two ends. */
function ticksBetween(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const spacing = [1, 2, 5, 10].map(x => x * power).find(x => x >= raw * 0.6);
  const ticks = [];
  for (let k = Math.ceil(low / spacing - 1e-9); k * spacing <= high + 1e-9 * spacing; k++) ticks.push(Number((k * spacing).toPrecision(12)));
  return ticks;
}

/** The ends of some numbers with room around them; 0 is inside if `zero`. */
function range(values, zero = false) {
  let low = zero ? 0 : Infinity, high = zero ? 0 : -Infinity;
  for (const x of values) {
    if (x < low && x > -1e300) low = x;
    if (x > high && x < 1e300) high = x;
  }
  if (low > high) return [-1, 1];
  if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) {
    const room = Math.abs(low) || 1;
    return zero ? [0, 1] : [low - room / 2, high + room / 2];
  }
  const room = 0.06 * (high - low);
  return [zero && low === 0 ? 0 : low - room, zero && high === 0 ? 0 : high + room];
}

/**
 * Draws into an element.
 * `series` are {kind, x, y, colour, dash, name, width}: line, steps, area, stems, ticks (in a strip on top), dots; or {kind: "arrows", from, to}.
 */
function draw(host, {series, x, y, xLabel, yLabel, title, about, marks = [], strip = false, height}) {
  const width = Math.max(host.clientWidth || 600, 200), tall = height ?? (Number(host.dataset.height) || 150);
  const left = 52, right = 12, top = strip ? 26 : 8, bottom = xLabel ? 34 : 20;
  const [x0, x1] = x, [y0, y1] = y;
  const px = value => left + (value - x0) / (x1 - x0) * (width - left - right);
  const py = value => top + (y1 - value) / (y1 - y0) * (tall - top - bottom);
  const within = value => Math.max(-1e4, Math.min(1e4, value));
  const at = (a, b) => `${within(px(a)).toFixed(1)} ${within(py(b)).toFixed(1)}`;
  const parts = [];
  for (const tick of ticksBetween(y0, y1, Math.max(2, (tall - top - bottom) / 32))) {
    parts.push(`<line class="grid" x1="${left}" x2="${width - right}" y1="${py(tick)}" y2="${py(tick)}"/>`);
    parts.push(`<text class="tick" x="${left - 6}" y="${py(tick) + 3.5}" text-anchor="end">${shown(tick)}</text>`);
  }
  for (const tick of ticksBetween(x0, x1, Math.max(2, width / 90)))
    parts.push(`<text class="tick" x="${px(tick)}" y="${tall - bottom + 14}" text-anchor="middle">${shown(tick)}</text>`);
  for (const mark of marks) parts.push(`<line class="mark ${mark.kind ?? ""}" x1="${px(mark.x)}" x2="${px(mark.x)}" y1="${top}" y2="${tall - bottom}"/>`);
  if (y0 < 0 && y1 > 0) parts.push(`<line class="axis" x1="${left}" x2="${width - right}" y1="${py(0)}" y2="${py(0)}"/>`);
  parts.push(`<g clip-path="inset(0)">`);
  for (const each of series) parts.push(seriesPath(each, {at, px, py, top, y0}));
  parts.push("</g>");
  parts.push(`<line class="axis" x1="${left}" x2="${width - right}" y1="${tall - bottom}" y2="${tall - bottom}"/>`);
  if (xLabel) parts.push(`<text class="label" x="${(left + width - right) / 2}" y="${tall - 3}" text-anchor="middle">${svgText(xLabel)}</text>`);
  if (yLabel) parts.push(`<text class="label" transform="translate(11 ${(top + tall - bottom) / 2}) rotate(-90)" text-anchor="middle">${svgText(yLabel)}</text>`);
  const clip = `<clipPath id="clip-${host.id}"><rect x="${left}" y="${strip ? 0 : top - 4}" width="${width - left - right}" height="${tall - bottom - (strip ? 0 : top - 4) + 1}"/></clipPath>`;
  const picture = parts.join("").replace('clip-path="inset(0)"', `clip-path="url(#clip-${host.id})"`);
  host.innerHTML = `<svg role="img" aria-label="${svgText(about ?? title)}" viewBox="0 0 ${width} ${tall}" width="${width}" height="${tall}">${clip}${picture}</svg>`;
  host.scale = {px, py, x: pixel => x0 + (pixel - left) / (width - left - right) * (x1 - x0), y: pixel => y1 - (pixel - top) / (tall - top - bottom) * (y1 - y0)};
}

function seriesPath({kind, x, y, from, to, colour, dash, width = 1.8}, {at, px, py, top}) {
  const style = `stroke="${colour}" stroke-width="${width}"${dash ? ` stroke-dasharray="${dash}"` : ""} fill="none"`;
  const finite = k => Number.isFinite(y[k]) && Number.isFinite(x[k]);
  if (kind === "line" || kind === "steps" || kind === "area") {
    let path = "", open = false;
    for (let k = 0; k < x.length; k++) {
      if (!finite(k)) { open = false; continue; }
      if (kind === "line") path += `${open ? "L" : "M"}${at(x[k], y[k])}`;
      else path += `${open ? "L" : "M"}${at(x[k] - 0.5, y[k])}L${at(x[k] + 0.5, y[k])}`;
      open = true;
    }
    if (kind === "area" && path) {
      const base = within0(py);
      path += `L${px(x[x.length - 1] + 0.5).toFixed(1)} ${base}L${px(x[0] - 0.5).toFixed(1)} ${base}Z`;
      return `<path d="${path}" fill="${colour}" fill-opacity="0.22" stroke="${colour}" stroke-width="1"/>`;
    }
    return `<path d="${path}" ${style} stroke-linejoin="round"/>`;
  }
  let path = "";
  const most = kind === "ticks" ? Math.max(...y.filter(Number.isFinite).map(Math.abs)) : 0; // a neuron may give several spikes at once
  if (kind === "arrows") {
    for (let k = 0; k < from.length; k++) path += arrow(px(from[k][0]), py(from[k][1]), px(to[k][0]), py(to[k][1]));
    return `<path d="${path}" ${style}/>`;
  }
  for (let k = 0; k < x.length; k++) {
    if (!finite(k) || (kind !== "dots" && y[k] === 0)) continue;
    if (kind === "stems") path += `M${at(x[k], 0)}L${at(x[k], y[k])}`;
    if (kind === "ticks") path += `M${px(x[k]).toFixed(1)} ${top / 2 + 1}v${(-(top / 2 - 1) * y[k] / most).toFixed(1)}`;
    if (kind === "dots") path += `M${at(x[k], y[k])}h0`;
  }
  return `<path d="${path}" ${style} stroke-linecap="${kind === "dots" ? "round" : "butt"}"/>`;
}

const within0 = py => Math.max(-1e4, Math.min(1e4, py(0))).toFixed(1);

/** A short arrow of a fixed length in the direction in which the state moves. */
function arrow(ax, ay, bx, by) {
  const length = Math.hypot(bx - ax, by - ay);
  if (!(length > 0) || !Number.isFinite(length)) return "";
  const size = 4 + 8 * Math.min(1, length / 30), dx = (bx - ax) / length, dy = (by - ay) / length;
  const ex = ax + dx * size, ey = ay + dy * size;
  const wing = turn => `L${(ex - dx * 3.5 - turn * dy * 2.5).toFixed(1)} ${(ey - dy * 3.5 + turn * dx * 2.5).toFixed(1)}`;
  const end = `${ex.toFixed(1)} ${ey.toFixed(1)}`;
  return `M${ax.toFixed(1)} ${ay.toFixed(1)}L${end}${wing(1)}M${end}${wing(-1)}`;
}

/** Where a function of two numbers changes its sign, as short lines: marching squares. */
function zeroLines(values, xs, ys) {
  const x = [], y = [];
  const cross = (a, b, from, to) => from + (to - from) * a / (a - b);
  for (let i = 0; i + 1 < xs.length; i++)
    for (let j = 0; j + 1 < ys.length; j++) {
      const [a, b, c, d] = [values[i][j], values[i + 1][j], values[i + 1][j + 1], values[i][j + 1]], found = [];
      if (![a, b, c, d].every(Number.isFinite)) continue;
      if (a > 0 !== b > 0) found.push([cross(a, b, xs[i], xs[i + 1]), ys[j]]);
      if (b > 0 !== c > 0) found.push([xs[i + 1], cross(b, c, ys[j], ys[j + 1])]);
      if (d > 0 !== c > 0) found.push([cross(d, c, xs[i], xs[i + 1]), ys[j + 1]]);
      if (a > 0 !== d > 0) found.push([xs[i], cross(a, d, ys[j], ys[j + 1])]);
      if (found.length === 2) {
        x.push(found[0][0], found[1][0], NaN);
        y.push(found[0][1], found[1][1], NaN);
      }
    }
  return {x, y};
}
