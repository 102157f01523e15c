// What openai-node does with a gateway: node suite.mjs URL. Prints the name of each thing that held.
import assert from "node:assert/strict";
import http from "node:http";
import OpenAI from "openai";

const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const hello = [{ role: "user", content: "Hello" }];
const asked = { model: "tiny", messages: hello, temperature: 0 };
const parameters = {
  type: "object",
  properties: { city: { enum: ["Paris", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};

const suite = {
  async "chat, whole and streamed alike"() {
    const whole = await client.chat.completions.create(asked);
    const said = whole.choices[0].message.content;
    assert.ok(said);
    assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
    const stream = await client.chat.completions.create({
      ...asked,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, said);
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  },
  async "tools"() {
    const answer = await client.chat.completions.create({
      ...asked,
      max_tokens: 200,
      tools: [{ type: "function", function: { name: "weather", parameters } }],
      tool_choice: { type: "function", function: { name: "weather" } },
    });
    assert.equal(answer.choices[0].finish_reason, "tool_calls");
    const call = answer.choices[0].message.tool_calls[0];
    assert.ok(["Paris", "Oslo"].includes(JSON.parse(call.function.arguments).city));
  },
  async "a JSON schema"() {
    const answer = await client.chat.completions.create({
      ...asked,
      max_tokens: 200,
      response_format: { type: "json_schema", json_schema: { name: "x", strict: true, schema: parameters } },
    });
    assert.ok(["Paris", "Oslo"].includes(JSON.parse(answer.choices[0].message.content).city));
  },
  async "log-probabilities"() {
    const answer = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 2 });
    for (const each of answer.choices[0].logprobs.content) {
      assert.ok(each.logprob <= 0);
      assert.equal(each.top_logprobs.length, 2);
    }
  },
  async "embeddings"() {
    const told = await client.embeddings.create({ model: "tiny", input: ["a dog", "a cat"] });
    assert.equal(told.data.length, 2);
    for (const { embedding } of told.data) {
      const length = Math.hypot(...embedding);
      assert.ok(Math.abs(length - 1) < 1e-4, `of length ${length}`);
    }
  },
  async "responses, whole and in events"() {
    const whole = await client.responses.create({ model: "tiny", input: "Hello", temperature: 0 });
    assert.equal(whole.status, "completed");
    const kinds = [];
    let text = "";
    const stream = await client.responses.create({ model: "tiny", input: "Hello", temperature: 0, stream: true });
    for await (const event of stream) {
      kinds.push(event.type);
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    assert.equal(text, whole.output_text);
    assert.equal(kinds[0], "response.created");
    assert.equal(kinds.at(-1), "response.completed");
  },
  async "errors"() {
    await assert.rejects(client.chat.completions.create({ ...asked, model: "nobody" }), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      return error.code === "model_not_found";
    });
    await assert.rejects(client.chat.completions.create({ ...asked, n: 99 }), OpenAI.BadRequestError);
    await assert.rejects(
      client.chat.completions.create({ ...asked, messages: [{ role: "user", content: "word ".repeat(4000) }] }),
      (error) => error.code === "context_length_exceeded",
    );
  },
  async "retries"() {
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
    const patient = new OpenAI({
      baseURL: `http://127.0.0.1:${door.address().port}/v1`,
      apiKey: "none",
      maxRetries: 2,
    });
    const answer = await patient.chat.completions.create(asked);
    assert.ok(answer.choices[0].message.content);
    door.closeAllConnections();
    door.close();
  },
};

for (const [name, holds] of Object.entries(suite)) {
  await holds();
  console.log(`ok ${name}`);
}
