// The learner in a thread of its own: it posts statistics and weights, and takes settings at once.

import { Learner } from "./learn.js";

let learner, running = false, posted = 0;

onmessage = ({ data }) => {
  if (data.start) learner = new Learner(data.start);
  if (data.settings) Object.assign(learner.settings, data.settings);
  if (data.start || data.run !== undefined) {
    const wasRunning = running;
    running = data.run ?? running;
    if (data.start) post({ updates: 0, steps: 0, games: 0, mean: NaN, entropy: Math.log(2) });
    if (running && !wasRunning) turn();
  }
};

function turn() {
  if (!running) return;
  const stats = learner.update();
  if (performance.now() - posted > 200) post(stats);
  setTimeout(turn); // lets messages in
}

function post(stats) {
  const W = learner.policy.W.slice(), w = learner.policy.w.slice();
  posted = performance.now();
  postMessage({ stats, W, w }, [W.buffer, w.buffer]);
}
