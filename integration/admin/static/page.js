"use strict";

const SPENT = {
  useful: "work at the mean load", prefill: "lost to prefill", sequences: "lost to sequences",
  kv: "lost to KV tokens", padding: "lost to padding", idle: "idle",
};
const LOST = ["prefill", "sequences", "kv", "padding"];
const QUIET_MS = 5000, RETRY_MS = 3000, SPEAK_MS = 30000, ROWS = 10;
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");

const page = {
  meta: null, history: [], now: null, span: 300, paused: false, drawn: -1,
  heard: 0, lostAt: null, cursors: { time: null, pool: null },
};

// Numbers in words

function short(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${trimmed(value / 1e6, digits)} M`;
  if (size >= 1e4) return `${trimmed(value / 1e3, digits)} k`;
  return size >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : trimmed(value, digits);
}
function trimmed(value, digits) { return String(Number(value.toPrecision(digits))); }
function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value < 1 ? `${trimmed(value * 1e3, 3)} ms` : value < 120 ? `${trimmed(value, 3)} s` : `${Math.round(value / 60)} min`;
}
function percent(share) { return Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "–"; }
function ago(value) { return value < 1.5 ? "now" : value < 120 ? `${Math.round(value)} s ago` : `${Math.round(value / 60)} min ago`; }
function many(count, one, more = `${one}s`) { return `${short(count)} ${count === 1 ? one : more}`; }
function total(list) { return list.reduce((sum, each) => sum + each, 0); }

// Elements

function say(element, text) { if (element.textContent !== text) element.textContent = text; }
function make(name, fields = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(fields)) {
    if (key === "text") element.textContent = value; else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}
function draw(name, fields) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(fields)) element.setAttribute(key, value);
  return element;
}
// Rows stay the same elements while their number does, so that selections and focus last.
function fill(body, rows, labels, classes = []) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, at) => {
    const row = body.rows[at] ?? body.insertRow();
    cells.forEach((text, column) => {
      const cell = row.children[column] ?? row.appendChild(
        column ? make("td", { class: classes[column] ?? "number", "data-label": labels[column] }) : make("th", { scope: "row" }));
      say(cell, text);
    });
  });
}

// The stream

function take(data, fresh) {
  page.heard = performance.now();
  if (fresh) { page.meta = data; page.history = []; page.drawn = -1; }
  if (!page.meta) return;
  const { first, spent, counts, held, kv_tokens: kv } = data.history;
  held.forEach((count, i) => {
    const number = first + i, last = page.history.at(-1);
    if (last && number <= last.number) return;
    page.history.push({
      number, held: count, spent: spent.map((row) => row[i]), counts: counts.map((row) => row[i]), kv: kv.map((row) => row[i]),
    });
  });
  page.history.splice(0, Math.max(page.history.length - page.meta.buckets, 0));
  page.now = data;
  if (!page.paused) show(fresh);
}

function connect() {
  const source = new EventSource("/events");
  source.addEventListener("snapshot", (event) => { connected(); take(JSON.parse(event.data), true); });
  source.addEventListener("tick", (event) => { connected(); take(JSON.parse(event.data), false); });
  source.onerror = () => {
    lost();
    if (source.readyState === EventSource.CLOSED) { source.close(); setTimeout(connect, RETRY_MS); }
  };
}
function connected() {
  page.heard = performance.now();
  if (page.lostAt !== null) { speak("Connected again."); page.lostAt = null; }
  document.body.classList.remove("stale");
  $("lost").hidden = true;
  state(page.paused ? "paused" : "live", page.paused ? "Paused" : "Live");
}
function lost() {
  if (page.lostAt === null) {
    page.lostAt = new Date();
    $("lost").textContent = `The connection is lost since ${page.lostAt.toLocaleTimeString()}. What you see is as of then. Trying again.`;
    $("lost").hidden = false;
  }
  document.body.classList.add("stale");
  state("lost", "Connection lost");
}
function state(name, text) { $("state").dataset.state = name; say($("state-text"), text); }
function speak(text) { say($("spoken"), text); }

// What is shown

function shown() { return page.history.slice(-Math.round(page.span / page.meta.bucket_s)); }
function recent(spanS) { return page.history.slice(-Math.max(1, Math.round(spanS / page.meta.bucket_s))); }
function sums(buckets) { return page.meta.spent.map((_, row) => total(buckets.map((each) => each.spent[row]))); }
function lostShare(buckets) {
  const spent = sums(buckets), steps = total(spent) - spent.at(-1);
  return steps > 0 ? total(LOST.map((part) => spent[page.meta.spent.indexOf(part)])) / steps : NaN;
}
function rate(buckets, name) {
  return buckets.length ? total(buckets.map((each) => each.counts[page.meta.counts.indexOf(name)])) / (buckets.length * page.meta.bucket_s) : NaN;
}

function show(everything) {
  showFacts();
  const newest = page.history.at(-1)?.number ?? -1;
  const moved = everything || newest !== page.drawn;
  // With reduced motion nothing moves more than once a second.
  if (moved || !still.matches) showWorkers();
  if (!moved) return;
  page.drawn = newest;
  showTime();
  showPool();
  showShadows();
  showSlow();
  showFaults();
}

function showFacts() {
  const now = page.now, minute = recent(60), pair = (two) => (two ? `${seconds(two[0])} · ${seconds(two[1])}`.replace(/ (ms|s)( · .* \1)$/, "$2") : "–");
  const facts = {
    live: short(now.live), held: short(now.pool.held),
    tokens: short(rate(minute, "tokens")), ttft: pair(now.ttft_s), tpot: pair(now.tpot_s), lost: percent(lostShare(minute)),
  };
  for (const [name, text] of Object.entries(facts)) say(document.querySelector(`[data-fact="${name}"]`), text);
  const about = page.meta.about, parts = [about.policy && `routes by ${about.policy}`, about.back_end, about.version && `version ${about.version}`];
  say($("about"), parts.filter(Boolean).join(", "));
}

function spark(row, values) {
  const top = Math.max(1, ...page.history.flatMap((each) => each.kv));
  const seen = Math.round(page.span / page.meta.bucket_s), step = 100 / Math.max(seen - 1, 1), from = seen - values.length;
  row.querySelector(".spark path").setAttribute("d", values.map((value, i) => `${i ? "L" : "M"}${((from + i) * step).toFixed(2)} ${(23 - (22 * (value ?? 0)) / top).toFixed(2)}`).join(""));
}
function workerRow(body) {
  const row = body.insertRow(), svg = draw("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(draw("path", {}));
  row.append(
    make("th", { scope: "row" }, make("span", { class: "name" }), make("span", { class: "tag" })),
    make("td", { class: "bar-cell" }, make("div", { class: "bar" }, make("div", { class: "track", "aria-hidden": "true" }, make("div", { class: "fill" })), make("span"))),
    make("td", { class: "line-cell" }, svg), make("td", { class: "number" }), make("td", { class: "number" }));
  return row;
}
function showWorkers() {
  const body = $("worker-table").tBodies[0], buckets = shown();
  const there = page.now.workers.map((each, index) => ({ ...each, index })).filter((each) => each.state !== "gone");
  const loads = there.map((each) => each.kv_tokens), top = Math.max(1, ...loads);
  while (body.rows.length > there.length) body.deleteRow(-1);
  there.forEach((worker, at) => {
    const row = body.rows[at] ?? workerRow(body);
    row.classList.toggle("fullest", worker.kv_tokens === top && there.length > 1);
    row.classList.toggle("down", worker.state === "down");
    say(row.querySelector(".name"), worker.name);
    say(row.querySelector(".tag"), worker.state === "up" ? "" : worker.why ? `${worker.state}: ${worker.why}` : worker.state);
    row.querySelector(".fill").style.transform = `scaleX(${worker.kv_tokens / top})`;
    say(row.querySelector(".bar span"), short(worker.kv_tokens));
    say(row.cells[3], short(worker.reserved));
    say(row.cells[4], short(worker.backlog));
    spark(row, buckets.map((each) => each.kv[worker.index]));
  });
  const mean = total(loads) / Math.max(loads.length, 1);
  say($("worker-sentence"), total(loads) ? `The fullest worker holds ${short(top)} KV tokens, ${trimmed(top / mean, 3)} times the mean.` : "No worker holds any KV tokens.");
}

// Pictures: one path per band, in a box of 1000 by 100 that is stretched

function frame(name, buckets, top, labels) {
  const plot = $(`${name}-plot`);
  const svg = draw("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  const seen = Math.round(page.span / page.meta.bucket_s), at = (i) => (1000 * (seen - buckets.length + i)) / seen;
  const band = (below, above, kind) => {
    const steps = (values, order) => order.map((i) => [[at(i), values[i]], [at(i + 1), values[i]]]).map((two, n) => (order[0] > order.at(-1) ? two.reverse() : two)).flat();
    const forth = buckets.map((_, i) => i), back = [...forth].reverse();
    const points = [...steps(above, forth), ...steps(below, back.length > 1 ? back : [0].slice(0, back.length))];
    svg.append(draw("path", { class: kind, d: points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${(100 - (100 * y) / top).toFixed(2)}`).join("") + "Z" }));
  };
  plot.replaceChildren(svg, ...labels.map(([y, text]) => {
    const label = make("span", { class: "y", "aria-hidden": "true", text });
    label.style.top = `${100 * (1 - y / top)}%`;
    return label;
  }), make("span", { class: "x from", "aria-hidden": "true", text: ago(page.span) }), make("span", { class: "x to", "aria-hidden": "true", text: "now" }));
  for (const [y] of labels) svg.append(draw("line", { class: "grid", x1: 0, x2: 1000, y1: 100 - (100 * y) / top, y2: 100 - (100 * y) / top }));
  const column = page.cursors[name];
  if (column !== null) svg.append(draw("line", { class: "cursor", x1: at(column + 0.5), x2: at(column + 0.5), y1: 0, y2: 100 }));
  return band;
}
const TELL = {
  time: (each) => page.meta.spent.map((part, row) => [part, each.spent[row]]).filter(([, ms]) => ms >= 0.5)
    .map(([part, ms]) => `${SPENT[part]} ${percent(ms / total(each.spent))}`).join(", "),
  pool: (each) => `${many(each.held, "request")} held, ${each.counts[1]} came, ${each.counts[2]} ended`,
};
function read(name, column) {
  const buckets = shown(), plot = $(`${name}-plot`);
  if (!buckets.length) return;
  const at = Math.min(Math.max(column, 0), buckets.length - 1);
  page.cursors[name] = at;
  const text = `${ago((buckets.length - at) * page.meta.bucket_s)}: ${TELL[name](buckets[at])}.`;
  say($(`${name}-readout`), text);
  const fields = { "aria-valuemax": buckets.length - 1, "aria-valuenow": at, "aria-valuetext": text };
  for (const [key, value] of Object.entries(fields)) plot.setAttribute(key, value);
}
function rereads(name) {
  const plot = $(`${name}-plot`), redraw = { time: showTime, pool: showPool }[name];
  const to = (column) => { if (page.meta) { read(name, column); redraw(); } };
  plot.addEventListener("pointermove", (event) => {
    if (!page.meta) return;
    const box = plot.getBoundingClientRect(), seen = Math.round(page.span / page.meta.bucket_s);
    to(Math.floor((seen * (event.clientX - box.left)) / box.width) - seen + shown().length);
  });
  plot.addEventListener("pointerleave", () => { if (document.activeElement !== plot) { page.cursors[name] = null; if (page.meta) redraw(); } });
  plot.addEventListener("keydown", (event) => {
    if (!page.meta) return;
    const last = shown().length - 1, now = page.cursors[name] ?? last;
    const moves = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageDown: now - 10, PageUp: now + 10, Home: 0, End: last };
    if (event.key === "Escape") { page.cursors[name] = null; redraw(); return; }
    if (event.key in moves) { event.preventDefault(); to(moves[event.key]); }
  });
}
function tabled(table, heads, rows) {
  if (!table.tHead.rows.length) table.tHead.insertRow().append(...heads.map((text, i) => make("th", { scope: "col", class: i ? "number" : "", text })));
  fill(table.tBodies[0], rows, heads);
}
function parts(buckets) {
  const size = Math.max(1, Math.ceil(buckets.length / ROWS)), found = [];
  for (let end = buckets.length; end > 0; end -= size) found.push([(buckets.length - end) * page.meta.bucket_s, buckets.slice(Math.max(end - size, 0), end)]);
  return found;
}

function showTime() {
  const buckets = shown(), names = page.meta.spent, band = frame("time", buckets, 1, [[0, "0"], [0.5, "50 %"], [1, "100 %"]]);
  let below = buckets.map(() => 0);
  names.forEach((part, row) => {
    const above = buckets.map((each, i) => below[i] + each.spent[row] / Math.max(total(each.spent), 1e-9));
    if (part !== "idle" && buckets.length) band(below, above, part);
    below = above;
  });
  const spent = sums(buckets), all = total(spent), share = lostShare(buckets), legend = $("time-legend");
  names.forEach((part, row) => {
    const item = legend.children[row] ?? legend.appendChild(make("li", {}, make("span", { class: `swatch ${part}`, "aria-hidden": "true" }), make("span")));
    say(item.lastChild, `${SPENT[part]} ${percent(spent[row] / all)}`);
  });
  const worst = LOST.map((part) => [spent[names.indexOf(part)], part]).sort((a, b) => b[0] - a[0])[0];
  say($("time-sentence"), Number.isFinite(share)
    ? `While the ranks stepped, ${percent(share)} of the time was lost at the barrier, where all wait for the slowest${worst[0] > 0 ? `: most of it to ${{ kv: "KV tokens" }[worst[1]] ?? worst[1]}` : ""}.`
    : "Nothing runs.");
  tabled($("time-table"), ["Up to", ...names.map((part) => SPENT[part])], parts(buckets).map(([end, some]) => [ago(end), ...sums(some).map((ms) => percent(ms / total(sums(some))))]));
}

function showPool() {
  const buckets = shown(), held = buckets.map((each) => each.held), most = Math.max(0, ...held);
  const top = Math.max(4, most), band = frame("pool", buckets, top, [[0, "0"], [top, short(top)]]);
  if (buckets.length) band(held.map(() => 0), held, "pool-area");
  const now = page.now.pool;
  say($("pool-sentence"), `${now.held ? `${many(now.held, "request waits", "requests wait")}, the oldest for ${seconds(now.oldest_s)}` : "No request waits"}, ${most} at most in the time shown. ${short(rate(recent(60), "arrived"))} came and ${short(rate(recent(60), "ended"))} ended per second in the last minute, ${many(total(recent(60).map((each) => each.counts[3])), "was refused", "were refused")}.`);
  tabled($("pool-table"), ["Up to", "Held", "Came", "Ended", "Refused"], parts(buckets).map(([end, some]) => [ago(end), short(Math.max(...some.map((each) => each.held))), ...[1, 2, 3].map((row) => short(total(some.map((each) => each.counts[row]))))]));
}

function showShadows() {
  const found = page.now.shadows, own = found.find((each) => each.routes);
  $("shadow-scroll").hidden = !found.length;
  say($("shadow-sentence"), found.length ? "What each would have cost with the same requests, by the same model of the ranks. Compare rows with each other, not with what was measured." : "No shadow routers run.");
  const against = (each) => (each.routes ? "routes" : own?.tpot_s && each.tpot_s ? `${each.tpot_s >= own.tpot_s ? "+" : "−"}${percent(Math.abs(each.tpot_s / own.tpot_s - 1))}` : "–");
  const labels = ["Router", "Per token", "Difference", "First token", "Tokens/s", "Lost", "Behind"];
  const body = $("shadow-table").tBodies[0];
  fill(body, found.map((each) => [`${each.policy}, ${each.mode}${each.note ? ` (${each.note})` : ""}`, seconds(each.tpot_s), against(each), seconds(each.ttft_s), short(each.tokens_per_s), percent(each.lost_share ?? NaN), seconds(each.behind_s)]), labels);
  found.forEach((each, at) => {
    body.rows[at].classList.toggle("routes", each.routes);
    const cell = body.rows[at].cells[2], text = cell.textContent;
    cell.classList.toggle("worse", text.startsWith("+")); cell.classList.toggle("better", text.startsWith("−"));
  });
}

function showSlow() {
  const rows = page.now.slow;
  $("slow-scroll").hidden = !rows.length;
  say($("slow-sentence"), rows.length ? "Those that waited longest for their first token, in the last minutes." : "None has ended yet.");
  fill($("slow-table").tBodies[0], rows.map((each) => [each.name, seconds(each.ttft_s), seconds(each.held_s), seconds(each.tpot_s), short(each.prompt_tokens), short(each.output_tokens), each.worker ?? "none", `${each.end}, ${ago(each.ago_s)}`]),
    ["Request", "First token", "Of it held", "Per token", "Prompt", "Output", "Worker", "End"], [null, null, null, null, null, null, "text", "text"]);
}

function showFaults() {
  const rows = page.now.faults, list = $("fault-list");
  say($("fault-sentence"), rows.length ? `The latest ${rows.length}, newest first.` : "None.");
  while (list.children.length > rows.length) list.lastChild.remove();
  rows.forEach((each, at) => {
    const item = list.children[at] ?? list.appendChild(make("li", {}, make("strong"), make("span"), make("span", { class: "when" })));
    [each.kind, ` ${each.text}`, ` ${each.times > 1 ? `${each.times} times, last ` : ""}${ago(each.ago_s)}`].forEach((text, i) => say(item.children[i], text));
  });
}

function summary() {
  if (!page.now || page.lostAt !== null || page.paused) return;
  speak(`${many(page.now.live, "request")} in progress, ${short(page.now.pool.held)} held, ${percent(lostShare(recent(60)))} of step time lost at the barrier, ${many(page.now.faults.length, "fault")}.`);
}

$("pause").addEventListener("click", () => {
  page.paused = !page.paused;
  $("pause").setAttribute("aria-pressed", String(page.paused));
  if (page.lostAt === null) state(page.paused ? "paused" : "live", page.paused ? "Paused" : "Live");
  if (!page.paused && page.now) show(true);
});
$("span").addEventListener("change", (event) => {
  page.span = Number(event.target.value);
  page.cursors = { time: null, pool: null };
  if (page.now) show(true);
});
["time", "pool"].forEach(rereads);
setInterval(() => { if (page.heard && performance.now() - page.heard > QUIET_MS) lost(); }, 1000);
setInterval(summary, SPEAK_MS);
connect();
