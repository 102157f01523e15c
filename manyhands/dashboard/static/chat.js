// A conversation with the swarm, streamed. It lives in this page alone and goes with it.

import { ask, events, fetchJson } from "./api.js";
import { count, decimal, h, milliseconds } from "./dom.js";

let turns = []; // kept while other pages are looked at
let running = null;
let redraw = () => {}; // of the page in view

export function chat(main) {
  const model = h("select", { id: "chat-model" });
  const temperature = h("input", { id: "chat-temperature", type: "number", min: "0", max: "2", step: "0.1", placeholder: "model's" });
  const most = h("input", { id: "chat-most", type: "number", min: "1", step: "1", value: "256" });
  const log = h("div", { class: "chat", id: "chat-log", role: "log", "aria-label": "Conversation", tabindex: "0" });
  const text = h("textarea", { id: "chat-text", rows: "2", "aria-label": "Your message", placeholder: "Say something…",
    onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); } } });
  const button = h("button", { id: "chat-send", class: "main", type: "button", onclick: () => (running ? running.abort() : send()) }, "Send");
  main.append(h("h1", {}, "Chat"),
    h("p", { class: "why" }, "Peers that serve the first and the last blocks can read what you write. Nothing is kept: a reload forgets it."),
    h("div", { class: "card" },
      h("div", { class: "options" }, h("label", {}, "Model ", model), h("label", {}, "Temperature ", temperature), h("label", {}, "Most tokens ", most),
        h("button", { id: "chat-new", type: "button", onclick: () => { running?.abort(); turns = []; redraw(); text.focus(); } }, "New conversation")),
      log, h("div", { class: "ask" }, text, button)));

  redraw = () => {
    log.replaceChildren(...(turns.length ? turns.map(bubble) : [h("p", { class: "why" }, "Try: Tell me a story.")]));
    log.scrollTop = log.scrollHeight;
    button.textContent = running ? "Stop" : "Send";
  };

  async function send() {
    const said = text.value.trim();
    if (!said || running || !model.value) return;
    text.value = "";
    const answer = { role: "assistant", content: "", about: "thinking…" };
    const asked = { model: model.value, stream: true, stream_options: { include_usage: true } };
    asked.messages = [...turns, { role: "user", content: said }].map(({ role, content }) => ({ role, content }));
    if (temperature.value !== "") asked.temperature = Number(temperature.value);
    if (most.value !== "") asked.max_tokens = Number(most.value);
    turns.push({ role: "user", content: said }, answer);
    running = new AbortController();
    redraw();
    await answerTo(asked, answer, running.signal);
    running = null;
    redraw();
  }

  redraw();
  named().then((names) => {
    model.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  }).catch((error) => log.append(h("p", { class: "is-bad" }, error.message)));
  return {};
}

/** What this gateway answers for, by the names that it takes. */
export async function named() {
  return (await fetchJson("/v1/models")).data.map(({ id }) => id);
}

function bubble(turn) {
  return h("div", { class: `turn ${turn.role}` }, h("span", { class: "hidden" }, turn.role === "user" ? "You: " : "Answer: "), turn.content,
    turn.about ? h("span", { class: "about" }, turn.about) : "");
}

async function answerTo(asked, answer, signal) {
  const beganMs = performance.now();
  let firstMs = null;
  try {
    const response = await ask("/v1/chat/completions", { method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(asked) });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const delta = chunk.choices?.[0]?.delta?.content;
      if (delta) { firstMs ??= performance.now() - beganMs; answer.content += delta; answer.about = ""; redraw(); }
      if (chunk.usage) answer.about = summary(chunk.usage.completion_tokens, firstMs, performance.now() - beganMs);
    }
  } catch (error) {
    answer.about = error.name === "AbortError" ? "stopped" : error.message;
  }
}

function summary(tokens, firstMs, allMs) {
  const rate = tokens > 1 ? `, ${decimal((tokens - 1) / ((allMs - firstMs) / 1000))} per second` : "";
  return `${count(tokens)} tokens${rate}; first after ${milliseconds(firstMs)}`;
}
