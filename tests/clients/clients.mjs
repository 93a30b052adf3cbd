// Clients in JavaScript: prints the cells of one of them as a JSON object. See features.py.
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { generateObject, generateText, streamText, tool } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [name, base, picture] = process.argv.slice(2);
const baseURL = `${base}/v1`;
const image = readFileSync(picture);
const uri = `data:image/png;base64,${image.toString("base64")}`;
const Shape = z.object({ kind: z.enum(["circle", "square", "triangle"]), count: z.number().int() });
const question = "Describe the image.";
const shown = [
  {
    role: "user",
    content: [
      { type: "image_url", image_url: { url: uri } },
      { type: "text", text: question },
    ],
  },
];

function said(text) {
  if (typeof text !== "string" || !text.trim()) throw new Error("the answer is empty");
}

const openai = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const asked = { model: "qwen", max_tokens: 64, temperature: 0 };
const qwen = createOpenAICompatible({ name: "qwen", baseURL, supportsStructuredOutputs: true })("qwen");
const responding = createOpenAI({ baseURL, apiKey: "none" })("qwen"); // /v1/responses, its default
const part = { type: "image", image };
const seen = [{ role: "user", content: [part, { type: "text", text: question }] }];
const items = [
  {
    role: "user",
    content: [
      { type: "input_image", image_url: uri, detail: "auto" },
      { type: "input_text", text: question },
    ],
  },
];
const parameters = z.toJSONSchema(Shape.extend({ count: z.number().int().min(0).max(9) }));
const functions = { name: "count_shapes", description: "Counts shapes.", parameters };

async function callsTool(model) {
  const inputSchema = Shape.extend({ count: z.number().int().min(0).max(9) });
  const tools = { count_shapes: tool({ description: "Counts shapes.", inputSchema }) };
  const options = { model, messages: seen, tools, toolChoice: "required", maxRetries: 0 };
  const [call] = (await generateText({ ...options, temperature: 0 })).toolCalls;
  inputSchema.parse(call.input);
}

const clients = {
  openai_node: {
    async whole() {
      const messages = [{ role: "user", content: question }];
      said((await openai.chat.completions.create({ ...asked, messages })).choices[0].message.content);
    },
    async picture() {
      const answer = await openai.chat.completions.create({ ...asked, messages: shown });
      said(answer.choices[0].message.content);
    },
    async stream() {
      let text = "";
      const chunks = await openai.chat.completions.create({ ...asked, messages: shown, stream: true });
      for await (const chunk of chunks) text += chunk.choices[0]?.delta?.content ?? "";
      said(text);
    },
    async parse() {
      const response_format = zodResponseFormat(Shape, "shape");
      const answer = await openai.chat.completions.parse({ ...asked, messages: shown, response_format });
      Shape.parse(answer.choices[0].message.parsed);
    },
    async tools() {
      const tools = [{ type: "function", function: functions }];
      const options = { ...asked, messages: shown, tools, tool_choice: "required" };
      const whole = await openai.chat.completions.create(options);
      Shape.parse(JSON.parse(whole.choices[0].message.tool_calls[0].function.arguments));
      const last = await openai.chat.completions.stream(options).finalMessage();
      Shape.parse(JSON.parse(last.tool_calls[0].function.arguments));
    },
    async responses() {
      const options = { model: "qwen", input: items, max_output_tokens: 64, temperature: 0 };
      const first = await openai.responses.create(options);
      said(first.output_text);
      said((await openai.responses.stream(options).finalResponse()).output_text);
      const format = zodTextFormat(Shape, "shape");
      Shape.parse((await openai.responses.parse({ ...options, text: { format } })).output_parsed);
      const tools = [{ type: "function", ...functions, strict: true }];
      const called = await openai.responses.create({ ...options, tools, tool_choice: "required" });
      Shape.parse(JSON.parse(called.output.at(-1).arguments));
      const more = { ...options, input: question, previous_response_id: first.id };
      said((await openai.responses.create(more)).output_text);
      await openai.responses.delete(first.id);
    },
  },
  ai_sdk: {
    async whole() {
      said((await generateText({ model: qwen, prompt: question, maxRetries: 0 })).text);
    },
    async picture() {
      said((await generateText({ model: qwen, messages: seen, maxRetries: 0 })).text);
    },
    async stream() {
      let text = "";
      for await (const piece of streamText({ model: qwen, prompt: question }).textStream) text += piece;
      said(text);
    },
    async parse() {
      const options = { model: qwen, schema: Shape, messages: seen, maxRetries: 0, temperature: 0 };
      Shape.parse((await generateObject(options)).object);
    },
    async tools() {
      await callsTool(qwen);
    },
    async responses() {
      const options = { model: responding, messages: seen, maxRetries: 0, temperature: 0 };
      const first = await generateText(options);
      said(first.text);
      // The history of a stored response goes back as references to its items.
      const messages = [...seen, ...first.response.messages, { role: "user", content: question }];
      said((await generateText({ ...options, messages })).text);
      let text = "";
      for await (const piece of streamText(options).textStream) text += piece;
      said(text);
      Shape.parse((await generateObject({ ...options, schema: Shape })).object);
      await callsTool(responding);
    },
  },
};

const cells = {};
for (const [feature, run] of Object.entries(clients[name])) {
  try {
    await run();
    cells[feature] = "ok";
  } catch (error) {
    cells[feature] = `${error.name}: ${error.message}`.slice(0, 200);
  }
}
console.log(JSON.stringify(cells));
