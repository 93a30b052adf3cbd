// Clients in JavaScript: prints the cells of one of them as a JSON object. See features.py.
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { generateObject, generateText, streamText } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { zodResponseFormat } from "openai/helpers/zod";
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
const part = { type: "image", image };

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
  },
  ai_sdk: {
    async whole() {
      said((await generateText({ model: qwen, prompt: question, maxRetries: 0 })).text);
    },
    async picture() {
      const messages = [{ role: "user", content: [part, { type: "text", text: question }] }];
      said((await generateText({ model: qwen, messages, maxRetries: 0 })).text);
    },
    async stream() {
      let text = "";
      for await (const piece of streamText({ model: qwen, prompt: question }).textStream) text += piece;
      said(text);
    },
    async parse() {
      const messages = [{ role: "user", content: [part, { type: "text", text: question }] }];
      const options = { model: qwen, schema: Shape, messages, maxRetries: 0, temperature: 0 };
      Shape.parse((await generateObject(options)).object);
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
