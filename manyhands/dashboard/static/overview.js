// How the swarm is: one sentence, a few numbers, what is not well, the last hour.

import { lineChart } from "./chart.js";
import { count, decimal, h, milliseconds, peerLink } from "./dom.js";
import { coverageGrid } from "./grid.js";
import { TONES, toneOf, unpacked } from "./words.js";

export function overview(main) {
  main.append(h("h1", { class: "hidden" }, "Overview"), h("p", {}, "Looking at the swarm…"));
  return { update: (state) => draw(main, state) };
}

function draw(main, state) {
  const { traffic } = state;
  const peers = unpacked(state.peers);
  const online = peers.filter((peer) => toneOf(peer.state) !== "bad").length;
  const hosts = Math.min(...state.models.map((model) => model.least_hosts));
  main.replaceChildren(
    h("h1", { class: "hidden" }, "Overview"),
    h("p", { class: `sentence ${state.tone}` },
      h("span", { class: "sign", "aria-hidden": "true" }, TONES[state.tone]), state.sentence),
    h("dl", { class: "tiles" },
      tile("Peers online", count(online), peers.length > online ? `of ${peers.length}` : ""),
      tile("Hosts of each block", state.models.length ? count(hosts) : "–", "at least"),
      traffic ? trafficTiles(traffic) : tile("Sessions now", count(peers.reduce((sum, peer) => sum + peer.sessions, 0)), "as peers announce them"),
    ),
    h("div", { class: "two" }, alertsCard(state.alerts), traffic ? trafficCard(traffic) : ""),
    ...state.models.map((model, at) =>
      h("section", { class: "card", "aria-labelledby": `model-${at}` },
        h("h2", { id: `model-${at}` }, h("a", { href: `#/model/${model.manifest}` }, model.model)),
        coverageGrid(model, peers.filter((peer) => peer.model === at), 12))),
    nodesCard(state.nodes, new Map(peers.map((peer) => [peer.peer, peer.state]))),
    state.models.length || !state.number ? "" : nobody(),
  );
}

function tile(name, value, small = "") {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value, " ", h("small", {}, small)));
}

function trafficTiles(traffic) {
  return [
    tile("Answers running", count(traffic.running)),
    tile("Tokens per second", decimal(traffic.tokens_per_s), "through here"),
    tile("First token, median", milliseconds(traffic.ttft_p50_ms), traffic.ttft_p95_ms === null ? "" : `p95 ${milliseconds(traffic.ttft_p95_ms)}`),
    tile("Requests, last hour", count(traffic.requests), traffic.failed ? `${count(traffic.failed)} failed` : ""),
  ];
}

/** The nodes that run on this machine: each has a page of its own, where it can be paused. */
function nodesCard(nodes, states) {
  if (!nodes.length) return "";
  return h("section", { class: "card" }, h("h2", {}, "Nodes of this machine"),
    h("ul", { class: "alerts" }, nodes.map((node) => {
      const state = node.is_up ? states.get(node.peer) ?? "not announced" : "not up", tone = node.is_up ? toneOf(state) : "bad";
      return h("li", {}, h("span", { class: `is-${tone}`, "aria-hidden": "true" }, TONES[tone]),
        h("span", {}, node.page && node.is_up ? h("a", { href: node.page }, node.name) : node.name, " ", peerLink(node.peer), state === "serving" ? "" : ` ${state}`));
    })),
    h("p", { class: "why" }, "Each has a page of its own: how it is, what it earned, and a button that pauses it."));
}

function alertsCard(alerts) {
  const items = alerts.slice(0, 8).map(({ severity, what, about }) => {
    const [tone, sign] = { page: ["is-bad", TONES.bad], warn: ["is-warn", TONES.warn] }[severity] ?? ["why", "○"];
    const who = about.startsWith("12D3Koo") ? [peerLink(about), ": "] : [];
    return h("li", {}, h("span", { class: tone, "aria-hidden": "true" }, sign),
      h("span", {}, h("span", { class: "hidden" }, `${severity}: `), ...who, what));
  });
  return h("section", { class: "card" }, h("h2", {}, "Needs attention"),
    items.length ? h("ul", { class: "alerts" }, items) : h("p", {}, "Nothing."),
    alerts.length > items.length ? h("p", { class: "why" }, `and ${alerts.length - items.length} more, under Peers`) : "");
}

function trafficCard(traffic) {
  const most = Math.max(...traffic.tokens_per_s_by_step);
  return h("section", { class: "card" }, h("h2", {}, "Tokens per second, last hour"),
    lineChart(traffic.tokens_per_s_by_step, `Tokens per second over the last hour: at most ${decimal(most)}, now ${decimal(traffic.tokens_per_s)}.`),
    h("p", { class: "chart-axis" }, h("span", {}, "an hour ago"), h("span", {}, `most: ${decimal(most)}`), h("span", {}, "now")));
}

function nobody() {
  return h("section", { class: "card" }, h("h2", {}, "Nobody serves a model yet"),
    h("p", {}, "Lend this machine: ", h("code", {}, "manyhands serve MODEL"), ". ", h("a", { href: "#/connect" }, "Connect"), " tells more."));
}
