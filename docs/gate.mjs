// A gate in JavaScript: npm install mqtt @msgpack/msgpack; node gate.mjs mqtt://127.0.0.1:1883 [DEVICE…]
// The four rules in short. It believes a device that says the error of its clock, and otherwise its own clock: then
// device and gate must run NTP (docs/consumers.md).
import { decode } from "@msgpack/msgpack";
import mqtt from "mqtt";

const MAX_AGE = 5000; // ms, from the comparison
const CLOCK_ERROR = 2000; // ms that the platform's clock, or that of a device that says nothing, may run ahead of ours
const REQUIRE_ROUND_TRIP = false; // true: only a device that says the error of its clock opens doors
const REMEMBERED = 1000; // seqs of an epoch
const MOST_DEVICES = 10000, MOST_IDS = 16; // devices, and boots and epochs of each: of more, the oldest are forgotten
// device -> { boot: newest seen, boots: all seen, acted: epoch -> seqs, least, corrected, said: see hear }
const devices = new Map();

function read(payload) {
  return payload[0] === 0x7b ? JSON.parse(payload.toString()) : decode(payload);
}

const isId = (text) => typeof text === "string" && /^[0-9a-f]{16}$/i.test(text);

function bound(mapOrSet, most) {
  if (mapOrSet.size > most) mapOrSet.delete(mapOrSet.keys().next().value);
}

function seen(name, boot) {
  if (!isId(boot)) throw new Error("not a boot");
  if (!devices.has(name)) devices.set(name, { boots: new Set(), acted: new Map() });
  bound(devices, MOST_DEVICES);
  const device = devices.get(name);
  if (!device.boots.has(boot)) {
    device.boots.add((device.boot = boot));
    Object.assign(device, { least: Infinity, corrected: Infinity, said: -Infinity });
  }
  bound(device.boots, MOST_IDS);
  return device;
}

function isRepeated(device, epoch, seq) {
  if (!device.acted.has(epoch)) device.acted.set(epoch, new Set());
  bound(device.acted, MOST_IDS);
  const seqs = device.acted.get(epoch);
  return seqs.has(seq) || seq <= Math.max(0, ...seqs) - REMEMBERED;
}

function act(device, { epoch, event: { seq } }) {
  const seqs = device.acted.get(epoch).add(seq);
  const highest = Math.max(...seqs);
  for (const old of seqs) if (old <= highest - REMEMBERED) seqs.delete(old);
}

// How far ahead the device says that its clock is at most, ms.
const saidAhead = ({ clock_error_ms: error, clock_uncertainty_ms: uncertainty }) =>
  Number.isSafeInteger(error) && Number.isSafeInteger(uncertainty) ? error + uncertainty : undefined;

// Delay only adds: each message, acted on or not, shows how far ahead the clock of its boot is at least.
function hear(device, message, sentAt, retained, now) {
  if (!device || message.boot !== device.boot || !Number.isSafeInteger(sentAt)) return;
  device.least = Math.min(device.least, now - sentAt);
  const said = retained ? undefined : saidAhead(message);
  if (said === undefined) return;
  device.said = said;
  device.corrected = Math.min(device.corrected, now - sentAt + said); // the same for the platform's clock
}

// Why not to act on a match; undefined if it is fresh. Each condition refuses a value that is not a number.
export function refusal(name, match, retained, now = Date.now(), mayAct = true) {
  const { epoch, boot, sent_at, event } = match;
  if (!isId(epoch) || !Number.isSafeInteger(event.seq)) throw new Error("not a match");
  const device = retained ? devices.get(name) : seen(name, boot);
  hear(device, match, sent_at, retained, now);
  if (retained) return "retained";
  if (!mayAct) return "overrun";
  if (boot !== device.boot) return "previous_boot";
  if (isRepeated(device, epoch, event.seq)) return "repeated";
  const said = saidAhead(match);
  const isRight = device.least >= -CLOCK_ERROR && device.said <= CLOCK_ERROR && !REQUIRE_ROUND_TRIP;
  if (!(said === undefined ? isRight : device.corrected >= -CLOCK_ERROR)) return "unproven";
  if (!(event.timestamp <= sent_at + 1000)) return "unproven";
  if (!(now - Math.min(sent_at, event.timestamp) + (said ?? 0) + CLOCK_ERROR <= MAX_AGE)) return "late";
  act(device, match);
}

const refused = {};
const wanted = process.argv.length > 3 ? process.argv.slice(3) : ["+"]; // a narrowed credential names its devices
const filters = (kind) => wanted.map((name) => `facewire/v1/${name}/${kind}`);
const client = mqtt.connect(process.argv[2], { protocolVersion: 4, clean: true, queueQoSZero: false });
client.on("connect", () => {
  client.subscribe(filters("match"), { qos: 0 }, () => console.error("connected"));
  client.subscribe(filters("status"), { qos: 1 }, () => {}); // may be refused: matches tell of a restart too
});
client.on("error", (error) => console.error(error.message));
client.on("message", (topic, payload, packet) => {
  let reason = "unreadable";
  try {
    const [name, kind] = topic.split("/").slice(-2);
    const message = read(payload);
    if (kind === "status") {
      if (message.online && !packet.retain) seen(name, message.boot);
      return hear(devices.get(name), message, message.at, packet.retain || !message.online, Date.now());
    }
    // Node would keep in memory what nobody reads, so it acts on none meanwhile.
    reason = refusal(name, message, packet.retain, Date.now(), !process.stdout.writableNeedDrain);
    if (!reason) console.log(JSON.stringify({ device: name, open: message.event.identity_id, seq: message.event.seq }));
  } catch {
    // A message that breaks the contract must not stop the gate.
  }
  if (reason) refused[reason] = (refused[reason] ?? 0) + 1;
});
process.on("SIGTERM", () => client.end(true, () => console.log(JSON.stringify({ refused }))));
