// Asking the gateway: with the key that somebody typed here, for as long as the tab is open.

export class KeyNeeded extends Error {}

let key = "";
try { key = sessionStorage.getItem("key") ?? ""; } catch { /* then it lasts as long as the page */ }

export function setKey(value) {
  key = value;
  try { sessionStorage.setItem("key", value); } catch { /* see above */ }
}

/** As fetch, with the key; says so when one is needed. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) throw new KeyNeeded("this gateway asks for a key");
  return response;
}

/** What a path answered, or an error with the words of the answer. */
export async function fetchJson(path, options = {}) {
  const response = await ask(path, { ...options, headers: { accept: "application/json", ...options.headers } });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? `${path} answered ${response.status}`);
  return body;
}

/** The JSON of each server-sent event of an answer. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split(/\r?\n\r?\n/);
    held = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trim()).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
