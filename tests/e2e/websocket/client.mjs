// Node's HTTP/2 client as a WebSocket client (RFC 8441): `node client.mjs URL CA-FILE`.
// Node has no WebSocket on HTTP/2, so the frames are made here. Everything runs on one connection.
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http2 from "node:http2";

const [url, authority] = process.argv.slice(2);
const session = http2.connect(url, authority ? { ca: readFileSync(authority) } : {});
const TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;

function frame(opcode, content, last = true) {
  const size = content.length;
  const length = size < 126 ? [size] : size < 65536 ? [126] : [127];
  const head = Buffer.alloc(size < 126 ? 2 : size < 65536 ? 4 : 10);
  head[0] = (last ? 0x80 : 0) | opcode;
  head[1] = 0x80 | length[0];
  if (length[0] === 126) head.writeUInt16BE(size, 2);
  if (length[0] === 127) head.writeBigUInt64BE(BigInt(size), 2);
  const mask = randomBytes(4);
  return Buffer.concat([head, mask, content.map((byte, index) => byte ^ mask[index % 4])]);
}

/** A session on a stream of its own. */
class Conversation {
  constructor(path, fields = {}) {
    const head = { ":method": "CONNECT", ":protocol": "websocket", ":path": path, "sec-websocket-version": "13", ...fields };
    this.stream = session.request(head, { endStream: false });
    this.pending = Buffer.alloc(0);
    this.pieces = this.stream[Symbol.asyncIterator]();
    this.opened = once(this.stream, "response").then(([response]) => response);
  }

  send(opcode, content, last) {
    this.stream.write(frame(opcode, Buffer.from(content), last));
  }

  async bytes(count) {
    while (this.pending.length < count) {
      const { value, done } = await this.pieces.next();
      if (done) throw new Error(`the stream ended, with ${this.pending.length} bytes of ${count}`);
      this.pending = Buffer.concat([this.pending, value]);
    }
    const taken = this.pending.subarray(0, count);
    this.pending = this.pending.subarray(count);
    return taken;
  }

  async frame() {
    const [first, second] = await this.bytes(2);
    if (second & 0x80) throw new Error("a masked frame from a server");
    let size = second;
    if (size === 126) size = (await this.bytes(2)).readUInt16BE();
    else if (size === 127) size = Number((await this.bytes(8)).readBigUInt64BE());
    return { last: Boolean(first & 0x80), opcode: first & 0xf, content: await this.bytes(size) };
  }

  /** Answer the close frame that has come. */
  async answer(content) {
    this.send(CLOSE, content);
    this.stream.end();
    await once(this.stream, "close");
    return content.readUInt16BE();
  }

  async text() {
    return (await this.frame()).content.toString();
  }

  /** The closing handshake, then the end of the stream from our side, as browsers do. */
  async close(code, reason) {
    const content = Buffer.concat([Buffer.from([code >> 8, code & 255]), Buffer.from(reason)]);
    this.send(CLOSE, content);
    const answer = await this.frame();
    const closed = once(this.stream, "close");
    this.stream.end();
    const rest = await this.pieces.next();
    await closed;
    return {
      opcode: answer.opcode,
      code: answer.content.readUInt16BE(),
      ended: rest.done,
      reset: this.stream.rstCode,
    };
  }
}

async function ask(path) {
  const stream = session.request({ ":path": path });
  return Buffer.concat(await stream.toArray()).toString();
}

async function echo() {
  const conversation = new Conversation("/echo?node", { "sec-websocket-protocol": "other, echo" });
  const response = await conversation.opened;
  const result = { status: response[":status"], protocol: response["sec-websocket-protocol"] };
  result.field = response["x-answered"];
  result.first = await conversation.text();
  conversation.send(TEXT, "grüße");
  result.text = await conversation.text();
  const large = randomBytes(300_000);
  conversation.send(BINARY, large.subarray(0, 100_000), false);
  conversation.send(PING, "still there?");
  conversation.send(0, large.subarray(100_000));
  const pong = await conversation.frame();
  result.pong = pong.opcode === PONG && pong.content.toString();
  const parts = [];
  do parts.push(await conversation.frame());
  while (!parts.at(-1).last);
  result.large = Buffer.concat(parts.map((part) => part.content)).equals(large);
  result.closed = await conversation.close(4123, "bye");
  result.told = JSON.parse(await ask("/ended?node"));
  return result;
}

async function farewell() {
  const conversation = new Conversation("/farewell");
  const { content: welcome } = await conversation.frame();
  const { opcode, content } = await conversation.frame();
  const told = [opcode, await conversation.answer(content), content.subarray(2).toString()];
  return { welcome: welcome.toString(), told, reset: conversation.stream.rstCode };
}

async function refused() {
  const conversation = new Conversation("/refuse");
  const response = await conversation.opened;
  const body = Buffer.concat(await conversation.stream.toArray()).toString();
  return { status: response[":status"], body };
}

/** Ten megabytes on one stream, many sessions and requests beside it. */
async function many() {
  const flood = new Conversation("/flood");
  let flooded = 0;
  const drained = (async () => {
    for (;;) {
      const { opcode, content } = await flood.frame();
      if (opcode === CLOSE) return flood.answer(content);
      flooded += content.length;
    }
  })();
  const conversations = Array.from({ length: 20 }, (_, index) => new Conversation(`/echo?${index}`));
  const told = await Promise.all(
    conversations.map(async (conversation, index) => {
      await conversation.frame();
      conversation.send(TEXT, `${index}`);
      const text = await conversation.text();
      return [text, (await conversation.close(1000, "")).code];
    }),
  );
  return { told, request: await ask("/"), code: await drained, flooded };
}

/** A stream that is reset in the middle of a session; the others do not notice. */
async function reset() {
  const conversation = new Conversation("/echo?reset");
  await conversation.frame();
  conversation.stream.close(http2.constants.NGHTTP2_CANCEL);
  return { told: JSON.parse(await ask("/ended?reset")), request: await ask("/") };
}

session.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
await once(session, "remoteSettings");
const result = { settings: session.remoteSettings.enableConnectProtocol };
for (const scenario of [echo, farewell, refused, many, reset]) {
  console.error(scenario.name);
  result[scenario.name] = await scenario();
}
await new Promise((resolve) => session.close(resolve));
console.log(JSON.stringify(result));
