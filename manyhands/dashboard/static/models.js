// The models of the swarm, and one of them in full: coverage, flow, what it needs.

import { count, decimal, h } from "./dom.js";
import { coverageGrid } from "./grid.js";
import { joinAddress } from "./peers.js";
import { TONES, blocks, spelled, unpacked } from "./words.js";

const PLAIN = /^[A-Za-z0-9][\w.-]*(\/[\w.-]+)?$/;

export function models(main) {
  return { update: (state) => main.replaceChildren(h("h1", {}, "Models"), ...cards(state)) };
}

function cards(state) {
  const peers = unpacked(state.peers);
  if (!state.models.length) return [h("p", {}, "Nobody serves a model yet.")];
  return state.models.map((found, at) => h("section", { class: "card" },
    h("h2", {}, h("a", { href: `#/model/${found.manifest}` }, found.model), " ", able(found)),
    coverageGrid(found, peers.filter((peer) => peer.model === at), 24)));
}

function able(found) {
  const tone = found.refused || !found.complete ? "bad" : found.least_hosts > 1 ? "well" : "warn";
  const words = found.refused ? "refused" : found.complete ? "can answer" : "cannot answer";
  return h("span", { class: `tag is-${tone}` }, `${TONES[tone]} ${words}`);
}

export function model(main, manifest) {
  let address = "ADDRESS", isAsking = false;
  return {
    update(state) {
      const at = state.models.findIndex((each) => each.manifest === manifest);
      if (at < 0) {
        main.replaceChildren(h("h1", {}, "Model"), h("p", {}, "Nobody serves this model now."));
        return;
      }
      const found = state.models[at];
      const peers = unpacked(state.peers).filter((peer) => peer.model === at);
      if (address === "ADDRESS" && !isAsking) {
        isAsking = true;
        joinAddress(peers).then((told) => { address = told; isAsking = false; });
      }
      main.replaceChildren(
        h("h1", {}, found.model, " ", able(found)),
        ...found.warnings.map((text) => h("p", { class: "is-warn" }, `▲ ${text}`)),
        h("section", { class: "card" }, h("h2", {}, "Who serves what"), coverageGrid(found, peers)),
        h("section", { class: "card" }, h("h2", {}, "Facts"), facts(found)),
        h("section", { class: "card" }, h("h2", {}, "Without one of them"), without(found, peers)),
        h("section", { class: "card" }, h("h2", {}, "Help where it is thinnest"), help(found, address)),
      );
    },
  };
}

function facts(found) {
  const pairs = [
    ["Blocks", count(found.n_blocks)], ["Peers", count(found.peers)],
    ["Sessions now", count(found.sessions)],
    ["The swarm could make", decimal(found.tokens_per_s, " tokens per second")],
    ["Held up at", found.limited_by.length ? `blocks ${spelled(found.limited_by)}` : "–"],
    ["Profile", found.profile], ["Manifest", h("span", { class: "mono" }, found.manifest)],
  ];
  return h("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** What would be missing if a peer left: read off the spans, for every peer. */
function without(found, peers) {
  const takes = peers.filter((peer) => peer.start !== null && !["unreachable", "draining", "moving", "paused"].includes(peer.state));
  const hosts = new Array(found.n_blocks).fill(0);
  for (const peer of takes) for (let b = peer.start; b < peer.stop; b += 1) hosts[b] += 1;
  const alone = takes.map((peer) => [peer, only(hosts, peer)]).filter(([, runs]) => runs.length);
  if (!alone.length) return h("p", {}, "Any one peer can leave, and every block still has a host.");
  return h("ul", {}, alone.slice(0, 20).map(([peer, runs]) =>
    h("li", {}, "Without ", h("a", { href: `#/peer/${encodeURIComponent(peer.peer)}`, class: "mono" }, `…${peer.peer.slice(-8)}`), ` nobody serves ${runs.map(([a, b]) => blocks(a, b)).join(", ")}.`)));
}

function only(hosts, peer) {
  const runs = [];
  for (let b = peer.start; b < peer.stop; b += 1) {
    if (hosts[b] !== 1) continue;
    const last = runs[runs.length - 1];
    if (last && last[1] === b) last[1] = b + 1;
    else runs.push([b, b + 1]);
  }
  return runs;
}

function help(found, address) {
  const [start, stop] = found.weakest[0] ?? [0, found.n_blocks];
  const name = PLAIN.test(found.model) ? found.model : "MODEL"; // what strangers announce is no command
  const command = `manyhands serve ${name} --span ${start}:${stop} --join ${address}`;
  return [h("p", {}, `${blocks(start, stop)} ${stop - start === 1 ? "has" : "have"} ${count(found.least_hosts)} ${found.least_hosts === 1 ? "host" : "hosts"}. Whoever has room can run:`), h("pre", { tabindex: "0" }, command),
    h("p", { class: "why" }, address === "ADDRESS" ? "ADDRESS is that of any peer, as its page shows it. " : "", "Without --span the node chooses by itself.")];
}
