// Node's HTTP/2 client: `node client.mjs URL CA-FILE` does all of the below on one connection
// and prints what came as one JSON object.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http2 from "node:http2";

const [url, authority] = process.argv.slice(2);
const session = http2.connect(url, authority ? { ca: readFileSync(authority) } : {});

/** Send a request, and return everything that came on its stream. */
async function ask(headers, { body, trailers } = {}) {
  const stream = session.request(headers, { endStream: body === undefined, waitForTrailers: trailers !== undefined });
  const answer = { informational: [] };
  stream.on("headers", (fields) => answer.informational.push(fields[":status"]));
  stream.on("response", (fields) => Object.assign(answer, { status: fields[":status"], headers: fields }));
  stream.on("trailers", (fields) => (answer.trailers = { ...fields }));
  stream.on("wantTrailers", () => stream.sendTrailers(trailers));
  if (body !== undefined) stream.end(body);
  answer.body = Buffer.concat(await stream.toArray());
  return answer;
}

const text = (answer) => answer.body.toString();
const sha256 = (data) => createHash("sha256").update(data).digest("hex");

/** Many requests at once, of different sizes. */
async function multiplex() {
  const sizes = Array.from({ length: 60 }, (_, index) => index * 1777);
  const answers = await Promise.all(sizes.map((size) => ask({ ":path": `/download?size=${size}` })));
  return answers.map((answer) => [answer.status, answer.body.length]);
}

async function trailers() {
  const down = await ask({ ":path": "/trailers" });
  const body = Buffer.alloc(300_000, "up");
  const up = await ask({ ":path": "/upload", ":method": "POST" }, { body, trailers: { "x-checksum": sha256(body) } });
  return { body: text(down), received: down.trailers, echoed: JSON.parse(text(up)), sent: sha256(body) };
}

async function push() {
  const pushed = new Promise((resolve) => {
    session.once("stream", (stream, request) => {
      const response = once(stream, "push");
      resolve({ request, response, body: stream.toArray() });
    });
  });
  const page = await ask({ ":path": "/push" });
  const { request, response, body } = await pushed;
  const [headers] = await response;
  const seen = headers["x-was-pushed"];
  return { page: text(page), path: request[":path"], status: headers[":status"], seen, body: (await body).join("") };
}

/** A download that is given up in the middle, while others go on. */
async function cancel() {
  const endless = session.request({ ":path": "/endless" });
  let received = 0;
  const enough = new Promise((resolve) => {
    endless.on("data", (data) => (received += data.length) > 500_000 && resolve());
  });
  const beside = [ask({ ":path": "/download?size=3000000" }), ask({ ":path": "/" })];
  await enough;
  endless.close(http2.constants.NGHTTP2_CANCEL);
  const [large, small] = await Promise.all(beside);
  return { large: large.body.length, small: text(small), ended: text(await ask({ ":path": "/ended" })) };
}

async function hint() {
  const answer = await ask({ ":path": "/hint" });
  return { informational: answer.informational, body: text(answer) };
}

const ping = () => new Promise((resolve, reject) => session.ping((error) => (error ? reject(error) : resolve(true))));

session.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
const result = {};
for (const scenario of [multiplex, trailers, push, hint, cancel, ping]) {
  console.error(scenario.name);
  result[scenario.name] = await scenario();
}
await new Promise((resolve) => session.close(resolve));
console.log(JSON.stringify(result));
