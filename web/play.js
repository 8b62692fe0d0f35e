// Two players: a person, an agent or the cartridge's opponent at the left, an agent at the right.

import * as machine from "./generated/machine.js";
import { gif } from "./gif.js";
import { BEFORE, Eyes, NOW, Pong } from "./pong.js";
import { blit, HEIGHT, paint, WIDTH } from "./screen.js";
import { PALETTE } from "./generated/screen.js";
import { Random } from "./random.js";

const REMEMBERED = 900; // frames of a rally, at most, in a film of 30 frames/s

// Turn a knob towards a line of the screen, as a mouse does.
export function reach(knob, row) {
  const line = Math.min(Math.max(row + 8, 38), 198), iterations = (line - machine.FIRST_LINE) / machine.LOOP_LINES;
  const cycles = machine.CYCLES_BEFORE + iterations * machine.LOOP_CYCLES;
  const pot = cycles * machine.CHARGE_OHMS / machine.CHARGE_CYCLES;
  knob.pot = Math.min(Math.max(Math.round(pot), machine.POT_LOWEST), machine.POT_HIGHEST);
}

// An agent at its side: it sees the game, decides, and holds its action for some frames.
class Player {
  constructor(agent, game, mirrored) {
    Object.assign(this, { agent, game, mirrored, eyes: new Eyes(), action: -1, left: 0 });
  }

  // The action of this frame, by its number in ACTION_NAMES.
  act(random) {
    if (this.left === 0) {
      this.look();
      const [fewest, most] = this.agent.holds;
      this.left = fewest + Math.floor(random.uniform() * (most + 1 - fewest));
      this.action = this.agent.choose(this.eyes, random);
    }
    this.left -= 1;
    return this.action;
  }

  // A mirrored player sees left and right exchanged.
  look() {
    this.eyes.look(this.game.state, this.action);
    if (!this.mirrored) return;
    const frame = this.eyes.frames[NOW], last = machine.SIDE - 1;
    frame.set(frame.subarray(1, 1 + frame[0]).map((p) => p + last - 2 * (p % machine.SIDE)).sort(), 1);
    if (this.action < 0) this.eyes.frames[BEFORE].set(frame);
  }
}

export class Match {
  // left: an Agent, "you" or "cartridge"; right: an Agent.
  constructor(canvas, left, right, seed) {
    Object.assign(this, { canvas, left, right, knob: left === "cartridge" ? null : {}, count: 0, rally: [] });
    if (this.knob) machine.reset(this.knob);
    this.game = new Pong({ seed, sticky: right.sticky });
    this.random = new Random(seed + 1);
    this.players = [left, right].map((agent, side) => agent.choose && new Player(agent, this.game, side === 0));
    this.keys = new Set();
  }

  get score() {
    return [this.game.state.cpu_points, this.game.state.own_points];
  }

  // Play and show a frame; true while the game goes on.
  frame() {
    const { game, knob, players: [left, right] } = this;
    if (game.over) return false;
    const action = left ? machine.ALE[left.act(this.random)] : this.pressed();
    const reward = game.act(machine.ALE[right.act(this.random)], knob, action);
    this.count += 1;
    const picture = paint(game.state);
    this.remember(picture, reward);
    blit(this.canvas, picture, PALETTE, WIDTH);
    return !game.over;
  }

  pressed() {
    const [up, down] = [["ArrowUp", "w"], ["ArrowDown", "s"]].map((names) => names.some((key) => this.keys.has(key)));
    return up === down ? machine.NOOP : up ? machine.UP : machine.DOWN;
  }

  // Keep every second frame since the last point.
  remember(picture, reward) {
    if (this.count % 2 === 0) this.rally.push(picture);
    if (this.rally.length > REMEMBERED) this.rally.shift();
    if (!reward) return;
    this.last = this.rally;
    this.rally = [];
  }

  // The film of the last rally that ended.
  film() {
    return gif(this.last, PALETTE, WIDTH, HEIGHT, 3);
  }
}
