// The page of the platform: live wall, devices, history, quarantine.
//
//   api/stream ──▶ waiting matches ── a few times a second ──▶ cards (bounded)
//   api/…      ──▶ tables: history when you search, the others every few seconds while the page is visible
//
// Data from devices enters the page as text (`make`), never as markup.

const TYPES = {1: "Employee", 2: "Visitor", 3: "Blocklisted", 4: "Stranger", 5: "VIP"};
const REASONS = {
  retained: "retained message",
  previous_boot: "from before a restart",
  repeated: "repeated",
  late: "arrived late",
  unproven: "age unproven",
  crowded: "too many devices",
};
const CARDS = 24;
const ROWS = 100;
const MOST_ROWS = 500;
const PAGE = 50;
const BATCH = 100; // a lag up to one batch is normal
// Milliseconds.
const DRAW_EVERY = 250;
const POLL_EVERY = 5_000;
const SPEAK_EVERY = 10_000;
const SILENCE = 16_000; // the stream sends something at least every 5 s
const RECONNECT = [1_000, 15_000];
const HOUR = 3_600_000;
// A search up to now also finds events of clocks that are ahead of `serverNow`: those of boxes, and
// the server's own, because its `now` is old by the time that its answer took.
const AHEAD = 60_000;

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
const score = new Intl.NumberFormat("en", {maximumFractionDigits: 3});
const clock = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"});
const dayHour = new Intl.DateTimeFormat(undefined, {weekday: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23"});
const seconds = {month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"};
const moment = new Intl.DateTimeFormat(undefined, seconds);
const longAgo = new Intl.DateTimeFormat(undefined, {year: "numeric", ...seconds});

/** An element with attributes and children; text stays text. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A length of time in ms, short. */
function span(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h`;
  return `${count.format(Math.floor(s / 86_400))} d`;
}

const ago = (ms) => (ms < 2_000 ? "now" : `${span(ms)} ago`);
const plural = (n, one, many = `${one}s`) => `${count.format(n)} ${n === 1 ? one : many}`;
const typeName = (type) => TYPES[type] ?? `Type ${type}`;
const personName = (event) => event.identity_name || event.identity_id || "Unknown";
const show = (element, shown) => { element.hidden = !shown; };

/** A moment, with its year if that is not obvious. A wrong clock may report a time that Intl refuses. */
function time(ms, format = Math.abs(Date.now() - ms) < 300 * 24 * HOUR ? moment : longAgo) {
  return Math.abs(ms) <= 8.64e15 ? format.format(ms) : `${ms} ms`;
}

// Questions

async function ask(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value != null);
  const answer = await fetch(`api/${path}?${new URLSearchParams(given)}`);
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) askToken();
  if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
  return body;
}

/** Run a task; if it fails, show why in `problem`. */
async function reportingErrors(problem, work) {
  try {
    await work();
    show(problem, false);
  } catch (error) {
    problem.textContent = error instanceof TypeError ? "The server cannot be reached." : `Error: ${error.message}`;
    show(problem, true);
  }
}

function askToken() {
  if (!$("login").open) $("login").showModal();
}

$("login").addEventListener("cancel", (event) => event.preventDefault());
$("login").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  await reportingErrors($("login-problem"), async () => {
    const body = JSON.stringify({token: event.target.token.value});
    const answer = await fetch("api/login", {method: "POST", body});
    if (!answer.ok) throw new Error((await answer.json()).error);
    event.target.reset();
    $("login").close();
    start();
  });
});

// Live wall

const live = {
  source: null, wait: RECONNECT[0], heardAt: 0, reconnecting: 0,
  ahead: 0, // of the server's clock, ms
  waiting: [], paused: false, drawnAt: 0, drawing: false,
  rate: [], // [when, matches] of the last minute
  spoken: 0,
};
const serverNow = () => Date.now() + live.ahead;

function connect() {
  clearTimeout(live.reconnecting);
  live.source?.close();
  live.heardAt = Date.now();
  const source = live.source = new EventSource("api/stream");
  source.addEventListener("hello", (event) => { $("wall").replaceChildren(); live.waiting = []; live.wait = RECONNECT[0]; hear(event, true); });
  source.addEventListener("wall", (event) => hear(event, false));
  source.addEventListener("skipped", (event) => { live.missed = (live.missed ?? 0) + JSON.parse(event.data).matches; });
  source.onerror = () => lose();
}

/** The stream is lost: say so, and reconnect. */
function lose() {
  live.source?.close();
  live.source = null;
  setLink("lost", "Stream lost");
  alarm(`The live stream was lost at ${clock.format(Date.now())}. What you see may be out of date. Reconnecting.`);
  clearTimeout(live.reconnecting);
  live.reconnecting = setTimeout(connect, live.wait);
  live.wait = Math.min(2 * live.wait, RECONNECT[1]);
  ask("devices", {limit: 1}).catch(() => {}); // shows the login if the token is missing
}

function hear(event, first) {
  const news = JSON.parse(event.data);
  live.heardAt = Date.now();
  live.ahead = news.now - live.heardAt;
  if (!first) {
    live.rate.push([live.heardAt, news.matches.length + news.skipped]);
    live.spoken += news.matches.length + news.skipped;
  }
  setLink(news.broker.up ? "up" : "lost", news.broker.up ? "Live" : "No broker");
  alarm(news.broker.up ? "" : `The platform has no connection to the broker (${news.broker.reason}). No match can appear until it is back.`);
  live.refused = Object.values(news.refused).reduce((sum, n) => sum + n, 0);
  live.waiting = [...live.waiting, ...news.matches].slice(-CARDS);
  draw();
}

function setLink(state, text) {
  if ($("link").dataset.state === state && $("link").textContent === text) return;
  $("link").dataset.state = state;
  $("link").textContent = text;
}

function alarm(text) {
  if ($("alarm").textContent !== text) $("alarm").textContent = text;
  show($("alarm"), text !== "");
}

/** Show the waiting matches, but no more often than eyes can follow. */
function draw() {
  if (live.drawing || live.paused || !live.waiting.length) return;
  live.drawing = true;
  setTimeout(() => requestAnimationFrame(() => {
    live.drawing = false;
    if (live.paused) return;
    live.drawnAt = performance.now();
    $("wall").prepend(...live.waiting.splice(0).reverse().map(card));
    while ($("wall").childElementCount > CARDS) $("wall").lastElementChild.remove();
    show($("wall-empty"), false);
    age();
  }), Math.max(0, live.drawnAt + DRAW_EVERY - performance.now()));
}

function card(match) {
  const name = personName(match);
  const place = [match.device, match.ep_id].filter(Boolean).join(" · ");
  const item = make("li", {class: "card", "data-type": match.person_type, "data-refused": match.reason, title: `${place}\n${time(match.timestamp)}`},
    make("span", {class: "face", "aria-hidden": "true"}, match.person_type === 4 ? "?" : initials(name)),
    make("p", {class: "who", dir: "auto"}, name),
    make("p", {class: "when"}),
    make("p", {class: "what"}, make("span", {class: "kind"}, typeName(match.person_type)), ` · ${score.format(match.score)}`),
    make("p", {class: "where"}, place));
  // Time of the comparison by the server's clock; unknown for a refused match.
  item.bornAt = match.received_at - (match.age ?? 0) * 1000;
  item.reason = match.reason && (REASONS[match.reason] ?? match.reason);
  return item;
}

function initials(name) {
  const words = name.trim().split(/[\s._-]+/u).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)].map((word) => [...word][0]) : [...name.trim()].slice(-2);
  return letters.join("").toUpperCase();
}

/** Bring the ages up to date. */
function age() {
  const now = serverNow();
  for (const item of $("wall").children) {
    const old = now - item.bornAt;
    const state = item.reason ? "refused" : old < 10_000 ? "now" : old < 60_000 ? "recent" : "old";
    const text = item.reason || ago(old);
    if (item.dataset.age !== state) item.dataset.age = state;
    const when = item.querySelector(".when");
    if (when.textContent !== text) when.textContent = text;
  }
  live.rate = live.rate.filter(([at]) => at > Date.now() - 60_000);
  const lately = live.rate.reduce((sum, [, n]) => sum + n, 0);
  const missed = live.missed ? ` · ${count.format(live.missed)} not shown because this page was too slow` : "";
  $("pulse").textContent = `${plural(lately, "match", "matches")} in the last minute${live.refused ? ` · ${count.format(live.refused)} refused so far` : ""}${missed}`;
}

$("pause").addEventListener("click", () => {
  live.paused = !live.paused;
  $("pause").setAttribute("aria-pressed", live.paused);
  $("pause").textContent = live.paused ? "Resume" : "Pause";
  draw();
});
$("show-refused").addEventListener("change", (event) => $("wall").classList.toggle("without-refused", !event.target.checked));

// Devices

const fleet = {devices: [], more: false};

async function pollDevices() {
  await reportingErrors($("devices-problem"), async () => {
    const [devices, gaps] = await Promise.all([ask("devices", {limit: 1000}), ask("gaps", {limit: 50})]);
    Object.assign(fleet, devices);
    live.ahead = devices.now - Date.now();
    drawDevices();
    drawGaps(gaps);
    const names = fleet.devices.slice(0, ROWS).map((row) => row.device);
    if (names.join() !== fleet.names) $("device-names").replaceChildren(...names.map((name) => make("option", {value: name})));
    fleet.names = names.join();
  });
}

const trouble = (row) => (row.state === "online" ? 0 : 1e12) + row.lag;

function drawDevices() {
  const {summary, more} = fleet;
  const wanted = $("devices-name").value.trim().toLowerCase();
  const found = fleet.devices.filter((row) => row.device.toLowerCase().includes(wanted)).sort((a, b) => trouble(b) - trouble(a) || (a.device < b.device ? -1 : 1));
  const notOnline = summary.silent + summary.offline;
  $("devices-sum").textContent = `${count.format(summary.online)} online${notOnline ? ` · ${count.format(notOnline)} not online` : ""}${summary.lag ? ` · lag ${count.format(summary.lag)}` : ""}`;
  const left = found.length - ROWS;
  const rest = left > 0 || more ? [make("tr", {}, make("td", {colspan: 5, class: "quiet"}, `${left > 0 ? plural(left, "more device") : "More devices"}: filter by name`))] : [];
  $("devices-rows").replaceChildren(...found.slice(0, ROWS).map(deviceRow), ...rest);
  show($("devices-empty"), !fleet.devices.length);
}

function deviceRow(row) {
  const lost = row.gaps + row.quarantined;
  return make("tr", {},
    make("td", {}, make("span", {class: "dot", "data-state": row.state, role: "img", "aria-label": row.state, title: row.state}), row.device,
      ...(row.takeovers ? [" ", make("span", {class: "loss", title: "Each takes the other's place at the broker: give one of them another id"}, "two boxes use this id")] : []),
      ...(row.proof ? [" ", make("span", {class: "quiet", title: "How far it is proved that the box behind this bridge lost nothing"}, row.proof)] : [])),
    make("td", {title: time(row.last_seen)}, `${row.state === "online" ? "" : `${row.state}, `}${ago(serverNow() - row.last_seen)}`),
    make("td", {class: row.lag > BATCH ? "number warn" : "number"}, count.format(row.lag)),
    make("td", {class: lost ? "number loss" : "number", title: `${plural(row.gaps, "event")} in gaps, ${count.format(row.quarantined)} in quarantine`}, count.format(lost)),
    make("td", {class: "number"}, row.outage_budget == null ? "–" : span(row.outage_budget * 1000)));
}

function drawGaps({gaps, more}) {
  show($("gaps"), gaps.length > 0);
  $("gaps").querySelector("summary").textContent = `Lost ranges (${count.format(gaps.length)}${more ? "+" : ""})`;
  $("gaps-rows").replaceChildren(...gaps.map((gap) => make("li", {},
    `${gap.device}: ${plural(gap.events, "event")}, seq ${gap.first} to ${gap.last} `, make("span", {class: "quiet"}, `${gap.reason || "lost"}, declared ${time(gap.declared_at)}`))));
}

$("devices-name").addEventListener("input", () => fleet.summary && drawDevices());

// Quarantine

async function pollQuarantine() {
  await reportingErrors($("quarantine-problem"), async () => {
    const {quarantine, more} = await ask("quarantine", {limit: 20});
    $("quarantine-rows").replaceChildren(
      ...quarantine.map((item) => make("li", {},
        make("p", {}, item.reason),
        make("p", {class: "quiet"}, `#${item.id} · ${item.topic} · ${plural(item.size_bytes, "byte")} · ${ago(serverNow() - item.last_at)}${item.times > 1 ? ` · ${count.format(item.times)} times` : ""}`))),
      ...(more ? [make("li", {class: "quiet"}, "For older entries: facewire quarantine list")] : []));
    show($("quarantine-empty"), !quarantine.length);
  });
}

// History

const search = {asked: {}, next: null, number: 0};

async function find() {
  const {range, since, until, ...rest} = Object.fromEntries(new FormData($("search")));
  const now = Math.ceil(serverNow()) + AHEAD;
  const ends = range ? {since: now - Number.parseInt(range, 10) * (range.endsWith("d") ? 24 : 1) * HOUR, until: now}
    : {since: since ? new Date(since).getTime() : now - 24 * HOUR, until: until && new Date(until).getTime()};
  search.asked = {...ends, ...rest, newest_first: true, limit: PAGE};
  const mine = ++search.number;
  await reportingErrors($("history-problem"), async () => {
    const {newest_first, limit, ...filter} = search.asked;
    const [events, counted] = await Promise.all([ask("events", search.asked), ask("hourly", filter)]);
    if (mine !== search.number) return; // a newer search is under way
    $("history-rows").replaceChildren();
    addEvents(events);
    drawChart(counted.hours);
  });
}

function addEvents({events, next}) {
  $("history-rows").append(...events.map((event) => make("tr", {"data-type": event.person_type},
    make("td", {}, time(event.timestamp)),
    make("td", {class: "person", dir: "auto", title: event.identity_id}, personName(event)),
    make("td", {class: "kind"}, typeName(event.person_type)),
    make("td", {class: "number"}, score.format(event.score)),
    make("td", {}, event.device),
    make("td", {}, event.ep_id ?? ""))));
  search.next = next;
  show($("older"), next !== null && $("history-rows").childElementCount < MOST_ROWS);
  show($("history-empty"), !$("history-rows").childElementCount);
}

/** Each bar is an hour, or several hours if single bars would be too narrow. */
function drawChart(hours) {
  const each = Math.ceil(hours.length / 124);
  const bars = [];
  for (let i = 0; i < hours.length; i += each) {
    const part = hours.slice(i, i + each);
    const sum = (name) => part.reduce((total, hour) => total + hour[name], 0);
    bars.push({from: part[0].hour, to: part.at(-1).hour + HOUR, events: sum("events"), strangers: sum("strangers"), people: each === 1 ? part[0].people : null});
  }
  const most = Math.max(1, ...bars.map((bar) => bar.events));
  const [width, height, step] = [720, 150, 720 / bars.length];
  const rect = (kind, x, amount, above) => make("rect", {class: kind, x: x + step * 0.1, width: step * 0.8, y: height * (1 - (0.96 * (amount + above)) / most), height: (height * 0.96 * amount) / most});
  $("chart").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("chart").replaceChildren(...bars.map((bar, i) => make("g", {},
    make("title", {}, describe(bar)),
    make("rect", {class: "hit", x: i * step, width: step, y: 0, height}),
    rect("known", i * step, bar.events - bar.strangers, 0),
    rect("stranger", i * step, bar.strangers, bar.events - bar.strangers))));
  const marks = Math.min(7, bars.length);
  const at = (i) => bars[Math.round((i * (bars.length - 1)) / Math.max(1, marks - 1))].from;
  $("chart-axis").replaceChildren(...Array.from({length: marks}, (_, i) => make("span", {}, time(at(i), dayHour))));
  const total = bars.reduce((sum, bar) => sum + bar.events, 0);
  const busiest = bars.reduce((a, b) => (b.events > a.events ? b : a), bars[0]);
  $("chart-text").textContent = total ? `${plural(total, "event")}, busiest ${describe(busiest)}` : "No events in this time";
}

function describe(bar) {
  const people = bar.people == null ? "" : `, ${plural(bar.people, "enrolled person", "enrolled people")}`;
  return `${time(bar.from, dayHour)}–${time(bar.to, dayHour).replace(/^\S+ /, "")}: ${plural(bar.events, "event")}${people}, ${count.format(bar.strangers)} of strangers`;
}

$("search").addEventListener("submit", (event) => { event.preventDefault(); find(); });
$("search").range.addEventListener("change", (event) => {
  for (const label of document.querySelectorAll(".between")) show(label, !event.target.value);
  if (event.target.value) find();
});
$("older").addEventListener("click", () => reportingErrors($("history-problem"), async () => {
  const {number, next} = search;
  const events = await ask("events", {...search.asked, after: next});
  if (number === search.number && next === search.next) addEvents(events); // no newer search, no second click
}));

// Time passes

function start() {
  connect();
  poll();
  find();
}

function poll() {
  if (document.hidden || $("login").open) return;
  pollDevices();
  pollQuarantine();
}

setInterval(poll, POLL_EVERY);
setInterval(() => {
  if (document.hidden) return;
  age();
  if (live.source && Date.now() - live.heardAt > SILENCE) lose();
}, 1_000);
setInterval(() => {
  if (live.spoken && !live.paused) $("spoken").textContent = `${plural(live.spoken, "match", "matches")} in the last ${SPEAK_EVERY / 1000} seconds`;
  live.spoken = 0;
}, SPEAK_EVERY);

// A browser has few connections to one server, so a hidden page closes its stream.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(live.reconnecting);
    live.source?.close();
    live.source = null;
  } else {
    connect();
    poll();
  }
});

start();
