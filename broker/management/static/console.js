// The console: asks the API every two seconds and writes what it says. What comes from clients (names, sessions,
// addresses) is only ever set as text, never as markup.
"use strict";

const EVERY = 2000;
const KEPT = 60;
const byId = (id) => document.getElementById(id);

// --- numbers for people

const short = (value) => {
  if (value == null) return "–";
  if (value < 10 && value % 1) return value.toFixed(1);
  if (value < 10000) return String(Math.round(value));
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= size) return (value / size).toFixed(value / size < 100 ? 1 : 0) + " " + unit;
  }
};
const bytes = (value) => {
  if (value == null) return "–";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) return (value / size).toFixed(value / size < 100 ? 1 : 0) + " " + unit;
  }
  return Math.round(value) + " B";
};
const span = (seconds) => {
  if (seconds == null) return "–";
  const whole = Math.floor(seconds);
  if (whole < 60) return whole + " s";
  if (whole < 3600) return Math.floor(whole / 60) + " min " + (whole % 60) + " s";
  if (whole < 86400) return Math.floor(whole / 3600) + " h " + Math.floor((whole % 3600) / 60) + " min";
  return Math.floor(whole / 86400) + " d " + Math.floor((whole % 86400) / 3600) + " h";
};

// --- pieces of the page

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(element.dataset, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function cell(name, content, kind = "") {
  return make("td", { className: kind, data: { name } }, content);
}

function badge(text, kind) {
  return make("span", { className: "badge " + kind, textContent: text });
}

const SVG = "http://www.w3.org/2000/svg";
function spark(values, label) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const top = Math.max(...values, 0);
  const points = values.map((value, at) => {
    const x = (100 * (KEPT - values.length + at)) / (KEPT - 1);
    return x.toFixed(1) + " " + (top ? 29 - (27 * value) / top : 29).toFixed(1);
  });
  if (points.length > 1) {
    const first = points[0].split(" ")[0];
    for (const [kind, path] of [["under", `M${first} 30L${points.join("L")}L100 30Z`], ["", "M" + points.join("L")]]) {
      const line = document.createElementNS(SVG, "path");
      line.setAttribute("class", kind);
      line.setAttribute("d", path);
      svg.append(line);
    }
  }
  return svg;
}

// Rows are kept and changed in place, so that focus, selection and what a screen reader is reading stay where they are.
function fill(body, entries, key, build) {
  const old = new Map([...body.children].map((row) => [row.dataset.key, row]));
  entries.forEach((entry, at) => {
    const name = String(key(entry));
    let row = old.get(name);
    old.delete(name);
    if (!row) row = make("tr", { data: { key: name } });
    const fresh = build(entry);
    fresh.forEach((next, place) => {
      const now = row.children[place];
      if (!now) row.append(next);
      else if (now.innerHTML !== next.innerHTML || now.className !== next.className) {
        if (now.contains(document.activeElement)) return;
        now.replaceWith(next);
      }
    });
    if (body.children[at] !== row) body.insertBefore(row, body.children[at] || null);
  });
  for (const row of old.values()) row.remove();
}

// --- rates

const history = new Map();
function remember(name, value) {
  const values = history.get(name) || [];
  values.push(Math.max(0, value));
  if (values.length > KEPT) values.shift();
  history.set(name, values);
  return values;
}

const samples = new Map();
const RATED = ["messages_in", "messages_out", "bytes_in", "bytes_out", "dropped"];
// Between two signs of life of one life of a worker; it gives one about every second, so the same may be seen twice.
function rates(worker) {
  const before = samples.get(worker.slot);
  if (before && before.pid === worker.pid && before.uptime_ms === worker.uptime_ms) {
    return before.rates;
  }
  const known = before && before.pid === worker.pid && worker.uptime_ms > before.uptime_ms;
  const seconds = known ? (worker.uptime_ms - before.uptime_ms) / 1000 : 0;
  const found = {};
  for (const name of RATED) found[name] = known ? (worker[name] - before[name]) / seconds : 0;
  found.cpu = known ? (100 * (worker.cpu_seconds - before.cpu_seconds)) / ((performance.now() - before.seen) / 1000) : 0;
  samples.set(worker.slot, { ...worker, rates: found, seen: performance.now() });
  return found;
}

// --- what is shown

const TILES = [
  ["Messages in", "messages_in", short, "/s"],
  ["Messages delivered", "messages_out", short, "/s"],
  ["Received", "bytes_in", bytes, "/s"],
  ["Delivered", "bytes_out", bytes, "/s"],
  ["Connections", "connections", short, ""],
  ["Subscriptions", "subscriptions", short, ""],
  ["Messages in queues", "queue_messages", short, ""],
  ["Unsettled", "queue_unsettled", short, ""],
  ["Dead letters", "dead_lettered", short, "", true],
  ["Paused publishers", "paused_publishers", short, "", true],
  ["Dropped", "dropped", short, "/s", true],
];

function showTiles(overview, sums) {
  const list = byId("tiles");
  TILES.forEach(([name, key, write, unit, isTrouble], at) => {
    const value = unit ? sums[key] : overview[key];
    const values = remember(key, value);
    let tile = list.children[at];
    if (!tile) {
      tile = make("li", {}, make("div", { className: "name", textContent: name }), make("div", { className: "value" }));
      tile.append(make("div"));
      list.append(tile);
    }
    tile.className = isTrouble && value > 0 ? "alarm" : "";
    tile.children[1].replaceChildren(write(value), make("small", { textContent: unit }));
    const most = write(Math.max(...values)) + unit;
    tile.children[2].replaceWith(spark(values, `${name} over the last two minutes, at most ${most}`));
  });
}

const WORKER_STATES = { ready: "good", starting: "warn", waiting: "warn" };
function showWorkers(workers) {
  fill(byId("workers"), workers, (worker) => worker.slot, (worker) => {
    const heard = worker.uptime_ms !== undefined;
    const rate = heard ? rates(worker) : {};
    const values = remember("worker-" + worker.slot, heard ? rate.messages_out : 0);
    const label = `Messages worker ${worker.slot} delivered, at most ${short(Math.max(...values))}/s`;
    return [
      make("th", { scope: "row", textContent: String(worker.slot) }),
      cell("State", badge(worker.state, WORKER_STATES[worker.state] || "bad")),
      cell("Connections", short(worker.connections), "number"),
      cell("In", heard ? short(rate.messages_in) + "/s" : "–", "number"),
      cell("Out", heard ? short(rate.messages_out) + "/s" : "–", "number"),
      cell("Delivered", spark(values, label)),
      cell("CPU", heard ? Math.round(rate.cpu) + " %" : "–", "number"),
      cell("Memory", bytes(worker.resident_bytes), "number"),
      cell("Up", heard ? span(worker.uptime_ms / 1000) : "–", "number"),
      cell("Restarts", short(worker.restarts), "number"),
    ];
  });
}

const CONNECTION_STATES = { open: "good", waiting: "warn", paused: "warn", connecting: "", closing: "bad" };
const STATE_NAMES = { waiting: "reads too slowly", connecting: "not logged in" };
function showConnections(page) {
  fill(byId("connections"), page.connections, (each) => each.session, (each) => {
    const button = make("button", { type: "button", className: "link mono", textContent: each.session });
    button.addEventListener("click", () => openDetail(each.session));
    return [
      make("th", { scope: "row" }, button),
      cell("Peer", each.peer, "mono"),
      cell("State", badge(STATE_NAMES[each.state] || each.state, CONNECTION_STATES[each.state] || "")),
      cell("STOMP", each.version || "–"),
      cell("Subscriptions", short(each.subscription_count), "number"),
      cell("Received", bytes(each.bytes_in), "number"),
      cell("Sent", bytes(each.bytes_out), "number"),
      cell("Waiting", bytes(each.outbox_bytes), "number"),
      cell("Dropped", short(each.dropped), "number"),
      cell("Age", span(each.age), "number"),
    ];
  });
}

function showQueues(page) {
  fill(byId("queues"), page.queues, (each) => each.name, (each) => {
    const button = make("button", { type: "button", className: "link mono", textContent: each.name });
    button.addEventListener("click", () => openQueue(each.name));
    return [
      make("th", { scope: "row" }, button),
      cell("Owner", String(each.owner), "number"),
      cell("Messages", short(each.messages), "number"),
      cell("Unsettled", short(each.unsettled), "number"),
      cell("On disk only", short(each.spilled), "number"),
      cell("Size", bytes(each.bytes), "number"),
      cell("Consumers", short(each.consumers), "number"),
      cell("Producers", each.blocked ? badge("paused", "warn") : "not held up"),
    ];
  });
}

function showDestinations(page) {
  fill(byId("destinations"), page.destinations, (each) => each.name, (each) => [
    make("th", { scope: "row", className: "mono", textContent: each.name }),
    cell("Kind", each.pattern ? "pattern" : "destination"),
    cell("Subscribers", short(each.subscribers), "number"),
    cell("Workers", short(each.workers), "number"),
    cell("Publishers", each.blocked ? badge("paused", "warn") : "not held up"),
  ]);
}

function showOverview(overview) {
  const status = byId("status");
  const text = !overview.ready ? "not ready" : overview.degraded ? "degraded" : "ready";
  if (status.textContent !== text) status.textContent = text;
  status.className = "badge " + (overview.degraded ? "bad" : overview.ready ? "good" : "warn");
  status.title = overview.reason;
  byId("where").textContent =
    `${overview.version} on ${overview.addresses.join(", ")}, up ${span(overview.uptime)}` +
    `, ${overview.workers_ready} of ${overview.workers} workers`;
  const ends = Object.entries(overview.closed);
  byId("ends").replaceChildren(
    ...ends.map(([reason, count]) => make("div", {},
      make("dt", { textContent: reason }), make("dd", { textContent: short(count) }))),
  );
  byId("ends-empty").hidden = ends.length > 0;
}

function showTrouble(text) {
  const trouble = byId("trouble");
  if (trouble.textContent !== text) trouble.textContent = text;
  trouble.hidden = !text;
}

// --- asking

async function ask(path, method = "GET", patience = 10000) {
  const response = await fetch(path, { method, signal: AbortSignal.timeout(patience) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

// A listing with a filter and pages; `from` is the cursor of the page that is shown.
class Listing {
  constructor(name, show, fields) {
    this.name = name;
    this.show = show;
    this.fields = fields;
    this.from = "";
    this.next = null;
    byId(name + "-first").addEventListener("click", () => this.turn(""));
    byId(name + "-next").addEventListener("click", () => this.turn(this.next));
    let typing = 0;
    for (const field of Object.values(fields)) {
      field.addEventListener("input", () => {
        clearTimeout(typing);
        typing = setTimeout(() => this.turn(""), 200);
      });
      field.form.addEventListener("submit", (event) => event.preventDefault());
    }
  }

  turn(from) {
    this.from = from || "";
    this.refresh().catch((error) => showTrouble(error.message));
  }

  async refresh() {
    const query = new URLSearchParams({ limit: "50" });
    if (this.from) query.set("after", this.from);
    for (const [name, field] of Object.entries(this.fields)) if (field.value) query.set(name, field.value);
    const asked = query.toString();
    this.asked = asked;
    const page = await ask(`/api/${this.name}?${asked}`);
    // A filter that changed meanwhile has its own question on the way.
    if (this.asked !== asked) return;
    this.next = page.next;
    this.show(page);
    const entries = page[this.name];
    byId(this.name + "-empty").hidden = entries.length > 0;
    byId(this.name + "-first").disabled = !this.from;
    byId(this.name + "-next").disabled = !page.next;
    const missing = page.unanswered.length ? `, worker ${page.unanswered.join(", ")} did not answer` : "";
    byId(this.name + "-note").textContent = `${entries.length} shown${page.next ? ", there are more" : ""}${missing}`;
  }
}

const connections = new Listing("connections", showConnections, {
  text: byId("connection-text"),
  state: byId("connection-state"),
});
const queues = new Listing("queues", showQueues, { text: byId("queue-text") });
const destinations = new Listing("destinations", showDestinations, { text: byId("destination-text") });

async function refresh() {
  const [overview, answer] = await Promise.all([ask("/api/overview"), ask("/api/workers")]);
  showOverview(overview);
  showWorkers(answer.workers);
  const sums = Object.fromEntries(RATED.map((name) => [name, 0]));
  for (const worker of answer.workers) {
    const known = samples.get(worker.slot);
    if (known && known.pid === worker.pid) for (const name of RATED) sums[name] += known.rates[name];
  }
  showTiles(overview, sums);
  await Promise.all([connections.refresh(), queues.refresh(), destinations.refresh()]);
}

async function turn() {
  try {
    if (!document.hidden) {
      await refresh();
      showTrouble("");
    }
  } catch (error) {
    const status = byId("status");
    status.textContent = "no answer";
    status.className = "badge bad";
    showTrouble("The broker does not answer: " + error.message);
  }
  setTimeout(turn, EVERY);
}

// --- one connection

let shown = "";
async function openDetail(session) {
  shown = session;
  byId("detail-title").textContent = session;
  byId("detail-facts").replaceChildren();
  byId("detail-subscriptions").replaceChildren();
  byId("detail-note").textContent = "";
  byId("detail-end").disabled = false;
  byId("detail").showModal();
  try {
    const each = await ask(`/api/connections/${encodeURIComponent(session)}`);
    if (shown === session) showDetail(each);
  } catch (error) {
    byId("detail-note").textContent = error.message;
    byId("detail-end").disabled = true;
  }
}

function showDetail(each) {
  const beats = [
    each.sends_beat_every ? `sent every ${each.sends_beat_every} s` : "none sent",
    each.closes_after_silence_of ? `silent for at most ${each.closes_after_silence_of} s` : "none asked for",
  ];
  const facts = [
    ["Peer", each.peer], ["Listener", each.listener], ["Worker", each.worker],
    ["State", STATE_NAMES[each.state] || each.state], ["STOMP", each.version || "not logged in"],
    ["Heart-beat", beats.join(", ")], ["Age", span(each.age)], ["Idle", span(each.idle)],
    ["Received", bytes(each.bytes_in)], ["Sent", bytes(each.bytes_out)], ["Waiting", bytes(each.outbox_bytes)],
    ["Round trip", each.round_trip == null ? "–" : (each.round_trip * 1000).toFixed(2) + " ms"],
    ["Dropped", short(each.dropped)],
  ];
  if (each.paused_on.length) facts.push(["Paused on", each.paused_on.join(", ")]);
  byId("detail-facts").replaceChildren(
    ...facts.flatMap(([name, text]) => [make("dt", { textContent: name }), make("dd", { textContent: String(text) })]),
  );
  const lines = each.subscriptions.map((one) => {
    const more = [one.ack, one.has_selector ? "with a selector" : "",
      one.unacknowledged ? `${one.unacknowledged} unacknowledged` : ""].filter(Boolean).join(", ");
    return make("li", {}, make("span", { className: "mono", textContent: one.destination }), ` (${more})`);
  });
  const left = each.subscription_count - lines.length;
  if (left > 0) lines.push(make("li", { textContent: `and ${left} more` }));
  byId("detail-subscriptions").replaceChildren(...(lines.length ? lines : [make("li", { textContent: "none" })]));
}

byId("detail-done").addEventListener("click", () => byId("detail").close());
byId("detail-end").addEventListener("click", async () => {
  byId("detail-end").disabled = true;
  try {
    await ask(`/api/connections/${encodeURIComponent(shown)}/close`, "POST");
    byId("detail-note").textContent = "Closed.";
    await connections.refresh();
  } catch (error) {
    byId("detail-note").textContent = error.message;
  }
});

// --- one queue

let shownQueue = "";
const ofQueue = (what = "") => `/api/queues/${encodeURIComponent(shownQueue)}${what}`;
async function openQueue(name) {
  shownQueue = name;
  byId("queue-title").textContent = name;
  byId("queue-facts").replaceChildren();
  byId("queue-consumers").replaceChildren();
  byId("queue-message").textContent = "";
  disarm();
  byId("queue").showModal();
  await refreshQueue();
}

async function refreshQueue() {
  const name = shownQueue;
  try {
    const each = await ask(ofQueue());
    if (shownQueue === name) showQueue(each);
  } catch (error) {
    byId("queue-message").textContent = error.message;
    byId("queue-requeue").disabled = byId("queue-purge").disabled = true;
  }
}

function showQueue(each) {
  const limits = [each.max_messages ? `${short(each.max_messages)} messages` : "",
    each.max_bytes ? bytes(each.max_bytes) : ""].filter(Boolean);
  const facts = [
    ["Owner", "worker " + each.owner], ["Messages", short(each.messages)], ["Ready in memory", short(each.ready)],
    ["On disk only", short(each.spilled)], ["Unsettled", short(each.unsettled)],
    ["Waiting for redelivery", short(each.resting)], ["Size", bytes(each.bytes)],
    ["Limits", limits.length ? `${limits.join(", ")}, then ${each.when_full}` : "none"],
    ["Dead letters go to", each.dead_letter || "nowhere"],
  ];
  if (each.topics) facts.push(["Takes copies of", each.topics]);
  byId("queue-facts").replaceChildren(
    ...facts.flatMap(([name, text]) => [make("dt", { textContent: name }), make("dd", { textContent: String(text) })]),
  );
  const lines = each.consumer_list.map((one) => {
    const more = [`worker ${one.worker}`, `${one.unsettled} of ${one.prefetch} unsettled`,
      one.exclusive ? "exclusive" : "", one.has_selector ? "with a selector" : ""].filter(Boolean).join(", ");
    return make("li", {}, make("span", { className: "mono", textContent: one.session || "unknown" }), ` (${more})`);
  });
  const left = each.consumers - lines.length;
  if (left > 0) lines.push(make("li", { textContent: `and ${left} more` }));
  byId("queue-consumers").replaceChildren(...(lines.length ? lines : [make("li", { textContent: "none" })]));
  byId("queue-requeue").disabled = byId("queue-purge").disabled = each.messages === each.unsettled;
}

// What cannot be undone takes a second click.
function disarm() {
  byId("queue-purge").dataset.armed = "";
  byId("queue-purge").textContent = "Throw all away";
}

async function order(what, done) {
  byId("queue-requeue").disabled = byId("queue-purge").disabled = true;
  byId("queue-message").textContent = "Working…";
  try {
    const answer = await ask(ofQueue("/" + what), "POST", 600000);
    byId("queue-message").textContent = `${short(answer.moved)} ${done}. ${answer.why}`;
  } catch (error) {
    byId("queue-message").textContent = error.message;
  }
  disarm();
  await refreshQueue();
}

byId("queue-requeue").addEventListener("click", () => order("requeue", "sent back"));
byId("queue-purge").addEventListener("click", () => {
  const button = byId("queue-purge");
  if (button.dataset.armed) {
    order("purge", "thrown away");
  } else {
    button.dataset.armed = "yes";
    button.textContent = "Yes, throw all away";
  }
});
byId("queue-done").addEventListener("click", () => byId("queue").close());

// --- colours

const THEMES = { "": ["◐", "as the system has them"], light: ["☀", "light"], dark: ["☾", "dark"] };
function setTheme(theme) {
  const [sign, name] = THEMES[theme];
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = sign;
  byId("theme").setAttribute("aria-label", "Colours: " + name);
  byId("theme").dataset.theme = theme;
  localStorage.setItem("theme", theme);
}
byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(byId("theme").dataset.theme) + 1) % names.length]);
});
const chosen = localStorage.getItem("theme");
setTheme(chosen in THEMES ? chosen : "");

turn();
