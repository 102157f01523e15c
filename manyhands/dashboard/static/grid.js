// Blocks from left to right, a peer in each row: who serves what, and where it is thin.

import { h, peerLink, s } from "./dom.js";
import { TONES, blocks, toneOf } from "./words.js";

const LEGEND = [["hosts-0", "nobody"], ["hosts-1", "one host"], ["hosts-2", "two"], ["hosts-3", "three or more"]];

/** peers: those of this model. most: how many rows before the rest is only counted. */
export function coverageGrid(model, peers, most = Infinity) {
  const serving = peers.filter((peer) => peer.start !== null)
    .sort((a, b) => a.start - b.start || a.stop - b.stop || (a.peer < b.peer ? -1 : 1));
  const rows = serving.slice(0, most).flatMap((peer) => row(peer, model.n_blocks));
  const hidden = serving.length - Math.min(serving.length, most);
  return h("div", {},
    h("div", { class: "grid" },
      h("span", { class: "why" }, "Hosts"), strip(model), h("span", { class: "state" }),
      ...rows,
      h("span"), h("span", { class: "axis" }, h("span", {}, "block 0"), h("span", {}, `block ${model.n_blocks - 1}`)), h("span", { class: "state" })),
    hidden > 0 ? h("p", { class: "why" }, `and ${hidden} more peers: `, h("a", { href: `#/model/${model.manifest}` }, "all of them")) : "",
    h("p", { class: "legend" }, ...LEGEND.map(([name, words]) =>
      h("span", {}, s("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, s("rect", { class: name, width: 10, height: 10, rx: 2 })), words))));
}

function strip(model) {
  const parts = model.coverage.map(([start, stop, hosts]) =>
    s("rect", { class: `hosts-${Math.min(hosts, 3)}`, x: start, y: 0, width: stop - start, height: 1 },
      s("title", {}, `${blocks(start, stop)}: ${hosts} ${hosts === 1 ? "host" : "hosts"}`)));
  const words = model.coverage.map(([start, stop, hosts]) => `${blocks(start, stop)}: ${hosts}`).join("; ");
  return track(model.n_blocks, `Hosts of each block. ${words}`, parts);
}

function row(peer, nBlocks) {
  const tone = toneOf(peer.state);
  const where = blocks(peer.start, peer.stop);
  const bar = s("rect", { class: `span ${tone}`, x: peer.start, y: 0, width: peer.stop - peer.start, height: 1 },
    s("title", {}, `${where}, ${peer.state}`));
  return [
    peerLink(peer.peer), track(nBlocks, `${where}, ${peer.state}`, [bar]),
    h("span", { class: "state" }, h("span", { class: `is-${tone}`, "aria-hidden": "true" }, TONES[tone]), ` ${peer.state}`),
  ];
}

function track(nBlocks, meaning, parts) {
  return h("span", { class: "track" },
    s("svg", { viewBox: `0 0 ${nBlocks} 1`, preserveAspectRatio: "none", role: "img", "aria-label": meaning }, ...parts));
}
