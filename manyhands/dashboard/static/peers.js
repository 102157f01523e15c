// Everybody in the table: sorted and searched here, in full for one of them.

import { fetchJson } from "./api.js";
import { count, decimal, h, milliseconds, peerLink, seconds } from "./dom.js";
import { TONES, toneOf, unpacked } from "./words.js";

const COLUMNS = [
  ["peer", "Peer", false], ["state", "State", false], ["start", "Blocks", true], ["blocks_per_s", "Blocks/s", true],
  ["kv_free_positions", "Room, tokens", true], ["sessions", "Sessions", true], ["path", "Path", false],
  ["rtt_ms", "Round trip", true], ["age_s", "Heard", true], ["region", "Region", false],
];
const AT_ONCE = 100;

export function peers(main) {
  let by = "state", down = false, wanted = "", most = AT_ONCE, last = null;
  const search = h("input", { id: "peer-search", type: "search", "aria-label": "Find peers", placeholder: "Find by id, state, region…",
    oninput: (event) => { wanted = event.target.value.toLowerCase(); most = AT_ONCE; draw(); } });
  const body = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Peers, as a table" });
  const told = h("p", { class: "why" });
  main.append(h("h1", {}, "Peers"), h("div", { class: "options" }, search,
    h("button", { type: "button", id: "peers-csv", onclick: () => save(last) }, "Save as CSV")), told, body);

  function draw() {
    if (!last) return;
    const all = unpacked(last.peers).map((peer) => ({ ...peer, model_name: last.models[peer.model]?.model ?? "" }));
    const found = all.filter((peer) => !wanted || Object.values(peer).join(" ").toLowerCase().includes(wanted));
    found.sort((a, b) => order(a, b, by) * (down ? -1 : 1));
    told.textContent = `${count(found.length)} of ${count(all.length)} peers`;
    const table = h("table", {}, h("caption", { class: "hidden" }, "Peers of the swarm"), head(), h("tbody", {}, found.slice(0, most).map(row)));
    const more = found.length > most ? h("button", { type: "button", id: "peers-more", onclick: () => { most += AT_ONCE; draw(); } }, `${AT_ONCE} more`) : "";
    const held = document.activeElement?.id;
    body.replaceChildren(table, more);
    if (held && document.activeElement?.id !== held) document.getElementById(held)?.focus();
  }

  function head() {
    return h("thead", {}, h("tr", {}, COLUMNS.map(([name, title, isNumber]) => {
      const sorted = name === by ? (down ? "descending" : "ascending") : null;
      return h("th", { scope: "col", class: isNumber ? "number" : null, "aria-sort": sorted },
        h("button", { type: "button", id: `sort-${name}`, onclick: () => { down = name === by && !down; by = name; draw(); } },
          title, sorted ? (down ? " ▼" : " ▲") : ""));
    })));
  }

  return { update(state) { last = state; draw(); } };
}

function order(a, b, name) {
  if (name === "state") return rank(a.state) - rank(b.state) || (a.peer < b.peer ? -1 : 1);
  const [x, y] = [a[name], b[name]];
  if (x === null || x === "") return 1;
  if (y === null || y === "") return -1;
  return typeof x === "number" ? x - y : x < y ? -1 : x > y ? 1 : 0;
}

const rank = (state) => ({ bad: 0, warn: 1, well: 2 })[toneOf(state)];

function row(peer) {
  const tone = toneOf(peer.state);
  return h("tr", {},
    h("td", {}, peerLink(peer.peer), h("div", { class: "why" }, peer.model_name)),
    h("td", {}, h("span", { class: `tag is-${tone}` }, `${TONES[tone]} ${peer.state}`), peer.why ? h("div", { class: "why" }, peer.why.replace(`${peer.state}: `, "")) : ""),
    h("td", { class: "number" }, peer.start === null ? "–" : `${peer.start}–${peer.stop - 1}`),
    h("td", { class: "number" }, decimal(peer.blocks_per_s)), h("td", { class: "number" }, count(peer.kv_free_positions)),
    h("td", { class: "number" }, count(peer.sessions)), h("td", {}, peer.path),
    h("td", { class: "number" }, milliseconds(peer.rtt_ms)), h("td", { class: "number" }, seconds(peer.age_s)),
    h("td", {}, peer.region || "–"));
}

/** Values a spreadsheet might take for formulas are told to be text. */
function save(state) {
  if (!state) return;
  const quote = (value) => `"${String(value ?? "").replace(/^[=+\-@\t]/, "'$&").replaceAll('"', '""')}"`;
  const lines = [state.peers.columns, ...state.peers.rows].map((line) => line.map(quote).join(","));
  const link = h("a", { href: URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" })), download: "peers.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const SAFE = /^\/[\w.:/-]+$/; // what strangers announce is no command

/** Where a new node may join: an address of a peer that answers, drawn so that not all join by one; a word in its place where there is none. */
export async function joinAddress(peers) {
  const direct = peers.filter(({ path, state }) => path === "direct" && state !== "unreachable");
  const known = direct[Math.floor(Math.random() * direct.length)];
  const told = known && await fetchJson(`/api/v1/peers/${encodeURIComponent(known.peer)}`).catch(() => null);
  return told?.addresses.find((each) => SAFE.test(each)) ?? "ADDRESS";
}

export function peer(main, id) {
  let asked = 0;
  main.append(h("h1", { class: "short" }, "Peer ", h("span", { class: "mono" }, id)), h("p", {}, "…"));
  return {
    async update(state) {
      const mine = (asked += 1);
      try {
        const found = await fetchJson(`/api/v1/peers/${encodeURIComponent(id)}`);
        if (mine === asked) show(main, found, state);
      } catch (error) {
        if (mine === asked) main.replaceChildren(h("h1", {}, "Peer"), h("p", { class: "mono short" }, id), h("p", {}, `${error.message}.`));
      }
    },
    close() { asked = -1; },
  };
}

function show(main, found) {
  const tone = toneOf(found.state);
  const skipped = new Set(["peer", "state", "why"]);
  const facts = Object.entries(found).filter(([name]) => !skipped.has(name)).flatMap(([name, value]) =>
    [h("dt", {}, name.replaceAll("_", " ")), h("dd", { class: "mono" }, tell(value))]);
  main.replaceChildren(
    h("h1", { class: "short" }, "Peer ", h("span", { class: "mono" }, found.peer)),
    h("p", { class: `sentence ${tone}` }, h("span", { class: "sign", "aria-hidden": "true" }, TONES[tone]), found.state),
    h("section", { class: "card" }, h("h2", {}, "Why"), found.why.length ? h("ul", {}, found.why.map((text) => h("li", {}, text))) : h("p", {}, "It is well.")),
    h("section", { class: "card" }, h("h2", {}, "What it says of itself, and what was seen"), h("dl", { class: "facts" }, facts)));
}

function tell(value) {
  if (value === null || value === "") return "–";
  if (Array.isArray(value)) return value.length ? value.map((each) => (Array.isArray(each) ? each.join(":") : each)).join(", ") : "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
