// What a model writes, as elements: paragraphs, headings, lists, code and emphasis of Markdown.
// Built from text nodes alone, so that nothing in it can be markup; links stay text.

import { h } from "./dom.js";

const FENCE = /^\s*(```|~~~)\s*([\w+#.-]*)/;
const ITEM = /^\s*(?:[-*+]|(\d{1,3})[.)])\s+(.*)$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)|(\*[^*\s][^*\n]*\*)/;

/** The blocks of a text, which may end anywhere: a code block that is open ends with it. */
export function markdown(text) {
  const found = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length;) {
    const [made, next] = block(lines, at);
    if (made) found.push(made);
    at = next;
  }
  return found;
}

function block(lines, at) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at + 1, fence[1]);
  const heading = HEADING.exec(line);
  if (heading) return [h("p", { class: "heading" }, inline(heading[2])), at + 1];
  if (ITEM.test(line)) return list(lines, at);
  let next = at + 1;
  while (next < lines.length && lines[next].trim() && !FENCE.test(lines[next]) && !HEADING.test(lines[next]) && !ITEM.test(lines[next])) next += 1;
  return [h("p", {}, inline(lines.slice(at, next).join("\n"))), next];
}

function code(lines, at, mark) {
  let end = at;
  while (end < lines.length && !lines[end].trim().startsWith(mark)) end += 1;
  return [h("pre", { tabindex: "0" }, h("code", {}, lines.slice(at, end).join("\n"))), end + 1];
}

function list(lines, at) {
  const first = ITEM.exec(lines[at]);
  const items = [];
  let next = at;
  for (let found = first; found && Boolean(found[1]) === Boolean(first[1]); found = ITEM.exec(lines[next] ?? "")) {
    items.push(h("li", {}, inline(found[2])));
    next += 1;
  }
  return [first[1] ? h("ol", { start: first[1] }, items) : h("ul", {}, items), next];
}

function inline(text) {
  const parts = [];
  for (let rest = text; rest;) {
    const found = INLINE.exec(rest);
    if (!found) { parts.push(rest); break; }
    parts.push(rest.slice(0, found.index));
    const [whole, quoted, strong] = found;
    parts.push(quoted ? h("code", {}, whole.slice(1, -1)) : strong ? h("strong", {}, whole.slice(2, -2)) : h("em", {}, whole.slice(1, -1)));
    rest = rest.slice(found.index + whole.length);
  }
  return parts;
}
