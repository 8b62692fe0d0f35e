// What tests/test_page.py checks in the browser; it posts one report.

import * as machine from "./generated/machine.js";
import { Learner } from "./learn.js";
import { BEFORE, NOTHING, NOW, Pong } from "./pong.js";
import { Random } from "./random.js";
import { PALETTE } from "./generated/screen.js";
import { SWITCHES } from "./switches.js";

const SEED = 7;
const bytes = async (path) => (await fetch(path)).arrayBuffer();

async function frames(path, left) {
  const expected = new Int32Array(await bytes(path)), fields = machine.FIELDS.length;
  const game = new Pong({ seed: SEED }), random = new Random(SEED + 1), total = expected.length / fields;
  for (let t = 0; t < total; t += 1) {
    const word = random.uint32(), { y, own_y, cpu_y } = game.state, k = Math.floor(t * 3 / total);
    const [action, leftAction] = [[word, own_y], [Math.floor(word / 6), cpu_y]].map(([number, paddle]) => {
      const follow = y < paddle ? machine.UP : machine.DOWN;
      return [number % 6, follow, follow + 2][k];
    });
    game.act(action, left, leftAction);
    const state = { ...game.state, ale_drawn: game.random.drawn, gym_drawn: expected[t * fields + fields - 1] };
    const wrong = machine.FIELDS.find((name, i) => Number(state[name]) !== expected[t * fields + i]);
    if (wrong) return `frame ${t}: ${wrong} is ${state[wrong]}`;
    if (game.over) machine.reset(game.state);
  }
  return `${total} equal`;
}

async function rows() {
  const expected = new Int32Array(await bytes("rows")), width = 2 * (4 * machine.MOST + 1) + 1, most = (width - 1) / 2;
  const game = new Pong({ seed: SEED }), random = new Random(SEED + 1), total = expected.length / width;
  const layout = { differences: [[NOW, NOTHING], [NOW, BEFORE]], actions: 6 };
  const columns = new Int32Array(most), signs = new Float32Array(most);
  for (let t = 0; t < total; t += 1) {
    const n = game.eyes.observe(layout, columns, signs), row = expected.subarray(t * width, (t + 1) * width);
    if (n !== row[0]) return `row ${t} has ${n} numbers, not ${row[0]}`;
    for (let k = 0; k < n; k += 1) {
      if (columns[k] !== row[1 + k] || signs[k] !== row[1 + most + k]) return `row ${t}, number ${k}`;
    }
    game.step(random.uint32() % 6);
    if (game.over) game.start();
  }
  return `${total} equal`;
}

async function gradient() {
  const given = await (await fetch("gradient")).json();
  const learner = new Learner({ games: 1, horizon: 500, hidden: 40, baselineHidden: 8 }), [stream] = learner.streams;
  learner.policy.W.set(given.W);
  learner.policy.w.set(given.w);
  for (const name of ["columns", "signs", "offsets", "actions"]) stream[name].set(given[name]);
  stream.length = 500;
  learner.gradient({ ends: [500], rows: 500 }, Float32Array.from(given.advantages), 0.03);
  return { W: [...learner.policy.dW], w: [...learner.policy.dw] };
}

function learned() {
  const learner = new Learner({ seed: 3 });
  let first;
  for (;;) {
    const { mean, games, updates } = learner.update();
    if (games >= 100) first ??= mean;
    if (updates === 250) return [first, mean];
  }
}

// Weights after a few updates with some settings.
function weights(settings) {
  const learner = new Learner({ seed: 5, hidden: 16, baselineHidden: 16, games: 4, ...settings });
  for (let i = 0; i < 4; i += 1) learner.update();
  return String(learner.policy.w);
}

const wait = (seconds) => new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });

async function opened(errors) {
  const frame = document.createElement("iframe");
  frame.src = "index.html";
  document.body.append(frame);
  await new Promise((resolve) => { frame.onload = resolve; });
  frame.contentWindow.addEventListener("error", (event) => errors.push(event.message));
  frame.contentWindow.console.error = (...text) => errors.push(text.join(" "));
  await wait(1);
  return frame.contentWindow;
}

function switches(window) {
  const $ = (id) => window.document.getElementById(id), plain = weights({});
  $("predict").checked = false;
  return Object.fromEntries(SWITCHES.map(({ key, on, off }) => {
    $(`switch-${key}`).click();
    const sentence = $("sentence").textContent.length > 20;
    $("working").click();
    const back = !$(`switch-${key}`).checked && $("sentence").textContent === "";
    return [key, { same: weights(on) === plain, sentence, back: back && weights({ ...on, ...off }) === plain }];
  }));
}

// Lines of the left paddle at the start, after UP, and after DOWN; and the film of a rally.
async function match(window, { page }) {
  const press = async (key, seconds) => {
    window.dispatchEvent(new window.KeyboardEvent("keydown", { key }));
    await wait(seconds);
    window.dispatchEvent(new window.KeyboardEvent("keyup", { key }));
    return page.match.game.state.cpu_y;
  };
  window.document.getElementById("tab-play").click();
  window.document.getElementById("new").click();
  while (!page.match) await wait(0.1);
  const keys = [page.match.knob.own_y, await press("ArrowUp", 1), await press("ArrowDown", 2)];
  while (!page.match.last) page.match.frame();
  const last = page.match.last.at(-1), bytes = [...new Uint8Array(await page.match.film().arrayBuffer())];
  const sample = [...last].filter((_, i) => i % (160 * 7) === 0).map((value) => PALETTE[value]);
  return { keys, film: { bytes, frames: page.match.last.length, sample } };
}

const errors = [];
let report;
try {
  const window = await opened(errors), main = await window.eval('import("./main.js")');
  const left = {};
  machine.reset(left);
  report = { frames: await frames("frames"), duel: await frames("duel", left), rows: await rows() };
  Object.assign(report, { gradient: await gradient(), learned: learned() });
  Object.assign(report, { switches: switches(window) }, await match(window, main));
} catch (error) {
  errors.push(`${error.stack}`);
}
await fetch("report", { method: "POST", body: JSON.stringify({ ...report, errors }) });
