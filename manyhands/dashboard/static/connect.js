// How other programs ask here, ready to copy, with this gateway's own address and model.

import { named } from "./chat.js";
import { h } from "./dom.js";
import { joinAddress } from "./peers.js";
import { unpacked } from "./words.js";

export function connect(main) {
  let isOpen = true, isAsking = false, name = "MODEL", address = "ADDRESS";
  const lend = h("pre", { tabindex: "0" });
  const tellLend = () => { lend.textContent = `manyhands serve ${name} --join ${address}`; };
  main.append(h("h1", {}, "Connect"));
  named().then(([model = "default"]) => {
    if (!isOpen) return;
    const base = `${location.origin}/v1`;
    name = model;
    tellLend();
    main.append(
      h("p", {}, "Whatever speaks OpenAI's API works here. Base URL: ", h("code", {}, base), ", model: ", h("code", {}, model), ", key: anything, unless the operator asks for one."),
      ...snippets(base, model).map(([title, text], at) => snippet(`snippet-${at}`, title, h("pre", { tabindex: "0" }, text))),
      snippet("snippet-lend", "Lend this machine", lend));
  }).catch((error) => main.append(h("p", { class: "is-bad" }, error.message)));
  return {
    update(state) {
      if (address !== "ADDRESS" || isAsking) return;
      isAsking = true;
      joinAddress(unpacked(state.peers)).then((told) => { address = told; isAsking = false; tellLend(); });
    },
    close() { isOpen = false; },
  };
}

function snippet(id, title, shown) {
  const copy = h("button", { type: "button", id, onclick: async () => {
    await navigator.clipboard.writeText(shown.textContent);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  } }, "Copy");
  return h("section", {}, h("h2", {}, title), h("div", { class: "snippet" }, shown, copy));
}

function snippets(base, model) {
  return [
    ["curl", `curl ${base}/chat/completions -H 'content-type: application/json' -d '{
  "model": "${model}",
  "messages": [{"role": "user", "content": "Tell me a story."}],
  "stream": true
}'`],
    ["Python, openai", `from openai import OpenAI

client = OpenAI(base_url="${base}", api_key="none")
answer = client.chat.completions.create(
    model="${model}",
    messages=[{"role": "user", "content": "Tell me a story."}],
)
print(answer.choices[0].message.content)`],
    ["JavaScript, openai", `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${base}", apiKey: "none" });
const answer = await client.chat.completions.create({
  model: "${model}",
  messages: [{ role: "user", content: "Tell me a story." }],
});
console.log(answer.choices[0].message.content);`],
    ["LangChain", `from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url="${base}", api_key="none", model="${model}", stream_usage=True)
print(model.invoke("Tell me a story.").content)`],
    ["LlamaIndex", `from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    api_base="${base}", api_key="none", model="${model}", is_chat_model=True, context_window=1024
)
print(model.complete("Tell me a story."))`],
  ];
}
