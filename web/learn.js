// Policy gradients on −log π·R, with backward written out: the recipe of configs/pong.toml.

import { BEFORE, NOW, Pong } from "./pong.js";
import { Random } from "./random.js";
import { Simd } from "./simd.js";

export const LAYOUT = { differences: [[NOW, BEFORE]], actions: 0, width: 6400 };
const MOST = 72; // numbers of a row that are not 0
const AVERAGE = 40; // more than their average
export const RECIPE = {
  seed: 1, games: 16, horizon: 256, hidden: 200, gamma: 0.99, rate: 2e-3, lastRate: 1e-4, entropy: 0.03,
  baselineHidden: 200, baselineRate: 3e-3, passes: 2, steps: 1e7,
  // the switches of "Why the log?"
  log: true, baseline: true, ownReturn: true, resetAtPoints: true, rateFactor: 1, sample: true,
};

// Two layers without biases: z = w · max(0, x·W), with Adam (Kingma & Ba 2015). `hidden` is a multiple of 8.
export class Network {
  constructor(simd, width, hidden, random, outputs) {
    const array = (length) => simd.array(Float32Array, length);
    Object.assign(this, { simd, width, hidden, stride: 4 * hidden, updates: 0 });
    this.W = array(width * hidden);
    this.w = array(hidden);
    this.W.forEach((_, i) => { this.W[i] = random.normal() / Math.sqrt(width); });
    this.w.forEach((_, i) => { this.w[i] = outputs * random.normal() / Math.sqrt(hidden); });
    [this.dW, this.mW, this.vW] = [1, 2, 3].map(() => array(width * hidden)); // gradient and moments
    [this.dw, this.mw, this.vw] = [1, 2, 3].map(() => array(hidden));
    this.h = array(hidden); // activations of the last row
    this.live = new Uint8Array(width); // columns that were ever not 0: all others have the gradient 0
  }

  // The output for row t of a stream.
  forward({ columns, signs, offsets }, t) {
    const at = 4 * offsets[t], size = 4 * offsets[t + 1] - at;
    const { W, w, h, stride } = this, row = [columns.byteOffset + at, signs.byteOffset + at, size, stride];
    return this.simd.forward(W.byteOffset, w.byteOffset, h.byteOffset, ...row);
  }

  // Add the gradient for row t, after its forward, from the loss's derivative by its output.
  backward({ columns, signs, offsets }, t, dz) {
    const at = 4 * offsets[t], size = 4 * offsets[t + 1] - at;
    const { dW, dw, w, h, stride } = this, row = [columns.byteOffset + at, signs.byteOffset + at, size, stride];
    for (let k = offsets[t]; k < offsets[t + 1]; k += 1) this.live[columns[k]] = 1;
    this.simd.backward(dW.byteOffset, dw.byteOffset, w.byteOffset, h.byteOffset, ...row, dz);
  }

  // Adam's step; the gradient is 0 afterwards.
  step(rate, epsilon) {
    this.updates += 1;
    const factors = [rate / (1 - 0.9 ** this.updates), Math.sqrt(1 - 0.999 ** this.updates), epsilon];
    const adam = (arrays, row) => {
      const places = arrays.map((array) => array.byteOffset + row * this.stride);
      this.simd.adam(...places, this.stride, 1 - 0.9, 1 - 0.999, ...factors);
    };
    const { W, dW, mW, vW, w, dw, mw, vw } = this;
    for (let row = 0; row < this.width; row += 1) if (this.live[row]) adam([W, dW, mW, vW], row);
    adam([w, dw, mw, vw], 0);
  }
}

// A game and the decisions in it that were not learned from yet.
class Stream {
  constructor(simd, seed, capacity) {
    this.game = new Pong({ seed });
    this.length = 0;
    this.score = 0;
    this.columns = simd.array(Int32Array, capacity * AVERAGE);
    this.signs = simd.array(Float32Array, capacity * AVERAGE);
    this.offsets = new Int32Array(capacity + 1);
    this.actions = new Uint8Array(capacity);
    this.rewards = new Int8Array(capacity);
    this.ends = new Uint8Array(capacity);
    this.returns = new Float32Array(capacity);
  }

  // Forget the first n decisions.
  forget(n) {
    const start = this.offsets[n], end = this.offsets[this.length];
    this.columns.copyWithin(0, start, end);
    this.signs.copyWithin(0, start, end);
    for (let t = n; t <= this.length; t += 1) this.offsets[t - n] = this.offsets[t] - start;
    for (const array of [this.actions, this.rewards, this.ends]) array.copyWithin(0, n, this.length);
    this.length -= n;
  }
}

export class Learner {
  constructor(settings = {}) {
    const s = { ...RECIPE, ...settings };
    this.settings = s;
    this.random = new Random(s.seed);
    const capacity = 8 * s.horizon; // decisions of a stream
    const numbers = 4 * LAYOUT.width * (s.hidden + s.baselineHidden) + 2 * AVERAGE * capacity * s.games;
    const simd = new Simd(4 * numbers + 1e6);
    this.policy = new Network(simd, LAYOUT.width, s.hidden, this.random, 1);
    this.value = new Network(simd, LAYOUT.width, s.baselineHidden, this.random, 0);
    this.streams = Array.from({ length: s.games }, () => new Stream(simd, this.random.uint32(), capacity));
    this.scores = []; // of the last 100 games
    this.games = this.steps = this.updates = 0;
  }

  // One update: play, then learn from the rallies that have ended. Returns statistics.
  update() {
    this.streams.forEach((stream) => this.play(stream));
    const batch = this.batch();
    const entropy = this.learn(batch);
    this.streams.forEach((stream, i) => stream.forget(batch.ends[i]));
    this.updates += 1;
    const mean = this.scores.reduce((sum, score) => sum + score, 0) / this.scores.length;
    return { updates: this.updates, steps: this.steps, games: this.games, mean, entropy };
  }

  play(stream) {
    const { game, columns, signs } = stream, { horizon, sample } = this.settings;
    for (let t = 0; t < horizon; t += 1) {
      const i = stream.length, start = stream.offsets[i];
      if (i === stream.actions.length || start + MOST > columns.length) return; // a rally without end
      stream.offsets[i + 1] = game.eyes.observe(LAYOUT, columns, signs, start);
      const up = sigmoid(this.policy.forward(stream, i));
      const action = Number(sample ? this.random.uniform() < up : up > 0.5);
      const reward = game.step(action);
      stream.actions[i] = action;
      stream.rewards[i] = reward;
      stream.ends[i] = Number(game.over);
      stream.length += 1;
      stream.score += reward;
      if (game.over) this.restart(stream);
    }
  }

  restart(stream) {
    this.scores.push(stream.score);
    if (this.scores.length > 100) this.scores.shift();
    this.games += 1;
    stream.score = 0;
    stream.game.start();
  }

  // Returns of the decisions whose rally has ended: how many of each stream, and of all.
  batch() {
    const { gamma, resetAtPoints, ownReturn } = this.settings;
    const ends = this.streams.map((stream) => {
      let last = stream.length;
      while (last > 0 && !stream.rewards[last - 1] && !stream.ends[last - 1]) last -= 1;
      let sum = 0;
      for (let t = last - 1; t >= 0; t -= 1) {
        if (stream.ends[t] || (resetAtPoints && stream.rewards[t])) sum = 0;
        sum = stream.rewards[t] + gamma * sum;
        stream.returns[t] = sum;
      }
      if (!ownReturn) stream.returns.fill(stream.rewards.subarray(0, last).reduce((a, b) => a + b, 0), 0, last);
      return last;
    });
    return { ends, rows: ends.reduce((a, b) => a + b, 0) };
  }

  // Gradient steps of policy and baseline on the batch; returns the mean entropy.
  learn(batch) {
    const { settings: s, policy, value } = this;
    this.steps += batch.rows;
    if (!batch.rows) return NaN;
    const targets = new Float32Array(batch.rows), advantages = new Float32Array(batch.rows);
    this.each(batch, (stream, t, row) => {
      targets[row] = stream.returns[t];
      advantages[row] = targets[row];
      if (!s.baseline) return;
      const predicted = value.forward(stream, t);
      advantages[row] -= predicted;
      value.backward(stream, t, 2 * (predicted - targets[row]) / batch.rows);
    });
    standardize(advantages);
    const done = Math.min(this.steps / s.steps, 1);
    const entropy = this.gradient(batch, advantages, s.entropy * (1 - done));
    policy.step(s.rateFactor * (s.rate + done * (s.lastRate - s.rate)), 1e-8);
    if (s.baseline) this.fit(batch, targets);
    return entropy;
  }

  // Add the gradient of −log π·A − bonus·H, averaged over the batch, to the policy's; returns the mean of H.
  gradient(batch, advantages, bonus) {
    const { policy, settings } = this;
    let sum = 0;
    this.each(batch, (stream, t, row) => {
      const z = policy.forward(stream, t);
      const p = sigmoid(z), y = stream.actions[t];
      const weight = settings.log ? 1 : y ? p : 1 - p; // ∇π = π·∇ log π
      const dz = -(y - p) * advantages[row] * weight + bonus * z * p * (1 - p);
      policy.backward(stream, t, dz / batch.rows);
      sum += (1 - p) * z + Math.log1p(Math.exp(-Math.abs(z))) + Math.max(-z, 0);
    });
    return sum / batch.rows;
  }

  // The baseline's steps on (predicted − return)²; the first one's gradient is there already.
  fit(batch, targets) {
    const { value, settings } = this;
    for (let pass = 0; pass < settings.passes; pass += 1) {
      if (pass) {
        this.each(batch, (stream, t, row) => {
          const error = value.forward(stream, t) - targets[row];
          value.backward(stream, t, 2 * error / batch.rows);
        });
      }
      value.step(settings.baselineRate, 1e-5);
    }
  }

  // Call f(stream, t, row) for each row of a batch.
  each(batch, f) {
    let row = 0;
    this.streams.forEach((stream, i) => {
      for (let t = 0; t < batch.ends[i]; t += 1, row += 1) f(stream, t, row);
    });
  }
}

export function sigmoid(z) {
  return 1 / (1 + Math.exp(-z));
}

// To mean 0 and standard deviation 1, or to 0 if all are equal.
export function standardize(x) {
  const mean = x.reduce((a, b) => a + b, 0) / x.length;
  const std = Math.sqrt(x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length);
  x.forEach((value, i) => { x[i] = std > 1e-6 ? (value - mean) / std : 0; });
}
