// What this home earned and owes, by its own books.

import { fetchJson } from "./api.js";
import { count, h, peerLink } from "./dom.js";

export function ledger(main) {
  let asked = 0, lastMs = 0;
  main.append(h("h1", {}, "Ledger"), h("p", { class: "why" },
    "Both sides sign for all that was served; each keeps its own log. ", h("code", {}, "manyhands ledger verify"), " derives every line again. Amounts are nanocredits."));
  const body = h("div", {});
  main.append(body);

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

function card(book) {
  const title = { node: "As a provider", client: "As a client" }[book.role] ?? book.role;
  return h("section", { class: "card" }, h("h2", {}, title),
    h("dl", { class: "tiles" }, [["Earned", book.earned_ncr], ["Spent", book.spent_ncr], ["Net", book.net_ncr], ["Entries", book.entries]]
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, count(value))))),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, by peer` },
      h("table", {}, h("caption", {}, "By peer"),
        h("thead", {}, h("tr", {}, ["Peer", "Tabs", "Earned", "Spent", "Net"].map((name, at) => h("th", { scope: "col", class: at ? "number" : null }, name)))),
        h("tbody", {}, book.balances.map((row) => h("tr", {}, h("td", {}, peerLink(row.peer)),
          [row.tabs, row.earned_ncr, row.spent_ncr, row.net_ncr].map((value) => h("td", { class: "number" }, count(value)))))))));
}
