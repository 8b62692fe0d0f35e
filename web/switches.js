// The switches of "Why the log?": what each changes, what one sees then, and where its arithmetic is (pong toy).

export const SWITCHES = [
  {
    key: "log", name: "Drop the log", on: { log: false }, off: { log: true }, toy: "T1",
    question: "The loss becomes −π·R. The gradient is then multiplied by π. What happens?",
    options: ["Nothing: the log only changes the scale", "Likely actions are reinforced more, rare ones less"], answer: 1,
    sentence: "TODO",
  },
];
