// OpenAI's client for Node: chat, stream, tools, a schema, errors.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const here = createRequire(process.cwd() + "/");
const { default: OpenAI, NotFoundError, BadRequestError } = await import(pathToFileURL(here.resolve("openai")));

const client = new OpenAI({ baseURL: process.env.MANYHANDS_URL + "/v1", apiKey: "none", maxRetries: 0 });
const asked = { model: "default", messages: [{ role: "user", content: "Hello" }] };
const properties = { city: { enum: ["Paris", "Oslo"] } };
const schema = { type: "object", properties, required: ["city"], additionalProperties: false };
let failed = false;

async function check(what, work) {
  let why = "";
  try {
    await work();
  } catch (error) {
    console.error(error);
    failed = true;
    why = String(error).slice(0, 200);
  }
  console.log(JSON.stringify({ what, why }).replace(/^\{"what":/, '{"what": '));
}

await check("chat", async () => {
  const answer = await client.chat.completions.create(asked);
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

await check("stream with usage", async () => {
  const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  let text = "", usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  const whole = await client.chat.completions.create(asked);
  assert.equal(text, whole.choices[0].message.content);
  assert.ok(usage.completion_tokens > 0);
});

await check("a tool call", async () => {
  const tools = [{ type: "function", function: { name: "weather", parameters: schema } }];
  const answer = await client.chat.completions.create({ ...asked, tools, tool_choice: "required", max_tokens: 100 });
  assert.equal(answer.choices[0].message.tool_calls[0].function.name, "weather");
});

await check("a JSON schema", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "it", strict: true, schema } };
  const answer = await client.chat.completions.create({ ...asked, response_format, max_tokens: 100 });
  assert.ok(["Paris", "Oslo"].includes(JSON.parse(answer.choices[0].message.content).city));
});

await check("log-probabilities", async () => {
  const answer = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 2 });
  assert.equal(answer.choices[0].logprobs.content[0].top_logprobs.length, 2);
});

await check("embeddings", async () => {
  const told = await client.embeddings.create({ model: "default", input: ["a hand", "many feet"] });
  assert.equal(told.data.length, 2);
  assert.equal(typeof told.data[0].embedding[0], "number");
});

await check("responses, streamed", async () => {
  const stream = await client.responses.create({ model: "default", input: "Hello", stream: true });
  let text = "", last = null;
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event;
  }
  assert.equal(last.type, "response.completed");
  assert.equal(last.response.output[0].content[0].text, text);
});

await check("models", async () => {
  const models = await client.models.list();
  assert.ok(models.data.some((model) => model.id === "default"));
});

await check("errors are its own classes, with their codes", async () => {
  await assert.rejects(client.chat.completions.create({ ...asked, model: "none" }), (error) => error instanceof NotFoundError && error.code === "model_not_found");
  await assert.rejects(client.chat.completions.create({ ...asked, max_tokens: 5000 }), (error) => error instanceof BadRequestError && error.code === "context_length_exceeded");
});

process.exit(failed ? 1 : 0);
