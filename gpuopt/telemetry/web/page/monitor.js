// Takes the samples of the monitor and shows them. Names come from drivers, processes and runs:
// they are only ever written as text.

import { draw, forget } from "./chart.js";

const UNAVAILABLE = "n/a";
const GIB = 2 ** 30;
const SILENT_S = 30;

const element = (id) => document.getElementById(id);
const cards = new Map();
let newest = 0; // time of the newest sample
let hasEnded = false;
let heardAt = performance.now();

// --- what is shown of a sample -----------------------------------------------------------------

const is = (value) => value !== null && value !== undefined;
const number = (value, digits = 0) => (is(value) ? value.toFixed(digits) : UNAVAILABLE);
const percent = (ratio) => (is(ratio) ? `${number(100 * ratio)} %` : UNAVAILABLE);
const gib = (bytes) => (is(bytes) ? bytes / GIB : null);
const plain = (value, unit) => (is(value) ? `${number(value)} ${unit}` : UNAVAILABLE);

function ofAll(used, total, unit, digits = 0) {
  if (!is(used)) return UNAVAILABLE;
  return `${number(used, digits)}${is(total) ? ` / ${number(total, digits)}` : ""} ${unit}`;
}

function bytesPerSecond(value) {
  if (!is(value)) return UNAVAILABLE;
  return value >= 1e9 ? `${number(value / 1e9, 1)} GB/s` : `${number(value / 1e6, 1)} MB/s`;
}

function energy(joules) {
  if (!is(joules)) return UNAVAILABLE;
  return joules >= 3600 ? `${number(joules / 3600, 2)} Wh` : `${number(joules)} J`;
}

function throttling(device, seconds) {
  if (!is(device.throttle_reasons)) return UNAVAILABLE;
  const words = new Set([...Object.keys(seconds), ...device.throttle_reasons]);
  const parts = [...words].map((word) => {
    const now = device.throttle_reasons.includes(word) ? " (now)" : "";
    return `${word} ${number(seconds[word] ?? 0)} s${now}`;
  });
  return parts.join(", ") || "no";
}

function ecc(device) {
  if (!is(device.ecc_corrected) && !is(device.ecc_uncorrected)) return UNAVAILABLE;
  return `${number(device.ecc_corrected)} corrected, ${number(device.ecc_uncorrected)} not`;
}

function link(device) {
  if (!is(device.pcie_generation)) return UNAVAILABLE;
  return `generation ${device.pcie_generation} × ${is(device.pcie_width) ? device.pcie_width : "?"}`;
}

function traffic(device) {
  const received = bytesPerSecond(device.pcie_received_bytes_per_s);
  const sent = bytesPerSecond(device.pcie_sent_bytes_per_s);
  return received === UNAVAILABLE && sent === UNAVAILABLE ? UNAVAILABLE : `${received} in, ${sent} out`;
}

// Each card: a title, charts as [label, words, value, ceiling], facts as [label, words].
function describeDevice(device, sample) {
  const seconds = sample.throttled_s[device.index] ?? {};
  const used = device.memory_used_bytes, total = device.memory_total_bytes;
  return {
    title: sample.devices.length ? `GPU ${device.index}  ${device.name ?? UNAVAILABLE}` : "no GPU",
    charts: [
      ["utilisation", percent(device.utilisation_ratio), device.utilisation_ratio, 1],
      ["memory", ofAll(gib(used), gib(total), "GiB", 1), gib(used), gib(total)],
      ["power", ofAll(device.power_w, device.power_limit_w, "W"), device.power_w, device.power_limit_w],
      ["temperature", plain(device.temperature_c, "°C"), device.temperature_c, 100],
      [
        "SM clock",
        ofAll(device.sm_clock_mhz, device.sm_clock_limit_mhz, "MHz"),
        device.sm_clock_mhz,
        device.sm_clock_limit_mhz,
      ],
      ["memory busy", percent(device.memory_utilisation_ratio), device.memory_utilisation_ratio, 1],
    ],
    facts: [
      ["throttled", throttling(device, seconds)],
      ["energy", energy(sample.used_j[device.index])],
      ["memory clock", plain(device.memory_clock_mhz, "MHz")],
      ["memory temperature", plain(device.memory_temperature_c, "°C")],
      ["fan", percent(device.fan_ratio)],
      ["encoder, decoder", `${percent(device.encoder_ratio)}, ${percent(device.decoder_ratio)}`],
      ["PCIe link", link(device)],
      ["PCIe traffic", traffic(device)],
      ["ECC errors", ecc(device)],
    ],
    processes: device.processes ?? [],
  };
}

function describeHost(host) {
  const used = host.memory_used_bytes, total = host.memory_total_bytes;
  return {
    title: "host",
    charts: [
      ["CPU", percent(host.cpu_ratio), host.cpu_ratio, 1],
      ["memory", ofAll(gib(used), gib(total), "GiB", 1), gib(used), gib(total)],
    ],
    facts: [],
    processes: [],
  };
}

function describeRun(training) {
  const names = Object.keys(training).sort();
  const words = (value) => (is(value) ? String(Number(value.toPrecision(5))) : UNAVAILABLE);
  const charts = names.map((name) => [name, words(training[name]), training[name], null]);
  return { title: "run", charts, facts: [], processes: [] };
}

// --- cards -------------------------------------------------------------------------------------

function card(key) {
  if (!cards.has(key)) {
    const root = element("card").content.cloneNode(true).firstElementChild;
    root.dataset.card = key;
    cards.set(key, { root, charts: new Map(), facts: new Map() });
    element("cards").append(root);
  }
  return cards.get(key);
}

function chart(shown, label) {
  if (!shown.charts.has(label)) {
    const root = element("chart").content.cloneNode(true).firstElementChild;
    root.dataset.chart = label;
    root.querySelector("canvas").ariaLabel = `${label}, the last minutes`;
    root.querySelector(".label").textContent = root.querySelector(".label").title = label;
    shown.root.querySelector(".charts").append(root);
    shown.charts.set(label, { root, points: [], ceiling: null });
  }
  return shown.charts.get(label);
}

function fact(shown, label) {
  if (!shown.facts.has(label)) {
    const name = document.createElement("dt"), value = document.createElement("dd");
    name.textContent = label;
    shown.root.querySelector("dl").append(name, value);
    shown.facts.set(label, value);
  }
  return shown.facts.get(label);
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function show(key, description, time) {
  const shown = card(key);
  write(shown.root.querySelector("h2"), description.title);
  for (const [label, words, value, ceiling] of description.charts) {
    const drawn = chart(shown, label);
    write(drawn.root.querySelector(".value"), words);
    drawn.points.push({ time, value: is(value) ? value : null });
    if (is(ceiling)) drawn.ceiling = ceiling; // that of a device that is lost stays
    forget(drawn.points);
  }
  for (const [label, words] of description.facts) write(fact(shown, label), words);
  showProcesses(shown.root.querySelector("table"), description.processes);
}

function showProcesses(table, processes) {
  table.hidden = !processes.length;
  const rows = processes.map((process) => {
    const row = document.createElement("tr");
    const memory = gib(process.memory_used_bytes);
    for (const text of [
      process.name ?? UNAVAILABLE,
      String(process.pid),
      is(memory) ? `${number(memory, 1)} GiB` : UNAVAILABLE,
    ]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      row.append(cell);
    }
    return row;
  });
  table.querySelector("tbody").replaceChildren(...rows);
}

// --- samples -----------------------------------------------------------------------------------

function take(sample) {
  if (sample.time_s < newest) clear(); // the clock was set, or a replayed log went on earlier
  newest = sample.time_s;
  const devices = sample.devices.length ? sample.devices : [{ index: 0 }];
  for (const device of devices) show(`gpu${device.index}`, describeDevice(device, sample), newest);
  show("host", describeHost(sample.host), newest);
  if (Object.keys(sample.training).length) show("run", describeRun(sample.training), newest);
}

function clear() {
  for (const { charts } of cards.values()) {
    for (const drawn of charts.values()) drawn.points = [];
  }
}

function tell(kind, text) {
  const state = element("state");
  state.className = `state ${kind}`;
  write(state, text);
}

// A log may be of another day.
function timeText(time) {
  const isOfToday = time.toDateString() === new Date().toDateString();
  return isOfToday ? time.toLocaleTimeString() : time.toLocaleString();
}

let isDue = false;
function redraw() {
  if (isDue) return; // many samples come at once in the beginning
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    if (newest) write(element("time"), timeText(new Date(1000 * newest)));
    for (const { charts } of cards.values()) {
      for (const { root, points, ceiling } of charts.values()) {
        draw(root.querySelector("canvas"), points, ceiling);
      }
    }
  });
}

const source = new EventSource("samples");
source.addEventListener("message", (event) => {
  heardAt = performance.now();
  take(JSON.parse(event.data));
  tell("live", "live");
  redraw();
});
source.addEventListener("lost", (event) => {
  const notice = element("notice");
  notice.hidden = false;
  write(notice, `${JSON.parse(event.data).samples} samples came too late for this page`);
});
source.addEventListener("end", () => {
  hasEnded = true;
  source.close();
  tell("ended", "the monitor has ended");
});
source.addEventListener("error", () => {
  if (hasEnded) return;
  const isRefused = source.readyState === EventSource.CLOSED;
  tell("lost", isRefused ? "refused: open the address that the monitor printed" : "not connected, trying again");
});
setInterval(() => {
  const silent = performance.now() - heardAt > 1000 * SILENT_S;
  if (silent && source.readyState === EventSource.OPEN) tell("waiting", "no new sample");
}, 5000);
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
