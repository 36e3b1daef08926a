// The official client of OpenAI's API against a running `strata serve`.
//
//   npm install openai          (anywhere; no part of the build)
//   NODE_PATH=... node openai_client.mjs http://127.0.0.1:8000/v1 [KEY]
//
// Prints a line for each check, and ends with status 1 if one failed.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { default: OpenAI } = createRequire(process.cwd() + "/")("openai");

const [baseURL, apiKey = "none"] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const base = {
  model,
  prompt: "The quick brown fox",
  max_tokens: 24,
  seed: 7,
  temperature: 0.8,
};
// Fields that are not OpenAI's, so that answers have a known length.
const full = { ...base, ignore_eos: true };

async function textOf(stream) {
  let text = "";
  let reason = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.text ?? "";
    reason = chunk.choices[0]?.finish_reason ?? reason;
  }
  return { text, reason };
}

async function failsWith(status, request) {
  try {
    await request();
  } catch (error) {
    assert.equal(error.status, status, error.message);
    assert.ok(error.error?.message ?? error.message);
    return;
  }
  assert.fail(`no error; want ${status}`);
}

const checks = {
  async "completions"() {
    const answer = await client.completions.create(full);
    assert.equal(answer.object, "text_completion");
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.equal(answer.usage.completion_tokens, 24);
  },
  async "streaming gives the same text"() {
    const whole = await client.completions.create(full);
    const parts = await textOf(
      await client.completions.create({ ...full, stream: true }),
    );
    assert.equal(parts.text, whole.choices[0].text);
    assert.equal(parts.reason, "length");
  },
  async "usage at the end of a stream"() {
    let usage = null;
    const stream = await client.completions.create({
      ...full,
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const chunk of stream) usage = chunk.usage ?? usage;
    assert.equal(usage.completion_tokens, 24);
  },
  async "the same seed, the same text; n choices"() {
    const a = await client.completions.create({ ...full, n: 3 });
    const b = await client.completions.create({ ...full, n: 3 });
    assert.deepEqual(
      a.choices.map((c) => c.text),
      b.choices.map((c) => c.text),
    );
    assert.deepEqual(
      a.choices.map((c) => c.index),
      [0, 1, 2],
    );
  },
  async "stop"() {
    const { text } = (await client.completions.create(full)).choices[0];
    const stop = text.slice(3, 5);
    const cut = await client.completions.create({ ...full, stop });
    assert.equal(cut.choices[0].text, text.slice(0, text.indexOf(stop)));
    assert.equal(cut.choices[0].finish_reason, "stop");
  },
  async "logprobs"() {
    const answer = await client.completions.create({ ...full, logprobs: 3 });
    const { tokens, token_logprobs, top_logprobs } = answer.choices[0].logprobs;
    assert.equal(tokens.length, 24);
    assert.equal(token_logprobs.length, 24);
    assert.ok(token_logprobs.every((x) => x <= 0));
    assert.equal(top_logprobs.length, 24);
  },
  async "chat, or an error that says why not"() {
    const messages = [{ role: "user", content: "Hello" }];
    const request = { model, messages, max_tokens: 8, seed: 1 };
    try {
      const answer = await client.chat.completions.create(request);
      assert.equal(answer.choices[0].message.role, "assistant");
      let text = "";
      const stream = await client.chat.completions.create({
        ...request,
        stream: true,
      });
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta?.content ?? "";
      }
      assert.equal(text, answer.choices[0].message.content);
    } catch (error) {
      assert.equal(error.status, 400, error.message);
      assert.match(error.message, /chat template/);
    }
  },
  async "embeddings"() {
    const answer = await client.embeddings.create({
      model,
      input: ["one", "two"],
    });
    assert.equal(answer.data.length, 2);
    // The client asks for base64 and decodes it.
    const [a, b] = answer.data.map((one) => one.embedding);
    const length = Math.sqrt(a.reduce((sum, x) => sum + x * x, 0));
    assert.ok(Math.abs(length - 1) < 1e-4, `length ${length}`);
    assert.notDeepEqual(a, b);
  },
  async "structured output"() {
    const schema = {
      type: "object",
      properties: {
        colour: { enum: ["red", "green"] },
        size: { type: "integer", minimum: 1, maximum: 9 },
      },
      required: ["colour", "size"],
      additionalProperties: false,
    };
    const answer = await client.completions.create({
      ...base,
      max_tokens: 200,
      response_format: {
        type: "json_schema",
        json_schema: { name: "thing", strict: true, schema },
      },
    });
    const value = JSON.parse(answer.choices[0].text);
    assert.ok(["red", "green"].includes(value.colour));
    assert.ok(value.size >= 1 && value.size <= 9);
    await failsWith(400, () =>
      client.completions.create({
        ...base,
        response_format: {
          type: "json_schema",
          json_schema: { name: "none", schema: { enum: [] } },
        },
      }),
    );
  },
  async "version"() {
    const answer = await client.completions.create(base);
    assert.match(answer.system_fingerprint, /^[0-9a-f]{16}$/);
  },
  async "errors"() {
    await failsWith(404, () =>
      client.completions.create({ ...base, model: "another" }),
    );
    await failsWith(400, () =>
      client.completions.create({ ...base, temperature: -1 }),
    );
    await failsWith(400, () =>
      client.completions.create({ ...base, max_tokens: -5 }),
    );
    await failsWith(404, () => client.models.retrieve("another"));
  },
  async "cancellation"() {
    const stream = await client.completions.create({
      ...full,
      max_tokens: 200,
      stream: true,
    });
    for await (const _ of stream) {
      stream.controller.abort();
      break;
    }
    await client.completions.create({ ...full, max_tokens: 1 });
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok      ${name}`);
  } catch (error) {
    ++failed;
    console.log(`FAILED  ${name}: ${error.message}`);
  }
}
process.exit(failed > 0 ? 1 : 0);
