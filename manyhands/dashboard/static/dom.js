// Making elements. Text becomes text nodes alone: what peers announce can be no markup here.

const SVG = "http://www.w3.org/2000/svg";

/** An element: h("a", {href: "#/"}, "text", child, …). `on…` are listeners, null is left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same, of a picture. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

const whole = new Intl.NumberFormat();
const tenth = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

export const unknown = "–";

export function count(value) {
  return value === null || value === undefined ? unknown : whole.format(value);
}

export function decimal(value, unit = "") {
  if (value === null || value === undefined) return unknown;
  return (Math.abs(value) >= 100 ? whole.format(Math.round(value)) : tenth.format(value)) + unit;
}

/** Credits of so many nanocredits; of few, the first digits that say anything. */
export function credits(ncr) {
  const value = ncr / 1e9;
  return value && Math.abs(value) < 0.1 ? value.toPrecision(2) : decimal(value);
}

export function milliseconds(value) {
  if (value === null || value === undefined) return unknown;
  return value >= 1000 ? decimal(value / 1000, " s") : decimal(value, " ms");
}

export function seconds(value) {
  if (value < 90) return `${Math.round(value)} s`;
  return value < 5400 ? `${Math.round(value / 60)} min` : `${decimal(value / 3600)} h`;
}

const LATEST_MS = Date.UTC(9999, 0, 1); // a signer's clock may say anything, and dates end

/** The clock's time here; the day and UTC on pointing at it. */
export function moment(ms) {
  const date = new Date(Math.min(ms, LATEST_MS));
  return h("time", { datetime: date.toISOString(), title: date.toUTCString() }, date.toLocaleTimeString());
}

/** A peer id, shortened in the middle of nowhere: its end is what differs. */
export function short(peer) {
  return `…${peer.slice(-8)}`;
}

export function peerLink(peer) {
  return h("a", { href: `#/peer/${encodeURIComponent(peer)}`, class: "mono peer", title: peer }, short(peer));
}
