// A trained policy of two layers, from a file that `pong export --page` or scripts/page.py wrote, or from the learner.

import { LAYOUT, sigmoid } from "./learn.js";
import { HOLD } from "./pong.js";

export class Agent {
  // W (width, hidden), times `scales` (hidden,); w (outputs, hidden); actions: by number in ACTION_NAMES.
  // holds: the fewest and the most frames of a decision.
  constructor({ name, layout, sticky, holds, hidden }, scales, W, w) {
    Object.assign(this, { name, layout, sticky, holds, hidden, scales, W, w, outputs: w.length / hidden });
    this.columns = new Int32Array(256);
    this.signs = new Float32Array(256);
  }

  static learned({ W, w }) {
    const hidden = w.length, about = { name: "this page", layout: LAYOUT, sticky: 0.25, holds: [HOLD, HOLD], hidden };
    return new Agent(about, new Float32Array(hidden).fill(1), W, w);
  }

  // From the bytes of a file; throws an Error that says what is wrong.
  static read(buffer) {
    const wrong = new Error("this is not a file of pong export --page");
    const length = buffer.byteLength > 4 ? new DataView(buffer).getUint32(0, true) : 0;
    if (length < 2 || length % 4 || length > Math.min(buffer.byteLength - 4, 4096)) throw wrong;
    const about = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const { hidden, outputs, layout } = about, numbers = [hidden, outputs, layout?.width];
    const size = 4 + length + 4 * hidden * (1 + outputs) + hidden * layout?.width;
    if (!numbers.every(Number.isInteger) || buffer.byteLength !== size) throw wrong;
    const scales = new Float32Array(buffer, 4 + length, hidden);
    const w = new Float32Array(buffer, 4 + length + 4 * hidden, hidden * outputs);
    return new Agent(about, scales, new Int8Array(buffer, size - hidden * layout.width), w);
  }

  // Probabilities of the actions for what these eyes see.
  probabilities(eyes) {
    const { columns, signs, hidden, W, w, scales, outputs } = this, h = new Float32Array(hidden);
    this.n = eyes.observe(this.layout, columns, signs);
    for (let k = 0; k < this.n; k += 1) {
      const first = columns[k] * hidden;
      for (let j = 0; j < hidden; j += 1) h[j] += signs[k] * W[first + j];
    }
    const logits = Array.from({ length: outputs }, (_, a) => {
      let sum = 0;
      for (let j = 0; j < hidden; j += 1) sum += Math.max(h[j], 0) * scales[j] * w[a * hidden + j];
      return sum;
    });
    if (outputs === 1) return [1 - sigmoid(logits[0]), sigmoid(logits[0])];
    const most = Math.max(...logits), odds = logits.map((z) => Math.exp(z - most));
    const total = odds.reduce((a, b) => a + b, 0);
    return odds.map((x) => x / total);
  }

  // An action's number in ACTION_NAMES, sampled.
  choose(eyes, random) {
    this.last = this.probabilities(eyes);
    let left = random.uniform();
    const action = this.last.findIndex((p) => { left -= p; return left < 0; });
    return action < 0 ? this.last.length - 1 : action;
  }
}
