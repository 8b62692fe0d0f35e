// Pictures: the console's screen, difference frames, weights and curves.

import { ball_rows, round_up, SIDE } from "./generated/machine.js";
import { BIT, CPU_POINTS, DIGITS, FIELD_BOTTOM, FIELD_TOP, OWN_POINTS, PALETTE } from "./generated/screen.js";

export const WIDTH = 160, HEIGHT = 210;
const [, BACKGROUND, WALL, LEFT, RIGHT] = PALETTE.keys();

// The screen as (210, 160) numbers of PALETTE.
export function paint(state) {
  const pixels = new Uint8Array(WIDTH * HEIGHT).fill(BACKGROUND);
  const fill = (color, top, bottom, left, right) => {
    for (let y = top; y <= bottom; y += 1) pixels.fill(color, y * WIDTH + left, y * WIDTH + right + 1);
  };
  const inField = (color, top, bottom, left, right) => {
    fill(color, Math.max(top, FIELD_TOP), Math.min(bottom, FIELD_BOTTOM), left, right);
  };
  const number = (value, left, color) => {
    for (let bit = 0; bit < 15; bit += 1) {
      const top = 1 + BIT * Math.floor(bit / 3), start = left + BIT * (bit % 3);
      if (DIGITS[value % 10] >> (14 - bit) & 1) fill(color, top, top + BIT - 1, start, start + BIT - 1);
    }
    if (value > 9) number(Math.floor(value / 10), left - 4 * BIT, color);
  };
  fill(WALL, 24, FIELD_TOP - 1, 0, WIDTH - 1);
  fill(WALL, FIELD_BOTTOM + 1, HEIGHT - 1, 0, WIDTH - 1);
  number(state.cpu_points, CPU_POINTS, LEFT);
  number(state.own_points, OWN_POINTS, RIGHT);
  inField(LEFT, state.cpu_y - 15, state.cpu_y, 16, 19);
  inField(RIGHT, round_up(state.own_y) - 14, round_up(state.own_y) + 1, 140, 143);
  for (const column of [state.x - 49, state.x - 48]) inField(WALL, ...ball_rows(state, column), column, column);
  return pixels;
}

// Draw numbers through a palette of [red, green, blue] at a canvas's place.
export function blit(canvas, numbers, palette, width, x = 0, y = 0) {
  const image = new ImageData(width, numbers.length / width), pixels = new Uint32Array(image.data.buffer);
  const colors = palette.map(([red, green, blue]) => 0xff000000 | (blue << 16) | (green << 8) | red); // little-endian
  numbers.forEach((value, i) => { pixels[i] = colors[value]; });
  canvas.getContext("2d").putImageData(image, x, y);
}

export function showScreen(canvas, state) {
  blit(canvas, paint(state), PALETTE, WIDTH);
}

const GREYS = [[112, 112, 112], [255, 255, 255], [0, 0, 0]]; // unchanged, appeared, vanished
const SMALL = [[0, 0, 0], [236, 236, 236], [92, 186, 92], [213, 130, 74]];

// The difference frame that the policy sees.
export function showDifference(canvas, columns, signs, n) {
  const numbers = new Uint8Array(SIDE * SIDE);
  for (let k = 0; k < n; k += 1) if (columns[k] < SIDE * SIDE) numbers[columns[k]] = signs[k] > 0 ? 1 : 2;
  blit(canvas, numbers, GREYS, SIDE);
}

// A small picture of a game.
export function showSmall(canvas, eyes, x, y) {
  const numbers = new Uint8Array(SIDE * SIDE), frame = eyes.frames[3];
  for (let k = 1; k <= frame[0]; k += 1) {
    const column = frame[k] % SIDE;
    numbers[frame[k]] = column >= 70 && column < 72 ? 2 : column >= 8 && column < 10 ? 3 : 1;
  }
  blit(canvas, numbers, SMALL, SIDE, x, y);
}

// The numbers of the hidden units with the largest weights in and out.
export function strongest({ W, w, hidden }, count) {
  const strength = Array.from(w, (value, j) => {
    let sum = 0;
    for (let i = j; i < W.length; i += hidden) sum += W[i] * W[i];
    return Math.abs(value) * Math.sqrt(sum);
  });
  return [...strength.keys()].sort((a, b) => strength[b] - strength[a]).slice(0, count);
}

const DIVERGING = Array.from({ length: 255 }, (_, i) => { // −127 blue, 0 white, 127 red
  const pale = 255 - 2 * Math.abs(i - 127);
  return i > 127 ? [255, pale, pale] : [pale, pale, 255];
});

// Weights of hidden units: red raises the unit's output where something appears, blue lowers it.
export function showUnits(canvas, { W, hidden }, units) {
  units.forEach((j, place) => {
    const weights = Float32Array.from({ length: SIDE * SIDE }, (_, i) => W[i * hidden + j]);
    const most = weights.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
    const numbers = Uint8Array.from(weights, (value) => 127 + Math.round(127 * value / most));
    blit(canvas, numbers, DIVERGING, SIDE, place % 2 * (SIDE + 4), Math.floor(place / 2) * (SIDE + 4));
  });
}

// The mean score of 100 games over steps, with the marks {steps, text} of what was changed.
export function showCurve(canvas, points, marks) {
  const pen = canvas.getContext("2d"), { width, height } = canvas, style = getComputedStyle(canvas);
  const last = Math.max(points.at(-1)?.steps ?? 0, 5e5);
  const x = (steps) => 40 + (width - 50) * steps / last, y = (score) => 10 + (height - 35) * (21 - score) / 42;
  pen.clearRect(0, 0, width, height);
  pen.font = "12px sans-serif";
  pen.fillStyle = pen.strokeStyle = style.color;
  pen.lineWidth = 1;
  for (const score of [-21, -10, 0, 10, 21]) {
    pen.globalAlpha = score ? 0.25 : 0.8;
    line(pen, [[40, y(score)], [width - 10, y(score)]]);
    pen.globalAlpha = 1;
    pen.fillText(score > 0 ? `+${score}` : String(score).replace("-", "−"), 8, y(score) + 4);
  }
  pen.fillText(`${(last / 1e6).toFixed(1)} million decisions`, width - 150, height - 6);
  marks.forEach(({ steps, text }, i) => {
    line(pen, [[x(steps), 10], [x(steps), height - 25]]);
    pen.fillText(text, Math.min(x(steps) + 4, width - 160), 22 + 14 * (i % 4));
  });
  pen.strokeStyle = style.accentColor;
  pen.lineWidth = 2;
  line(pen, points.map(({ steps, mean }) => [x(steps), y(mean)]));
}

function line(pen, points) {
  pen.beginPath();
  points.forEach(([x, y]) => pen.lineTo(x, y));
  pen.stroke();
}
