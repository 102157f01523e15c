// The shell: which page is shown, what the swarm said last, and whether that still comes.

import { h, moment } from "./dom.js";
import { chat } from "./chat.js";
import { connect } from "./connect.js";
import { ledger } from "./ledger.js";
import { models, model } from "./models.js";
import { overview } from "./overview.js";
import { peers, peer } from "./peers.js";
import { requests } from "./requests.js";

const PAGES = [
  ["", "Overview", overview], ["models", "Models", models], ["peers", "Peers", peers],
  ["requests", "Requests", requests], ["ledger", "Ledger", ledger], ["chat", "Chat", chat],
  ["connect", "Connect", connect],
];
const DETAILS = { model, peer };
const STALE_MS = 15000;

const main = document.getElementById("main");
let state = null;
let heardMs = 0;
let shown = null; // {update(state), close()}, the page in view

function route() {
  const [name = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return { name, argument: decodeURIComponent(rest.join("/")) };
}

function open() {
  const { name, argument } = route();
  const known = PAGES.find(([path]) => path === name);
  const make = known?.[2] ?? DETAILS[name] ?? overview;
  const title = known?.[1] ?? (name === "peer" ? "Peer" : "Model");
  document.title = `${title} · Manyhands`;
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.getAttribute("href") === `#/${known ? name : `${name}s`}`;
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
function hear(event) {
  state = JSON.parse(event.data);
  heardMs = Date.now();
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
  if (isOld && stale.hidden) stale.replaceChildren("Nothing was heard since ", moment(heardMs), ": what stands here is from then.");
  stale.hidden = !isOld;
}

function listen() {
  const events = new EventSource("/api/v1/events");
  events.addEventListener("state", hear);
  setInterval(tellAge, 1000);
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const button = document.getElementById("theme");
  button.textContent = { light: "☀ Light", dark: "☾ Dark" }[theme] ?? "◐ Theme: system";
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
listen();
