// MQTT.js, led by lines of JSON: {"id", "client", "do", ...} on stdin, {"id"} or {"client", "heard"} on stdout.
import { createInterface } from "node:readline";
import mqtt from "mqtt";

const clients = new Map();
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const deeds = {
  async connect({ client, url, options }) {
    if (options.will) options.will.payload = Buffer.from(options.will.payload);
    const made = mqtt.connect(url, { protocolVersion: 4, reconnectPeriod: 0, ...options });
    made.on("message", (topic, payload, packet) =>
      say({ client, heard: [topic, payload.toString("latin1"), packet.qos, packet.retain] }),
    );
    clients.set(client, made);
    await new Promise((resolve, reject) => made.once("connect", resolve).once("error", reject));
  },
  subscribe: ({ client, filter, qos }) => clients.get(client).subscribeAsync(filter, { qos }),
  publish: ({ client, topic, payload, qos, retain }) =>
    clients.get(client).publishAsync(topic, Buffer.from(payload, "latin1"), { qos, retain }),
  close: ({ client }) => clients.get(client).endAsync(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  deeds[order.do](order).then(
    () => say({ id: order.id }),
    (error) => say({ id: order.id, error: String(error) }),
  );
}
