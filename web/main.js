// The page: a learner in a worker, games that show its policy, switches, and a match against an agent.

import { ALE } from "./generated/machine.js";
import { Agent } from "./agent.js";
import { Match, reach } from "./play.js";
import { HOLD, Pong } from "./pong.js";
import { Random } from "./random.js";
import { showCurve, showDifference, showScreen, showSmall, showUnits, strongest } from "./screen.js";
import { SWITCHES } from "./switches.js";

const $ = (id) => document.getElementById(id);
const NAMES = { pong_expert: "pong_expert (six actions)", pong: "pong (ten seconds of training)", karpathy: "karpathy (2016)" };
const GAMES = 17; // one large, the others small
const page = { agents: {}, points: [], marks: [], settings: {}, running: false };
export { page };

// --- learning ---------------------------------------------------------------------------------------------------------

function restart() {
  page.worker?.terminate();
  page.worker = new Worker("worker.js", { type: "module" });
  page.worker.onmessage = ({ data }) => learned(data);
  page.worker.onerror = (error) => say(`the learner failed: ${error.message}`);
  page.points = [];
  page.marks = [];
  page.random = new Random(Number($("seed").value));
  page.games = Array.from({ length: GAMES }, () => ({ game: new Pong({ seed: page.random.uint32() }), action: 0 }));
  page.posts = 0;
  page.even = undefined;
  page.worker.postMessage({ start: { seed: Number($("seed").value), ...page.settings }, run: page.running });
}

// Statistics and weights from the worker.
function learned({ stats, W, w }) {
  page.agents.learned = Agent.learned({ W, w });
  page.weights = { W, w, hidden: w.length };
  page.stats = stats;
  if (stats.games > 10) page.points.push(stats);
  const mean = stats.games > 10 ? stats.mean.toFixed(1).replace("-", "−") : "…";
  $("numbers").textContent = `${stats.steps.toLocaleString("en")} decisions, ${stats.games} games, score ${mean}`;
  if (stats.games >= 100 && stats.mean >= 0 && !page.even) {
    page.even = stats.steps;
    say(`It breaks even with the built-in opponent after ${stats.games} games.`);
  }
  if (page.posts % 10 === 0) page.units = strongest(page.weights, 4);
  page.posts += 1;
  showUnits($("units"), page.weights, page.units);
  showCurve($("curve"), page.points, page.marks);
}

function run(running) {
  page.running = running;
  $("run").textContent = running ? "Pause" : "Learn";
  page.worker.postMessage({ run: running });
}

// A frame of the 16 games.
function playFrame() {
  const agent = page.agents.learned;
  if (!agent) return;
  page.count = ((page.count ?? -1) + 1) % HOLD;
  page.games.forEach((each, i) => {
    const { game } = each;
    if (page.count === 0) {
      each.action = agent.choose(game.eyes, page.random);
      if (i === 0) {
        $("up").value = agent.last[1];
        $("up-text").textContent = `P(UP) = ${agent.last[1].toFixed(2)}`;
        showDifference($("difference"), agent.columns, agent.signs, agent.n);
      }
    }
    game.act(ALE[each.action]);
    if (page.count === HOLD - 1) {
      game.eyes.look(game.state, each.action);
      if (game.over) game.start();
      if (i) showSmall($("games"), game.eyes, (i - 1) % 8 * 84, Math.floor((i - 1) / 8) * 84);
    }
  });
  showScreen($("screen"), page.games[0].game.state);
}

// --- switches ---------------------------------------------------------------------------------------------------------

function makeSwitches() {
  for (const item of SWITCHES) {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.id = `switch-${item.key}`;
    label.append(box, ` ${item.name}`);
    box.onchange = () => ($("predict").checked && box.checked ? ask(item) : apply(item, box.checked));
    $("switches").append(label);
  }
}

// The question before the answer; closing it without one leaves the switch off.
function ask(item) {
  const dialog = $("dialog");
  $("question").textContent = item.question;
  $("answers").replaceChildren(...item.options.map((text, i) => {
    const button = document.createElement("button");
    button.textContent = text;
    button.onclick = () => dialog.close(i === item.answer ? "Right. " : "Not quite. ");
    return button;
  }));
  dialog.returnValue = "";
  dialog.onclose = () => (dialog.returnValue ? apply(item, true, dialog.returnValue) : ($(`switch-${item.key}`).checked = false));
  dialog.showModal();
}

function apply(item, on, verdict = "") {
  const settings = on ? item.on : item.off;
  Object.assign(page.settings, settings);
  page.worker.postMessage({ settings });
  page.marks.push({ steps: page.stats?.steps ?? 0, text: on ? item.name : `not: ${item.name}` });
  $("sentence").textContent = on ? `${verdict}${item.sentence} ${item.toy}` : "";
}

function working() {
  for (const item of SWITCHES) {
    const box = $(`switch-${item.key}`);
    if (box.checked) apply(item, box.checked = false);
  }
}

// --- the match --------------------------------------------------------------------------------------------------------

async function agent(name) {
  if (page.agents[name]) return page.agents[name];
  if (name === "learned") throw new Error("let it learn first");
  const answer = await fetch(`generated/${name}.bin`);
  if (!answer.ok) throw new Error(`there is no ${name}; build the page with make page`);
  return (page.agents[name] = Agent.read(await answer.arrayBuffer()));
}

async function startMatch() {
  try {
    const left = $("left").value, right = await agent($("right").value);
    page.match = new Match($("court"), ["you", "cartridge"].includes(left) ? left : await agent(left), right, Date.now() >>> 0);
    $("film").disabled = true;
    $("result").textContent = "";
    $("court").focus();
  } catch (error) {
    $("result").textContent = error.message;
  }
}

function matchFrame() {
  const { match } = page;
  if (!match || match.ended) return;
  match.ended = !match.frame();
  const [left, right] = match.score;
  $("film").disabled = !match.last;
  if (match.shown !== left + right) $("score").textContent = `${left} : ${right}`;
  match.shown = left + right;
  if (match.ended) $("result").textContent = left > right ? "The left side wins." : "The right side wins.";
}

async function openFile(file) {
  try {
    page.agents.file = Agent.read(await file.arrayBuffer());
    for (const side of [$("left"), $("right")]) if (!side.querySelector("[value=file]")) side.add(new Option("", "file"));
    for (const option of document.querySelectorAll("[value=file]")) option.text = `${page.agents.file.name} (your file)`;
    $("right").value = "file";
    $("result").textContent = `${file.name}: ready; press New game.`;
  } catch (error) {
    $("result").textContent = `${file.name}: ${error.message}`;
  }
}

function saveFilm() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(page.match.film());
  link.download = "rally.gif";
  link.click();
}

// --- the page ---------------------------------------------------------------------------------------------------------

function say(text) {
  $("status").textContent = text;
}

function show(tab) {
  for (const name of ["learn", "play"]) {
    $(name).hidden = name !== tab;
    $(`tab-${name}`).setAttribute("aria-selected", name === tab);
  }
  page.tab = tab;
}

function point(event) {
  const box = $("court").getBoundingClientRect();
  if (page.match?.left === "you") reach(page.match.knob, 210 * (event.clientY - box.top) / box.height);
}

function tick(now) {
  requestAnimationFrame(tick);
  page.due = Math.min((page.due ?? 0) + (now - (page.now ?? now)) * 60 / 1000, 4); // frames of the console's 60 a second
  page.now = now;
  for (; page.due >= 1; page.due -= 1) (page.tab === "learn" ? playFrame : matchFrame)();
}

function listen() {
  $("run").onclick = () => run(!page.running);
  $("restart").onclick = restart;
  $("working").onclick = working;
  $("new").onclick = startMatch;
  $("film").onclick = saveFilm;
  $("file").onchange = () => openFile($("file").files[0]);
  for (const name of ["learn", "play"]) $(`tab-${name}`).onclick = () => show(name);
  const court = $("court");
  court.onpointermove = point;
  court.onpointerdown = point;
  for (const type of ["keydown", "keyup"]) {
    addEventListener(type, (event) => {
      if (!page.match || page.tab !== "play" || event.target.matches?.("select, input, button")) return;
      if (event.key.startsWith("Arrow")) event.preventDefault();
      page.match.keys[type === "keydown" ? "add" : "delete"](event.key);
    });
  }
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    show("play");
    openFile(event.dataTransfer.files[0]);
  });
}

for (const [value, text] of Object.entries({ ...NAMES, learned: "the agent that has just learned" })) {
  for (const side of [$("left"), $("right")]) side.add(new Option(text, value));
}
makeSwitches();
listen();
show("learn");
restart();
requestAnimationFrame(tick);
