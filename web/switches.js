// The switches of "Why the log?": what each changes, what one sees then, and where `pong toy` has its arithmetic.

export const SWITCHES = [
  {
    key: "log", name: "Drop the log", on: { log: false }, off: { log: true },
    question: "The loss becomes −π·R, so each sample's gradient is multiplied by π. What happens?",
    options: ["Nothing, except for the scale", "Rare actions are corrected less, so it learns more slowly"], answer: 1,
    sentence: "It learns much more slowly: π counts twice, so likely actions are reinforced more than rare better ones.",
    toy: "In T1 this even turns the gradient around: +0.064 instead of −0.16.",
  },
  {
    key: "baseline", name: "No baseline", on: { baseline: false }, off: { baseline: true },
    question: "Returns are used as they are, less their mean. What happens?",
    options: ["It learns the same, but more slowly", "It learns something else"], answer: 0,
    sentence: "It still learns, more slowly: the gradient's mean is the same, its noise is larger.",
    toy: "In T4 the right constant makes the variance 9 times smaller.",
  },
  {
    key: "ownReturn", name: "Credit every action with all rewards", on: { ownReturn: false }, off: { ownReturn: true },
    question: "Every decision of a game's batch is credited with the sum of all its rewards. What happens?",
    options: ["Almost nothing is learned", "It learns faster, as it sees more rewards"], answer: 0,
    sentence: "The score hardly moves: an action's own effect drowns in the rewards of all the other rallies.",
    toy: "In T6, rewards from before an action only add noise.",
  },
  {
    key: "resetAtPoints", name: "Returns run on across points", on: { resetAtPoints: false }, off: { resetAtPoints: true },
    question: "The points of later rallies, discounted, are credited to an action, too. What happens?",
    options: ["It learns nearly as well", "It can't learn"], answer: 0,
    sentence: "It learns nearly as well: later rallies do not depend on this one, so their points are a little noise.",
    toy: "T6 shows the same for rewards of the past.",
  },
  {
    key: "rate", name: "Learning rate × 10", on: { rateFactor: 10 }, off: { rateFactor: 1 },
    question: "Each step is ten times as long. What happens?",
    options: ["It learns ten times as fast", "It starts fast, then it stops exploring and gets stuck"], answer: 1,
    sentence: "It rises fast and then stays far below: P(UP) goes to 0 or 1, and what is never tried is never learned.",
    toy: "In T9 a learning rate of 1.1 jumps over the goal, further each time.",
  },
  {
    key: "sample", name: "Threshold instead of chance", on: { sample: false }, off: { sample: true },
    question: "The action is UP if P(UP) > 0.5, and never by chance. What happens?",
    options: ["It plays better, as it always takes the best action", "It learns nothing"], answer: 1,
    sentence: "From random weights it learns nothing: it never tries the other action.",
    toy: "In T2 the log π of the likeliest action has every sign wrong.",
  },
];
