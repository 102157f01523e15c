// A conversation with the swarm, streamed. It lives in this page alone and goes with it.

import { KeyNeeded, ask, events, fetchJson } from "./api.js";
import { count, decimal, h, milliseconds, peerLink } from "./dom.js";
import { markdown } from "./markdown.js";

const NEAR_PX = 40; // whoever reads further up is left there
const PLAIN = {
  swarm_incomplete: "Some blocks of this model have no host now, so nobody can answer. The overview says which.",
  peer_failed: "A peer failed in the middle of the answer, and no other could take over.",
  overloaded: "The swarm has more to do than it can now.",
  rate_limit_exceeded: "Too many answers are being made for you at a time.",
  context_length_exceeded: "This conversation has become too long for the model: start a new one, or ask for fewer tokens.",
  starting: "The swarm is still starting.",
  shutting_down: "The gateway is ending.",
  timeout: "The answer took too long.",
  internal_error: "The gateway made a mistake; its log says more.",
};

let turns = []; // kept while other pages are looked at
const chosen = { model: "", temperature: "", most: "256", plain: false };
let running = null;
let redraw = () => {}; // all of the page in view
let grow = () => {}; // its last answer

class Refused extends Error {
  constructor({ message, code }) {
    super(message);
    this.code = code;
  }
}

export function chat(main) {
  const model = h("select", { id: "chat-model", onchange: () => { chosen.model = model.value; } });
  const temperature = h("input", { id: "chat-temperature", type: "number", min: "0", max: "2", step: "0.1", placeholder: "model's", oninput: () => { chosen.temperature = temperature.value; } });
  const most = h("input", { id: "chat-most", type: "number", min: "1", step: "1", oninput: () => { chosen.most = most.value; } });
  const plain = h("input", { id: "chat-plain", type: "checkbox", onchange: () => { chosen.plain = plain.checked; redraw(); } });
  const log = h("div", { class: "chat", id: "chat-log", role: "log", "aria-label": "Conversation", tabindex: "0" });
  const text = h("textarea", { id: "chat-text", rows: "2", "aria-label": "Your message", placeholder: "Say something… Enter sends, Shift+Enter begins a line",
    onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(text.value); } } });
  const button = h("button", { id: "chat-send", class: "main", type: "button", onclick: () => (running ? running.abort() : send(text.value)) }, "Send");
  [temperature.value, most.value, plain.checked] = [chosen.temperature, chosen.most, chosen.plain];
  main.append(h("h1", {}, "Chat"),
    h("p", { class: "why" }, "Peers that serve the first and the last blocks can read what you write. Nothing is kept: a reload forgets it."),
    h("div", { class: "card" },
      h("div", { class: "options" }, h("label", {}, "Model ", model), h("label", {}, "Temperature ", temperature), h("label", {}, "Most tokens ", most), h("label", {}, plain, "Plain text"),
        h("button", { id: "chat-new", type: "button", onclick: () => { running?.abort(); turns = []; redraw(); text.focus(); } }, "New conversation")),
      log, h("div", { class: "ask" }, text, button)));

  redraw = () => {
    log.replaceChildren(...(turns.length ? turns.map(bubble) : [start()]));
    log.setAttribute("aria-busy", String(Boolean(running)));
    log.scrollTop = log.scrollHeight;
    button.textContent = running ? "Stop" : "Send";
  };
  grow = () => {
    const isNear = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
    log.lastChild?.replaceWith(bubble(turns[turns.length - 1]));
    if (isNear) log.scrollTop = log.scrollHeight;
  };

  function start() {
    const asks = ["Tell me a story.", "Who are you?", "What is the capital of Japan?"];
    return h("p", { class: "options" }, "Try: ", asks.map((each, at) => h("button", { type: "button", id: `try-${at}`, onclick: () => send(each) }, each)));
  }

  async function send(words) {
    const said = words.trim();
    if (!said || running || !model.value) return;
    text.value = "";
    turns.push({ role: "user", content: said });
    await answer();
    text.focus();
  }

  /** Answer what was said last. */
  async function answer() {
    const told = { role: "assistant", content: "", thought: "", about: "Finding a chain of peers…", again: retry };
    const asked = { model: model.value, stream: true, stream_options: { include_usage: true } };
    asked.messages = turns.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
    if (temperature.value !== "") asked.temperature = Number(temperature.value);
    if (most.value !== "") asked.max_tokens = Number(most.value);
    turns.push(told);
    const mine = running = new AbortController();
    redraw();
    await answerTo(asked, told, mine.signal);
    if (running === mine) running = null;
    redraw();
  }

  /** The last answer is forgotten, and made again. */
  function retry() {
    if (running) return;
    turns.pop();
    answer();
  }

  redraw();
  named().then((names) => {
    model.replaceChildren(...names.map((name) => h("option", { value: name, selected: name === chosen.model }, name)));
  }).catch((error) => log.append(h("p", { class: "is-bad" }, plainly(error))));
  return { close() { redraw = grow = () => {}; } };
}

/** What this gateway answers for, by the names that it takes. */
export async function named() {
  return (await fetchJson("/v1/models")).data.map(({ id }) => id);
}

function bubble(turn) {
  const isUser = turn.role === "user";
  const isLast = !running && turn === turns[turns.length - 1];
  return h("div", { class: `turn ${turn.role}` }, h("span", { class: "hidden" }, isUser ? "You: " : "Answer: "),
    turn.thought ? h("details", {}, h("summary", {}, "What it thought"), h("div", { class: "plain" }, turn.thought)) : "",
    isUser || chosen.plain ? h("div", { class: "plain" }, turn.content) : markdown(turn.content),
    turn.problem ? h("p", { class: "problem" }, h("span", { "aria-hidden": "true" }, "✖ "), turn.problem, turn.detail ? h("span", { class: "fix" }, turn.detail) : "") : "",
    isUser ? "" : h("span", { class: "about" }, turn.about, turn.peers ? ["; answered by ", turn.peers.map((peer) => [peerLink(peer), " "])] : ""),
    isLast && turn.again ? h("span", { class: "again" }, h("button", { type: "button", class: "quiet", id: "chat-again", onclick: turn.again }, "↻ Try again"),
      turn.content ? h("button", { type: "button", class: "quiet", id: "chat-copy", onclick: (event) => copy(event.target, turn.content) }, "Copy") : "") : "");
}

async function copy(button, text) {
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
}

async function answerTo(asked, answer, signal) {
  const beganMs = performance.now();
  let firstMs = null, n = 0, isWhole = false;
  try {
    const response = await ask("/v1/chat/completions", { method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(asked) });
    if (!response.ok) throw new Refused((await response.json()).error);
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Refused(chunk.error);
      const { delta, finish_reason: reason } = chunk.choices?.[0] ?? {};
      const piece = delta?.content, thought = delta?.reasoning_content ?? delta?.reasoning;
      if (piece || thought) {
        firstMs ??= performance.now() - beganMs;
        n += 1;
        answer.content += piece ?? "";
        answer.thought += thought ?? "";
        answer.about = rate(n, firstMs, performance.now() - beganMs) || "…";
        grow();
      }
      if (reason) [isWhole, answer.isCut] = [true, reason === "length"];
      if (chunk.usage) conclude(answer, chunk, firstMs, performance.now() - beganMs);
    }
    if (!isWhole) throw new Refused({ message: "the stream broke off", code: "peer_failed" });
  } catch (error) {
    answer.about = error.name === "AbortError" ? "stopped" : answer.content ? "not complete" : "";
    if (error.name === "AbortError") return;
    answer.problem = plainly(error);
    answer.detail = answer.problem === error.message ? "" : error.message; // what the gateway said
  }
}

/** An error as one would say it. */
function plainly(error) {
  if (error instanceof KeyNeeded) return "This gateway asks for a key.";
  if (error instanceof TypeError) return "The gateway does not answer. Does it still run?";
  return PLAIN[error.code] ?? error.message;
}

function conclude(answer, chunk, firstMs, allMs) {
  const tokens = chunk.usage.completion_tokens, told = chunk.manyhands?.choices?.[0];
  const speed = rate(tokens, firstMs, allMs);
  answer.about = `${count(tokens)} ${tokens === 1 ? "token" : "tokens"}${speed ? `, ${speed}` : ""}; first after ${milliseconds(firstMs)}${answer.isCut ? "; cut off at the most tokens that you allow" : ""}`;
  answer.peers = told?.route?.map(({ peer }) => peer);
  if (told?.failovers) answer.about += `; ${count(told.failovers)} ${told.failovers === 1 ? "peer was" : "peers were"} replaced meanwhile`;
}

function rate(tokens, firstMs, allMs) {
  return tokens > 1 && allMs > firstMs ? `${decimal((tokens - 1) / ((allMs - firstMs) / 1000))} per second` : "";
}
