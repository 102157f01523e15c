// OpenAI's client for Node: chat, streams, tools, a schema, vectors, responses, errors, retries.
import assert from "node:assert/strict";
import http from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const here = createRequire(process.cwd() + "/");
const { default: OpenAI, NotFoundError, BadRequestError } = await import(pathToFileURL(here.resolve("openai")));

const url = process.env.MANYHANDS_URL;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const asked = { model: "default", messages: [{ role: "user", content: "Hello" }], temperature: 0 };
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
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

await check("a tool call", async () => {
  const tools = [{ type: "function", function: { name: "weather", parameters: schema } }];
  const answer = await client.chat.completions.create({ ...asked, tools, tool_choice: "required", max_tokens: 100 });
  assert.equal(answer.choices[0].message.tool_calls[0].function.name, "weather");
  const tool_choice = { type: "function", function: { name: "weather" } };
  const named = await client.chat.completions.create({ ...asked, tools, tool_choice, max_tokens: 100 });
  assert.equal(named.choices[0].finish_reason, "tool_calls");
  const call = named.choices[0].message.tool_calls[0];
  assert.ok(["Paris", "Oslo"].includes(JSON.parse(call.function.arguments).city));
});

await check("a JSON schema", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "it", strict: true, schema } };
  const answer = await client.chat.completions.create({ ...asked, response_format, max_tokens: 100 });
  assert.ok(["Paris", "Oslo"].includes(JSON.parse(answer.choices[0].message.content).city));
});

await check("log-probabilities", async () => {
  const answer = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 2 });
  for (const each of answer.choices[0].logprobs.content) {
    assert.ok(each.logprob <= 0);
    assert.equal(each.top_logprobs.length, 2);
  }
});

await check("embeddings", async () => {
  const told = await client.embeddings.create({ model: "default", input: ["a hand", "many feet"] });
  assert.equal(told.data.length, 2);
  for (const { embedding } of told.data) assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-4);
});

await check("responses, streamed", async () => {
  const input = { model: "default", input: "Hello", temperature: 0 };
  const whole = await client.responses.create(input);
  assert.equal(whole.status, "completed");
  const stream = await client.responses.create({ ...input, stream: true });
  let text = "", first = null, last = null;
  for await (const event of stream) {
    first = first ?? event;
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event;
  }
  assert.equal(first.type, "response.created");
  assert.equal(last.type, "response.completed");
  assert.equal(text, whole.output_text);
  assert.equal(last.response.output[0].content[0].text, text);
});

await check("models", async () => {
  const models = await client.models.list();
  assert.ok(models.data.some((model) => model.id === "default"));
});

await check("errors are its own classes, with their codes", async () => {
  await assert.rejects(client.chat.completions.create({ ...asked, model: "none" }), (error) => error instanceof NotFoundError && error.code === "model_not_found");
  await assert.rejects(client.chat.completions.create({ ...asked, max_tokens: 5000 }), (error) => error instanceof BadRequestError && error.code === "context_length_exceeded");
  await assert.rejects(client.chat.completions.create({ ...asked, n: 99 }), BadRequestError);
});

await check("retries", async () => {
  let failures = 2;
  const door = http.createServer((request, response) => {
    if (failures-- > 0) {
      request.resume();
      response.writeHead(503, { "retry-after-ms": "10", "content-type": "application/json" });
      response.end(JSON.stringify({ error: { message: "full", type: "server_error", code: "overloaded" } }));
      return;
    }
    const on = http.request(url + request.url, { method: request.method, headers: request.headers });
    on.on("response", (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    request.pipe(on);
  });
  await new Promise((listening) => door.listen(0, "127.0.0.1", listening));
  try {
    const baseURL = `http://127.0.0.1:${door.address().port}/v1`;
    const patient = new OpenAI({ baseURL, apiKey: "none", maxRetries: 2 });
    const answer = await patient.chat.completions.create(asked);
    assert.ok(answer.choices[0].message.content);
  } finally {
    door.closeAllConnections();
    door.close();
  }
});

process.exit(failed ? 1 : 0);
