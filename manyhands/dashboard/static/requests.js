// The last answers of this gateway: where each one's time went, hop by hop. Never what was said.

import { fetchJson } from "./api.js";
import { count, decimal, h, milliseconds, moment, peerLink, s } from "./dom.js";

export function requests(main) {
  let opened = null, asked = 0;
  main.append(h("h1", {}, "Requests"), h("p", { class: "why" }, "Times and routes of the last answers. What was asked and answered is kept nowhere."));
  const body = h("div", {});
  main.append(body);

  async function draw() {
    const mine = (asked += 1);
    let found;
    try {
      found = (await fetchJson("/api/v1/requests")).requests;
    } catch (error) {
      body.replaceChildren(h("p", {}, error.message));
      return;
    }
    if (mine !== asked) return;
    const held = document.activeElement?.id;
    body.replaceChildren(found.length ? table(found) : h("p", {}, "No request yet. ", h("a", { href: "#/chat" }, "Ask something"), "."));
    if (held) document.getElementById(held)?.focus();
  }

  function table(found) {
    const head = ["When", "Model", "Status", "Tokens", "First token", "Per token", "New chains", "Cost"];
    return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Requests, as a table" },
      h("table", {}, h("caption", { class: "hidden" }, "Last requests"),
        h("thead", {}, h("tr", {}, head.map((name, at) => h("th", { scope: "col", class: at > 2 ? "number" : null }, name)))),
        h("tbody", {}, found.flatMap(rows))));
  }

  function rows(one) {
    const isOpen = opened === one.id;
    const perToken = one.tokens > 1 ? (one.last_token_ms - one.first_token_ms) / (one.tokens - 1) : null;
    const bad = !["stop", "length", "running", "cancelled", "tool_calls"].includes(one.status);
    const toggle = h("button", { type: "button", class: "quiet", id: `open-${one.id}`, "aria-expanded": String(isOpen),
      onclick: () => { opened = isOpen ? null : one.id; draw(); } }, isOpen ? "▾ " : "▸ ", moment(one.began_ms));
    const line = h("tr", {}, h("td", {}, toggle), h("td", {}, one.model),
      h("td", {}, h("span", { class: `tag ${bad ? "is-bad" : ""}` }, one.status)),
      h("td", { class: "number" }, `${count(one.prompt_tokens)} + ${count(one.tokens)}`),
      h("td", { class: "number" }, milliseconds(one.first_token_ms)), h("td", { class: "number" }, milliseconds(perToken)),
      h("td", { class: "number" }, count(one.failovers)), h("td", { class: "number" }, one.cost_ncr ? `${count(one.cost_ncr)} ncr` : "free"));
    return isOpen ? [line, h("tr", {}, h("td", { colspan: "8" }, waterfall(one)))] : [line];
  }

  return { update: draw, close() { asked = -1; } };
}

/** What became of the chain while it answered: who left it, who came, and what that cost. */
function changes(one) {
  const told = one.routes.slice(1).map(({ at_ms, hops }, at) => {
    const before = one.routes[at].hops.map((hop) => hop.peer), after = hops.map((hop) => hop.peer);
    const gone = before.filter((peer) => !after.includes(peer)), come = after.filter((peer) => !before.includes(peer));
    const pause = one.pauses_ms[at];
    return h("li", {}, h("span", { class: "is-warn", "aria-hidden": "true" }, "▲"), h("span", {}, `After ${milliseconds(at_ms)}: `,
      gone.length ? [gone.map((peer) => [peerLink(peer), " "]), "left the chain, "] : "the chain stood again, ",
      come.length ? [come.map((peer) => [peerLink(peer), " "]), "took over"] : "with the same peers",
      pause ? `; no token for ${milliseconds(pause)}.` : "."));
  });
  return told.length ? h("ul", { class: "alerts" }, told) : "";
}

function waterfall(one) {
  const end = one.last_token_ms ?? one.first_token_ms ?? one.routed_ms ?? 1;
  const steps = [["Finding a chain", "part-route", 0, one.routed_ms], ["Prompt", "part-prefill", one.routed_ms, one.first_token_ms], ["Answer", "part-decode", one.first_token_ms, one.last_token_ms]];
  const bars = steps.filter(([, , from, to]) => from !== null && to !== null).flatMap(([name, kind, from, to]) => [
    h("span", {}, `${name}, ${milliseconds(to - from)}`),
    h("span", { class: "track" }, s("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", width: "100%", height: "100%", "aria-hidden": "true" },
      s("rect", { class: kind, x: (from / end) * 1000, y: 0, width: Math.max(3, ((to - from) / end) * 1000), height: 10 })))]);
  const most = Math.max(...one.hops.map((hop) => hop.run_ms ?? 0), 0.001);
  const hops = one.hops.flatMap((hop) => [
    h("span", {}, peerLink(hop.peer), ` ${hop.span[0]}–${hop.span[1] - 1}, ${decimal(hop.run_ms, " ms")}`),
    h("span", { class: "track" }, s("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", width: "100%", height: "100%", "aria-hidden": "true" },
      s("rect", { class: "part-decode", width: ((hop.run_ms ?? 0) / most) * 1000, height: 10 })))]);
  return h("div", { class: "detail" }, h("p", { class: "why short" }, `${one.endpoint}, ${one.id}`), h("div", { class: "waterfall" }, bars),
    h("p", { class: "why" }, one.cached_tokens ? `${count(one.cached_tokens)} of ${count(one.prompt_tokens)} prompt tokens were still kept by the peers. ` : "",
      one.waited_for ? `It waited at first: ${one.waited_for}.` : ""),
    h("p", { class: "why" }, "The chain, and what a step took on each hop:"), h("div", { class: "waterfall" }, hops),
    changes(one),
    one.verification ? h("p", { class: "why" }, `Run again afterwards: ${one.verification.why}.`) : "",
    one.receipts.length ? h("p", { class: "why" }, "Receipts: ", h("span", { class: "mono short" }, one.receipts.map((id) => id.slice(0, 12)).join(", "))) : "");
}
