// A game of Pong with its random numbers and what a policy observes of it. The rules are in generated/machine.js.

import * as machine from "./generated/machine.js";
import { Random } from "./random.js";

const PIXELS = machine.SIDE * machine.SIDE;
export const NOTHING = 0, BEFORE = 2, NOW = 3; // frames that are kept, as in pong/observations.py
export const HOLD = 4; // frames a decision
const LIMIT = 65209; // frames, after which the console's clock runs out

// What a player sees: the pixels of the last frames, and its last action.
export class Eyes {
  constructor() {
    this.frames = [0, 1, 2, 3].map(() => new Int16Array(1 + machine.MOST));
    this.lastAction = -1; // a number of ACTION_NAMES; negative: none
  }

  // Remember the frame that a decision led to; without one a game starts, and its earlier frame equals this one.
  look(state, action = -1) {
    const frame = this.frames[BEFORE];
    this.frames[BEFORE] = this.frames[NOW];
    this.frames[NOW] = frame;
    machine.draw(state, frame);
    this.lastAction = action;
    if (action < 0) this.frames[BEFORE].set(frame);
  }

  // Write the numbers of an observation that are not 0, from n on; returns the next n.
  observe({ differences, actions }, columns, signs, n = 0) {
    differences.forEach(([now, old], p) => {
      n = subtract(this.frames[now], this.frames[old], p * PIXELS, columns, signs, n);
    });
    if (actions && this.lastAction >= 0) {
      columns[n] = differences.length * PIXELS + this.lastAction;
      signs[n] = 1;
      n += 1;
    }
    return n;
  }
}

export class Pong {
  // sticky: probability that a frame repeats the previous action.
  constructor({ seed = 0, sticky = 0.25 } = {}) {
    this.random = new Random(seed);
    this.threshold = Math.fround(sticky) * 2 ** 32;
    this.state = Object.fromEntries(machine.FIELDS.map((name) => [name, 0]));
    this.eyes = new Eyes();
    this.start();
  }

  start() {
    machine.reset(this.state);
    this.eyes.look(this.state);
  }

  get over() {
    const { own_points, cpu_points, frames } = this.state;
    return own_points === machine.WINNING_POINTS || cpu_points === machine.WINNING_POINTS || frames >= LIMIT;
  }

  // One frame with one of ALE's actions, or the previous one, of each player; returns points won minus points lost.
  act(action, left, leftAction) {
    const [sticky, leftSticky] = [0, 0].map(() => this.random.uint32() < this.threshold);
    if (!sticky) this.state.action = action;
    if (left && !leftSticky) left.action = leftAction;
    if (this.over) return 0;
    this.state.frames += 1;
    return machine.frame(this.state, this.state.action, left, left?.action);
  }

  // One decision, an action's number in ACTION_NAMES, held for four frames.
  step(action) {
    let reward = 0;
    for (let k = 0; k < HOLD; k += 1) reward += this.act(machine.ALE[action]);
    this.eyes.look(this.state, action);
    return reward;
  }
}

// One frame minus another, both as ascending lists of pixels.
function subtract(now, old, first, columns, signs, n) {
  let i = 1, j = 1;
  while (i <= now[0] || j <= old[0]) {
    const a = i <= now[0] ? now[i] : PIXELS, b = j <= old[0] ? old[j] : PIXELS;
    if (a !== b) {
      columns[n] = first + Math.min(a, b);
      signs[n] = a < b ? 1 : -1;
      n += 1;
    }
    if (a <= b) i += 1;
    if (b <= a) j += 1;
  }
  return n;
}
