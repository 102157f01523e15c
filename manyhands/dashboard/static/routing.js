// Which chain an answer would get now and why that one, what answers cost, and what was refused.

import { fetchJson } from "./api.js";
import { named } from "./chat.js";
import { count, credits, decimal, h, milliseconds, peerLink, s } from "./dom.js";

const PARTS = [["compute", "computing"], ["link", "links between peers"], ["carriage", "bytes on links"], ["visit", "visits"],
  ["queue", "queues"], ["others", "others' answers"], ["prompt", "prompt, spread"], ["room", "scarce room"], ["price", "price"], ["risk", "risk"]];
const FINE = ["stop", "length", "tool_calls", "cancelled"];
const GOALS = [["balanced", "the next token soon"], ["throughput", "many answers in all"], ["cheap", "the lowest price"], ["fast", "speed at any price"]];
const MOST_OTHERS = 40, SEEN_MS = 0.05; // what is less is told as 0

export function routing(main) {
  let isOpen = true, asked = 0, told = "";
  const model = h("select", { id: "route-model", onchange: explain });
  const tokens = h("input", { id: "route-tokens", type: "number", min: "1", value: "1024" });
  const prefer = h("select", { id: "route-prefer", onchange: explain }, GOALS.map(([value, words]) => h("option", { value }, words)));
  const regions = h("input", { id: "route-regions", placeholder: "any" });
  const price = h("input", { id: "route-price", type: "number", min: "0", placeholder: "any" });
  const found = h("div", { role: "region", "aria-label": "Routes" }, h("p", {}, "Asking…"));
  const traffic = h("div", {});
  const form = h("form", { class: "options", onsubmit: (event) => { event.preventDefault(); explain(); } },
    h("label", {}, "Model ", model), h("label", {}, "Tokens ", tokens), h("label", {}, "Prefer ", prefer),
    h("label", {}, "Regions ", regions), h("label", {}, "Highest price ", price), h("button", { id: "route-ask", class: "main" }, "Explain"));
  main.append(h("h1", {}, "Routing and cost"), h("p", { class: "why" }, "The chains that an answer would choose among now. Nothing is opened or reserved. A price is in nanocredits for a million tokens through one block."),
    h("section", { class: "card" }, form, found), traffic);

  async function explain() {
    if (!model.value) return;
    const mine = (asked += 1);
    const wish = { prefer: prefer.value, ...(regions.value.trim() ? { regions: regions.value.split(",").map((each) => each.trim()).filter(Boolean) } : {}),
      ...(price.value === "" ? {} : { max_price: Number(price.value) }) };
    try {
      const view = await fetchJson("/api/v1/route", { method: "POST", headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: model.value, tokens: Number(tokens.value) || 1024, manyhands: wish }) });
      if (isOpen && mine === asked) found.replaceChildren(...shown(view));
    } catch (error) {
      if (isOpen && mine === asked) found.replaceChildren(h("p", { class: "is-bad" }, `✖ ${error.message}`));
    }
  }

  named().then((names) => {
    model.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    if (isOpen) explain();
  }).catch((error) => found.replaceChildren(h("p", { class: "is-bad" }, error.message)));

  return {
    update(state) {
      const { decisions: made, endings, cost_ncr, tokens } = state.traffic || {};
      const news = JSON.stringify([made, endings, cost_ncr, tokens]);
      if (news === told) return; // whoever reads or scrolls there is left in peace
      told = news;
      traffic.replaceChildren(...(state.traffic ? [decisions(made), costs(state.traffic)] : []));
    },
    close() { isOpen = false; },
  };
}

function shown(view) {
  const isTime = view.prefer !== "throughput", unit = isTime ? "per token" : "of nodes' time per token";
  const [best] = view.routes;
  const most = Math.max(...view.routes.map((each) => each.cost_ms), 0.001);
  const said = best
    ? `It would take a chain of ${best.hops.length} ${best.hops.length === 1 ? "peer" : "peers"}: ${milliseconds(best.cost_ms)} ${unit}${isTime && best.cost_ms ? `, ${decimal(1000 / best.cost_ms)} tokens per second` : ""}.`
    : `There is no chain now${view.missing.length ? `: nobody who may serves blocks ${view.missing.map(([a, b]) => (b - a === 1 ? a : `${a}–${b - 1}`)).join(", ")}` : ""}${view.constraint ? ` (${view.constraint})` : ""}.`;
  const told = Object.keys(best?.hops[0]?.parts_ms ?? {}).filter((name) => !PARTS.some(([known]) => known === name));
  const used = [...PARTS, ...told.map((name) => [name, name])].filter(([name]) => view.routes.some((each) => each.hops.some((hop) => hop.parts_ms[name] >= SEEN_MS)));
  return [
    h("p", { class: `sentence ${best ? "well" : "bad"}`, role: "status" }, h("span", { class: "sign", "aria-hidden": "true" }, best ? "●" : "✖"), h("span", {}, said)),
    ...view.routes.map((each, rank) => route(each, rank, most, best, used, unit)),
    used.length ? h("p", { class: "legend" }, used.map(([name, words]) => h("span", {}, s("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, s("rect", { class: `cost-${name}`, width: 10, height: 10, rx: 2 })), words))) : "",
    others(view.others),
  ];
}

function route(each, rank, most, best, used, unit) {
  const times = each.cost_ms / best.cost_ms;
  const dearer = times < 3 ? `${Math.round(100 * (times - 1))} % dearer` : `${decimal(times)} times as dear`;
  const why = rank === 0 ? "the cheapest" : `${dearer}: ${each.near_best ? "near enough to be taken too, which spreads the load" : "not taken while the first can be had"}`;
  let x = 0;
  const parts = each.hops.flatMap((hop) => used.map(([name, words]) => {
    const width = hop.parts_ms[name], at = x;
    x += width;
    return width > 0 ? s("rect", { class: `cost-${name}`, x: at, width, height: 1 }, s("title", {}, `${hop.peer.slice(-8)}: ${words} ${milliseconds(width)}`)) : "";
  }));
  const spared = each.hops.some((hop) => hop.spares.length) ? ["Spares"] : [];
  return h("section", {}, h("h2", {}, `Route ${rank + 1}: ${milliseconds(each.cost_ms)} ${unit}`, " ", h("span", { class: "why" }, why)),
    h("div", { class: "track" }, s("svg", { viewBox: `0 0 ${most} 1`, preserveAspectRatio: "none", role: "img", "aria-label": "What its parts cost; the table says it in numbers" }, parts)),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Route ${rank + 1}, hop by hop` },
      h("table", {}, h("caption", { class: "hidden" }, `Route ${rank + 1}`),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Peer"), ["Blocks", "Sessions", "All", ...used.map(([, words]) => words[0].toUpperCase() + words.slice(1)), ...spared].map((name) => h("th", { scope: "col", class: "number" }, name)))),
        h("tbody", {}, each.hops.map((hop) => h("tr", {}, h("td", {}, peerLink(hop.peer)), h("td", { class: "number" }, `${hop.span[0]}–${hop.span[1] - 1}`),
          h("td", { class: "number" }, count(hop.sessions)), h("td", { class: "number" }, milliseconds(hop.ms)), used.map(([name]) => h("td", { class: "number" }, milliseconds(hop.parts_ms[name]))),
          spared.length ? h("td", { class: "number" }, hop.spares.length ? hop.spares.map((peer) => [peerLink(peer), " "]) : "none") : null))))));
}

function others(found) {
  if (!found.length) return h("p", { class: "why" }, "Every host of the model is in one of these.");
  return h("section", {}, h("h2", {}, "In none of these, and why"),
    h("ul", { class: "alerts" }, found.slice(0, MOST_OTHERS).map((other) => h("li", {}, h("span", { class: other.constraint ? "is-warn" : "why", "aria-hidden": "true" }, other.constraint ? "▲" : "○"),
      h("span", {}, peerLink(other.peer), `, blocks ${other.span[0]}–${other.span[1] - 1}: ${other.why}`)))),
    found.length > MOST_OTHERS ? h("p", { class: "why" }, `and ${count(found.length - MOST_OTHERS)} more`) : "");
}

function decisions(made) {
  if (!made.length) return "";
  const all = made.reduce((sum, each) => sum + each.n, 0);
  return h("section", { class: "card" }, h("h2", {}, "Who answered ", h("code", {}, "manyhands/auto"), " in the last hour"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Who answered manyhands/auto" },
      h("table", {}, h("caption", { class: "hidden" }, "Answers by who gave them, and the rule that said so"),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Who"), h("th", { scope: "col" }, "By which rule"), ["Answers", "Share"].map((name) => h("th", { scope: "col", class: "number" }, name)))),
        h("tbody", {}, made.map((each) => h("tr", {}, h("td", {}, each.target), h("td", {}, h("code", {}, each.reason)), h("td", { class: "number" }, count(each.n)), h("td", { class: "number" }, `${Math.round((100 * each.n) / all)} %`)))))),
    h("p", { class: "why" }, h("code", {}, "…-fallback"), " means that whom the rule chose could not begin to answer."));
}

function costs(traffic) {
  const ended = Object.entries(traffic.endings).sort(([, a], [, b]) => b - a);
  const n = ended.filter(([how]) => FINE.includes(how)).reduce((sum, [, many]) => sum + many, 0);
  return h("section", { class: "card" }, h("h2", {}, "The last hour"),
    h("dl", { class: "tiles" }, [["Answers", count(n), ""], ["Tokens", count(traffic.tokens), ""], ...(traffic.cost_ncr
      ? [["Paid", credits(traffic.cost_ncr), "credits"], ["For 1,000 answers", n ? credits((1000 * traffic.cost_ncr) / n) : "–", "credits, at that rate"]]
      : [["Paid", "nothing", ""]])].map(([name, value, small]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, " ", h("small", {}, small))))),
    ended.length ? h("ul", { class: "alerts" }, ended.map(([how, many]) => h("li", {}, h("span", { class: FINE.includes(how) ? "is-well" : "is-bad", "aria-hidden": "true" }, FINE.includes(how) ? "●" : "✖"),
      h("span", {}, `${count(many)} ended with `, h("code", {}, how))))) : h("p", {}, "No answer yet."),
    h("p", { class: "why" }, h("code", {}, "manyhands cost"), " compares with prices of APIs and machines of your own."));
}
