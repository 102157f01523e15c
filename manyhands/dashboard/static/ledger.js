// What this home earned and owes, by its own books.

import { fetchJson } from "./api.js";
import { count, h, moment, peerLink } from "./dom.js";

export function ledger(main) {
  let asked = 0, lastMs = 0;
  main.append(h("h1", {}, "Ledger"), h("p", { class: "why" },
    "Both sides sign for all that was served; each keeps its own log. ", h("code", {}, "manyhands ledger verify"), " derives every line again. Amounts are nanocredits."));
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
    if (Date.now() - lastMs < 5000) return;
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

function card(book) {
  const title = titleOf(book);
  return h("section", { class: "card" }, h("h2", {}, title),
    h("dl", { class: "tiles" }, [["Earned", book.earned_ncr], ["Spent", book.spent_ncr], ["Net", book.net_ncr], ["Entries", book.entries]]
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, count(value))))),
    table(`${title}, by peer`, "By peer", ["Peer", "Tabs", "Earned", "Spent", "Net"],
      book.balances.map((row) => [peerLink(row.peer), ...[row.tabs, row.earned_ncr, row.spent_ncr, row.net_ncr].map(count)])),
    table(`${title}, latest tabs`, `The latest ${count(book.tabs.length)} of ${count(book.entries)} tabs${book.open_tabs ? `; ${count(book.open_tabs)} are open` : ""}`,
      ["Peer", "Ended", "Blocks", "Token·blocks", "Amount", "Receipt"], book.tabs.map((tab) => [peerLink(tab.peer), moment(tab.closed_ms),
        `${tab.span[0]}–${tab.span[1] - 1}`, count(tab.meter.prefill_tl + tab.meter.decode_tl), `${tab.direction} ${count(tab.amount_ncr)}`, h("span", { class: "mono", title: tab.receipt }, `${tab.receipt.slice(0, 8)}…`)])),
    book.head ? h("p", { class: "why" }, `Signed checkpoint: ${count(book.head.size)} entries, root `, h("span", { class: "mono short" }, `${book.head.root.slice(0, 16)}…`), ". ",
      h("code", {}, "manyhands ledger prove RECEIPT"), " makes a proof of one of them for others.") : "");
}

function table(label, caption, head, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h("table", {}, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, head.map((name, at) => h("th", { scope: "col", class: at ? "number" : null }, name)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, at) => h("td", { class: at ? "number" : null }, cell)))))));
}
