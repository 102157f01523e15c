// The shell: which page is shown, what the swarm said last, and whether that still comes.

import { KeyNeeded, ask, events, setKey } from "./api.js";
import { h, moment } from "./dom.js";
import { chat } from "./chat.js";
import { connect } from "./connect.js";
import { ledger } from "./ledger.js";
import { models, model } from "./models.js";
import { mynode } from "./mynode.js";
import { overview } from "./overview.js";
import { peers, peer } from "./peers.js";
import { requests } from "./requests.js";
import { routing } from "./routing.js";

const SWARM = [["models", "Models", models], ["peers", "Peers", peers]];
const BY_PART = {
  gateway: [["", "Overview", overview], ["chat", "Chat", chat], ...SWARM, ["requests", "Requests", requests],
    ["routing", "Routing", routing], ["ledger", "Ledger", ledger], ["connect", "Connect", connect]],
  node: [["", "My node", mynode], ["swarm", "Swarm", overview], ...SWARM, ["ledger", "Ledger", ledger]],
};
const PAGES = BY_PART[document.body.dataset.parts] ?? BY_PART.gateway;
const DETAILS = { model, peer };
const STALE_MS = 15000;
const RETRY_MS = 2000;

const main = document.getElementById("main");
let state = null;
let heardMs = 0;
let refused = ""; // why the swarm's state does not come, in the gateway's words
let toldOfAge = "";
let isAskingForKey = false;
let shown = null; // {update(state), close()}, the page in view

function route() {
  const [name = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return { name, argument: decoded(rest.join("/")) };
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; } // somebody typed it
}

function open() {
  if (isAskingForKey) return;
  const { name, argument } = route();
  const known = PAGES.find(([path]) => path === name);
  const make = known?.[2] ?? DETAILS[name] ?? PAGES[0][2];
  const title = known?.[1] ?? { peer: "Peer", model: "Model" }[name] ?? PAGES[0][1];
  document.title = `${title} · Manyhands`;
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.getAttribute("href") === `#/${known ? name : DETAILS[name] ? `${name}s` : ""}`;
    isHere ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  shown?.close?.();
  main.replaceChildren();
  shown = make(main, argument);
  if (state) update();
}

/** Draw anew; whoever works with the keyboard stays where they were. */
function update() {
  const held = document.activeElement?.id;
  shown?.update?.(state);
  if (held && document.activeElement?.id !== held) document.getElementById(held)?.focus();
}

let lastSentence = "";
function hear(told) {
  state = told;
  refused = "";
  heardMs = Date.now() - (told.now_ms - told.at_ms); // it may come on time and be old
  tellAge();
  update();
  document.getElementById("footer").textContent = `Manyhands ${state.version}`;
  if (state.sentence !== lastSentence) {
    lastSentence = state.sentence;
    document.getElementById("spoken").textContent = state.sentence;
  }
}

function tellAge() {
  const stale = document.getElementById("stale");
  const isOld = heardMs !== 0 && Date.now() - heardMs > STALE_MS;
  const tell = `${refused} ${isOld}`;
  if (tell === toldOfAge) return; // else it would be read out each second
  toldOfAge = tell;
  stale.replaceChildren(refused ? `The state of the swarm is refused to this page: ${refused}. ` : "",
    ...(isOld ? ["Nothing was heard since ", moment(heardMs), ": what stands here is from then."] : []));
  stale.hidden = !isOld && !refused;
}

/** What the swarm says, for as long as this page is open; after a break it asks again. */
async function listen() {
  for (;;) {
    let waitMs = RETRY_MS;
    try {
      const response = await ask("/api/v1/events");
      if (response.ok) for await (const told of events(response)) hear(told);
      else waitMs = await refusal(response);
    } catch (error) {
      if (error instanceof KeyNeeded) await typedKey();
    }
    await new Promise((done) => { setTimeout(done, waitMs); });
  }
}

/** Say why; how long to wait before asking again. */
async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  refused = body.error?.message ?? `it answered ${response.status}`;
  tellAge();
  return Math.max(RETRY_MS, 1000 * (Number(response.headers.get("retry-after")) || 0));
}

/** Ask whoever sits here for a key, in place of the page. */
function typedKey() {
  shown?.close?.();
  shown = null;
  isAskingForKey = true;
  return new Promise((done) => {
    const field = h("input", { id: "key", type: "password", autocomplete: "off", required: true });
    const form = h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); setKey(field.value.replace(/[^\x21-\x7e]/g, "")); isAskingForKey = false; open(); done(); } },
      h("h1", {}, "A key, please"), h("p", {}, "This gateway answers to those who have one. It stays in this tab."),
      h("div", { class: "options" }, h("label", {}, "Key ", field), h("button", { id: "key-send", class: "main" }, "Go on")));
    main.replaceChildren(form);
    field.focus();
  });
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const button = document.getElementById("theme");
  button.setAttribute("aria-label", `Colours: ${theme || "as the system's"}`);
  button.textContent = { light: "☀ Light", dark: "☾ Dark" }[theme] ?? "◐ System";
}

function turnTheme() {
  const order = ["", "dark", "light"];
  const next = order[(order.indexOf(document.documentElement.dataset.theme ?? "") + 1) % 3];
  try { localStorage.setItem("theme", next); } catch { /* then it lasts as long as the page */ }
  setTheme(next);
}

document.getElementById("nav").append(
  ...PAGES.map(([path, title]) => h("a", { href: `#/${path}`, id: `nav-${path}` }, title)),
);
let kept = "";
try { kept = localStorage.getItem("theme") ?? ""; } catch { /* storage may be shut off */ }
setTheme(kept);
document.getElementById("theme").addEventListener("click", turnTheme);
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
window.addEventListener("hashchange", () => { open(); main.focus(); });
open();
setInterval(tellAge, 1000);
listen();
