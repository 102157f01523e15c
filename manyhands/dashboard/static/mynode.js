// This node, for whoever lent the machine: how it is, what it does and earns, and pausing it.

import { fetchJson } from "./api.js";
import { count, credits, decimal, h, milliseconds, moment, s, seconds } from "./dom.js";
import { TONES, blocks } from "./words.js";

const EVERY_MS = 4000;
const PAUSES = [["", "until I resume it"], ["30", "for 30 minutes"], ["120", "for 2 hours"], ["480", "for 8 hours"]];
const VERDICTS = { ok: "well", skip: "well", warn: "warn", fail: "bad" };

const RANK = { fail: 3, warn: 2, ok: 1, skip: 0 };

export function mynode(main) {
  let asked = 0, lastMs = 0, token = "";
  const sentence = h("p", { class: "sentence", role: "status" }, "Looking at your node…");
  const acts = h("section", { class: "card" });
  const rest = h("div", {});
  const minutes = h("select", { id: "pause-for" }, PAUSES.map(([value, words]) => h("option", { value }, words)));
  const pause = act("pause", "Pause", "Answers that run are asked to go on at other peers, and served here until they do. None is cut off.");
  const drain = act("drain", "Drain", "Answers that run end here. No new one begins.");
  const resume = act("resume", "Resume", "Take answers again.");
  const told = h("p", { class: "why", role: "status" });
  const doctor = h("section", { class: "card" });
  main.append(h("h1", { class: "hidden" }, "My node"), sentence, acts, rest, doctor);

  function act(name, title, meaning) {
    return h("button", { id: `node-${name}`, type: "button", title: meaning, onclick: () => send(name) }, title);
  }

  async function send(name) {
    const wish = name === "resume" || !minutes.value ? {} : { minutes: Number(minutes.value) };
    try {
      const node = await fetchJson(`/api/v1/node/${name}`, { method: "POST", body: JSON.stringify(wish),
        headers: { "content-type": "application/json", "x-manyhands-token": token } });
      asked += 1; // what was asked before says how the node was before
      show(node);
      told.textContent = "";
    } catch (error) {
      told.textContent = `That did not work: ${error.message}.`;
    }
  }

  async function draw() {
    if (Date.now() - lastMs < EVERY_MS) return;
    lastMs = Date.now();
    const mine = (asked += 1);
    try {
      const node = await fetchJson("/api/v1/node");
      if (mine === asked) show(node);
    } catch (error) {
      if (mine === asked) { sentence.className = "sentence bad"; sentence.replaceChildren(error.message); }
    }
  }

  function show(node) {
    token = node.token;
    sentence.className = `sentence ${node.tone}`;
    sentence.replaceChildren(h("span", { class: "sign", "aria-hidden": "true" }, TONES[node.tone]), h("span", {}, node.sentence));
    const held = document.activeElement?.id;
    showActs(node);
    rest.replaceChildren(tiles(node), h("div", { class: "two" }, what(node), reach(node), earned(node), limits(node)));
    if (held && document.activeElement?.id !== held) document.getElementById(held)?.focus();
  }

  function showActs(node) {
    const by = node.held_by_owner;
    const until = node.pause?.back_s ? [" It serves again by itself at ", moment(node.pause.back_s * 1000), "."] : [];
    const parts = by
      ? [h("p", {}, by.hands_over ? "Answers that run were asked to go on elsewhere." : "Answers that run end here.", until), resume, by.hands_over ? "" : pause]
      : [h("p", {}, node.pause ? ["It gives way to you by itself, as you told it when you started it.", until]
        : "Do you need this machine for yourself? Nobody's answer is cut off."),
        h("label", {}, "Pause ", minutes), pause, drain];
    acts.replaceChildren(h("h2", {}, "Pause"), h("div", { class: "options" }, parts), told);
  }

  async function examine(anew) {
    const again = h("button", { type: "button", id: "doctor-again", onclick: () => examine(true) }, "Look again");
    doctor.replaceChildren(h("h2", {}, "What the doctor finds"), h("p", {}, "Looking… this takes some seconds."));
    try {
      const findings = await fetchJson(`/api/v1/node/doctor${anew ? "?anew=true" : ""}`);
      doctor.replaceChildren(h("h2", {}, "What the doctor finds"), h("p", {}, summary(findings.checks)),
        h("ul", { class: "alerts" }, [...findings.checks].sort((a, b) => RANK[b.verdict] - RANK[a.verdict]).map(finding)), again);
    } catch (error) {
      doctor.replaceChildren(h("h2", {}, "What the doctor finds"), h("p", { class: "is-bad" }, error.message), again);
    }
  }

  examine(false);
  return { update: draw, close() { asked = -1; } };
}

function summary(checks) {
  const bad = checks.filter(({ verdict }) => verdict === "warn" || verdict === "fail").length;
  if (!bad) return "Nothing is wrong with this machine or its ways to others.";
  return bad === 1 ? "One thing could be better:" : `${bad} things could be better:`;
}

function finding({ id, verdict, reason, fix }) {
  const tone = VERDICTS[verdict] ?? "warn";
  return h("li", {}, h("span", { class: verdict === "skip" ? "why" : `is-${tone}`, "aria-hidden": "true" }, verdict === "skip" ? "○" : TONES[tone]),
    h("span", {}, h("strong", {}, id), `: ${reason}`, fix ? h("span", { class: "fix" }, "Mend it: ", fix) : ""));
}

function tiles(node) {
  const { speed, earned } = node;
  return h("dl", { class: "tiles" }, [
    ["Sessions now", count(node.sessions), node.refused ? `${count(node.refused)} refused` : ""],
    ["Tokens served", count(earned.answer_tokens + earned.prompt_tokens), `in ${count(earned.answers)} ${earned.answers === 1 ? "answer" : "answers"}`],
    isFree(node) ? ["Asks for it", "nothing", "it serves for free"] : ["Earned", credits(earned.earned_ncr), "credits"],
    ["A step takes", milliseconds(speed.step_ms), `${decimal(speed.blocks_per_s)} blocks per second`],
    ["Room for sessions", share(node.room.kv_free_bytes, node.room.kv_budget_bytes), "is free"],
    ["Up for", seconds((Date.now() - node.since_ms) / 1000), ""],
  ].map(([name, value, small]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, " ", h("small", {}, small)))));
}

function what(node) {
  const { span, moving, speed } = node;
  return card("What it serves, and why",
    span ? h("p", {}, h("strong", {}, `${blocks(span[0], span[1])} of ${count(node.n_blocks)}`), ` of ${node.model}: ${node.why_these}.`) : h("p", {}, "Nothing is loaded now."),
    span ? h("div", { class: "track" }, s("svg", { viewBox: `0 0 ${node.n_blocks} 1`, preserveAspectRatio: "none", role: "img", "aria-label": `${blocks(span[0], span[1])} of ${node.n_blocks}` },
      s("rect", { class: "span well", x: span[0], width: span[1] - span[0], height: 1 }))) : "",
    moving?.doing ? h("p", {}, `Now: ${moving.doing}.`) : "",
    moving?.stayed ? h("p", { class: "why" }, `It stayed where it is: ${moving.stayed}.`) : "",
    facts([["Speed, measured here", `${milliseconds(speed.step_ms)} for a token through its blocks, ${count(speed.prefill_rows_per_s)} prompt tokens per second`],
      ["Waiting before a step", milliseconds(speed.queue_ms)],
      ["Upload, download", `${rate(speed.up_bytes_per_s)}, ${rate(speed.down_bytes_per_s)}`],
      ["Numbers", h("span", { class: "mono" }, node.profile)], ["Peer", h("span", { class: "mono short" }, node.peer)]]));
}

function reach(node) {
  const { reach: found } = node;
  return card("How others reach it",
    h("p", {}, `${found.told[0].toUpperCase()}${found.told.slice(1)}. `, h("span", { class: "why" }, found.why)),
    found.fix ? h("p", { class: "is-warn" }, `▲ ${found.fix}`) : "",
    facts([["Addresses", h("span", { class: "mono short" }, node.addresses.join(", ") || "none")],
      ["Confirmed by peers", h("span", { class: "mono short" }, found.confirmed.join(", ") || "none yet")],
      ["Through relays", found.relayed_by.length ? count(found.relayed_by.length) : "no"]]));
}

const isFree = (node) => node.limits.Price === "free" && !node.earned.earned_ncr;

function earned(node) {
  const found = node.earned;
  const most = Math.max(1, ...found.days.map(([, , tokens]) => tokens));
  const width = 10;
  const meaning = `Tokens served on each of the last ${found.days.length} days: ${found.days.map(([day, , tokens]) => `${day} ${tokens}`).join(", ")}`;
  return card(isFree(node) ? "What it gave" : "Earnings",
    found.error ? h("p", { class: "is-bad" }, `✖ The ledger cannot be read: ${found.error}. `, h("code", {}, "manyhands ledger verify"), " says where it does not hold; what stands here is from before.") : "",
    h("p", {}, isFree(node) ? "" : `${credits(found.earned_ncr)} credits for `, `${count(found.answer_tokens)} tokens of answers and ${count(found.prompt_tokens)} of prompts`, isFree(node) ? ", for free" : "",
      found.pending_answers ? `; ${count(found.pending_answers)} answers are not settled yet.` : "."),
    h("div", { class: "bars" }, s("svg", { viewBox: `0 0 ${found.days.length * width} 100`, preserveAspectRatio: "none", role: "img", "aria-label": meaning },
      found.days.map(([day, , tokens], at) => s("rect", { class: "part-decode", x: at * width + 1, width: width - 2, y: 100 - Math.max(1, (tokens / most) * 96), height: Math.max(1, (tokens / most) * 96) },
        s("title", {}, `${day}: ${count(tokens)} tokens`))))),
    h("p", { class: "chart-axis" }, h("span", {}, found.days[0]?.[0] ?? ""), h("span", {}, "tokens per day"), h("span", {}, "today")),
    h("p", { class: "why" }, "By this node's own ledger, every line signed by both sides. ", h("a", { href: "#/ledger" }, "By peer")));
}

function limits(node) {
  return card("What you allow it", facts(Object.entries(node.limits)),
    h("p", { class: "why" }, "Set when it starts: ", h("code", {}, "manyhands serve --help"), " has them under Manners."));
}

function card(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), children);
}

function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function share(part, whole) {
  return whole ? `${Math.round((100 * part) / whole)} %` : "–";
}

function rate(bytes) {
  return bytes ? decimal(bytes / 2 ** 20, " MiB/s") : "not measured yet";
}
