// What this home earned and owes, by its own books.

import { ask, fetchJson } from "./api.js";
import { count, credits, h, moment, peerLink, s } from "./dom.js";

export function ledger(main) {
  let asked = 0, lastMs = 0;
  main.append(h("h1", {}, "Ledger"), h("p", { class: "why" },
    "Both sides sign for all that was served; each keeps its own log. ", h("code", {}, "manyhands ledger verify"), " derives every line again. Amounts are nanocredits (ncr)."));
  const body = h("div", {});
  const audit = h("section", { class: "card" });
  main.append(audit, body);
  offer();

  function offer(...found) {
    audit.replaceChildren(h("h2", {}, "Audit"), ...found, h("button", { type: "button", id: "verify", onclick: verify }, found.length ? "Verify again" : "Verify everything"),
      h("p", { class: "why" }, "Derives every signature, amount, leaf, checkpoint and proof again."));
  }

  async function verify() {
    audit.replaceChildren(h("h2", {}, "Audit"), h("p", { role: "status" }, "Deriving every line again…"));
    try {
      const { ledgers } = await fetchJson("/api/v1/ledger/verify");
      offer(h("ul", { class: "alerts", role: "status" }, ledgers.length ? ledgers.map(report) : h("li", {}, "There is no ledger yet.")));
    } catch (error) {
      offer(h("p", { class: "is-bad", role: "status" }, error.message));
    }
    document.getElementById("verify")?.focus();
  }

  async function draw() {
    if (Date.now() - lastMs < 5000 || body.contains(document.activeElement)) return; // nothing moves under a finger
    lastMs = Date.now();
    const mine = (asked += 1);
    try {
      const { books } = await fetchJson("/api/v1/ledger");
      if (mine === asked) body.replaceChildren(...(books.length ? books.map(card) : [h("p", {}, "This home has no ledger yet: the first answer makes one.")]));
    } catch (error) {
      if (mine === asked) body.replaceChildren(h("p", {}, error.message));
    }
  }
  return { update: draw, close() { asked = -1; } };
}

const titleOf = ({ role }) => ({ node: "As a provider", client: "As a client" })[role] ?? role;

function report(found) {
  const looked = `${count(found.entries)} entries, ${count(found.checkpoints)} checkpoints, ${count(found.open_tabs)} open tabs`;
  return h("li", {}, h("span", { class: found.ok ? "is-well" : "is-bad", "aria-hidden": "true" }, found.ok ? "●" : "✖"),
    h("span", {}, `${titleOf(found)}: `, found.ok ? `all of it holds. ${looked}.` : `${count(found.failures.length)} things do not hold. ${looked}.`,
      found.failures.slice(0, 20).map((failure) => h("span", { class: "fix" }, `${failure.entry === null ? "" : `entry ${failure.entry}, `}${failure.part}: ${failure.reason}`))));
}

const isFree = (tab) => !tab.amount_ncr && Object.values(tab.rates).every((rate) => !rate);

function card(book) {
  const title = titleOf(book);
  const free = !book.earned_ncr && !book.spent_ncr && book.tabs.every(isFree); // then words of money say nothing
  return h("section", { class: "card" }, h("h2", {}, title),
    free && book.entries ? h("p", {}, book.role === "node" ? "All of it was given for free: nobody owes anything." : "All of it was had for free: nothing is owed.") : null,
    h("dl", { class: "tiles" }, [...(free ? [["Peers", book.balances.length]] : [["Earned", book.earned_ncr], ["Spent", book.spent_ncr], ["Net", book.net_ncr]]), ["Receipts", book.entries]]
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, count(value))))),
    days(title, book.days),
    (book.sections ?? []).map((part) => section(title, part)),
    table(`${title}, by peer`, "By peer", ["Peer", "Tabs", ...(free ? [] : ["Earned", "Spent", "Net"])],
      book.balances.map((row) => [peerLink(row.peer), ...[row.tabs, ...(free ? [] : [row.earned_ncr, row.spent_ncr, row.net_ncr])].map(count)])),
    table(`${title}, latest tabs`, `The latest ${count(book.tabs.length)} of ${count(book.entries)} tabs${book.open_tabs ? `; ${count(book.open_tabs)} are open` : ""}`,
      ["Peer", "Ended", "Blocks", "Token·blocks", "Amount", "Receipt"], book.tabs.map((tab) => [peerLink(tab.peer), moment(tab.closed_ms),
        `${tab.span[0]}–${tab.span[1] - 1}`, count(tab.meter.prefill_tl + tab.meter.decode_tl), isFree(tab) ? "free" : `${tab.direction} ${count(tab.amount_ncr)}`, h("span", { class: "mono", title: tab.receipt }, `${tab.receipt.slice(0, 8)}…`)])),
    book.head ? h("p", { class: "why" }, `Signed checkpoint: ${count(book.head.size)} entries, root `, h("span", { class: "mono short" }, `${book.head.root.slice(0, 16)}…`), ". ",
      h("code", {}, "manyhands ledger prove RECEIPT"), " makes a proof of one of them for others.") : "",
    exports(title, book.role));
}

/** Earned and spent on each of the last days, as bars with their meaning in words. */
function days(title, all) {
  const most = Math.max(...all.map(([, earned, spent]) => Math.max(earned, spent)));
  if (!most) return null;
  const [sum, paid] = [1, 2].map((at) => all.reduce((total, day) => total + day[at], 0));
  const meaning = `${title}: earned ${count(sum)} and spent ${count(paid)} nanocredits in ${all.length} days; the most on a day was ${count(most)}.`;
  const bar = (at, side, value, kind) => value ? s("rect", { class: kind, x: at * 10 + side, width: 4, y: 100 - Math.max(2, value / most * 100), height: Math.max(2, value / most * 100) }) : null;
  return h("section", {}, h("h3", {}, "By day"), h("div", { class: "bars" },
    s("svg", { viewBox: `0 0 ${all.length * 10} 100`, preserveAspectRatio: "none", role: "img", "aria-label": meaning },
      all.map(([, earned, spent], at) => [bar(at, 1, earned, "earned"), bar(at, 5, spent, "spent")]))),
  h("p", { class: "chart-axis" }, h("span", {}, all[0][0]), h("span", {}, all.at(-1)[0])),
  h("p", { class: "legend" }, key("earned", `earned ${count(sum)}`), key("spent", `spent ${count(paid)}`), h("span", {}, `${credits(sum - paid)} credits net, days of UTC`)));
}

const key = (kind, text) => h("span", {}, s("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, s("rect", { class: kind, width: 10, height: 10 })), text);

/** A part that the server made: tiles, or a table whose cells are text, numbers, peers or bars. */
function section(title, { title: name, why, tiles, head, rows }) {
  return h("section", {}, h("h3", {}, name), why ? h("p", { class: "why" }, why) : null,
    tiles ? h("dl", { class: "tiles" }, tiles.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, cell(value))))) : null,
    rows ? table(`${title}, ${name}`, `${count(rows.length)} ${rows.length === 1 ? "row" : "rows"}`, head, rows.map((row) => row.map(cell))) : null);
}

function cell(value) {
  if (value === null || typeof value === "number") return count(value);
  if (typeof value === "string") return value;
  if ("peer" in value) return peerLink(value.peer);
  return h("span", { class: "meter" }, h("span", { class: "track", "aria-hidden": "true" },
    s("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" }, s("rect", { class: `span ${value.tone}`, width: value.bar * 100, height: 10 }))), value.text);
}

function exports(title, role) {
  const kinds = [["csv", "CSV"], ["jsonl", "JSON lines"], ["focus", "FOCUS 1.2"], ["html", "To print"]];
  const said = h("span", { role: "status" });
  async function save(kind) {
    try {
      const answer = await ask(`/api/v1/ledger/export?role=${role}&kind=${kind}`);
      if (!answer.ok) throw new Error((await answer.json()).error?.message);
      const link = h("a", { href: URL.createObjectURL(await answer.blob()), download: `manyhands-${role}-${kind}.${kind === "focus" ? "csv" : kind}` });
      link.click();
      URL.revokeObjectURL(link.href);
      said.textContent = "Saved.";
    } catch (error) {
      said.textContent = error.message;
    }
  }
  return h("p", { class: "exports", role: "group", "aria-label": `${title}, export` }, h("span", {}, "Export: "),
    kinds.map(([kind, name]) => h("button", { type: "button", "data-kind": kind, onclick: () => save(kind) }, name)), said);
}

function table(label, caption, head, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h("table", {}, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, head.map((name, at) => h("th", { scope: "col", class: at ? "number" : null }, name)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, at) => h("td", { class: at ? "number" : null }, cell)))))));
}
