"""The examples, as data, from T1 to T10: each a system, the ways to estimate its gradient, and the result by hand."""

from pong.toy.examples.arithmetic import INTEGERS, NO_MEASURE, NOT_A_NUMBER
from pong.toy.examples.ascent import T9, T9_COIN
from pong.toy.examples.bandits import T1, T2
from pong.toy.examples.baselines import T4_CONSTANT, T4_LEAKED, T5_BERNOULLI, T5_GAUSSIAN
from pong.toy.examples.gaussian import T3, T3_CONTEXT, T3_ONE_SAMPLE
from pong.toy.examples.mistakes import ATTACHED, BROADCAST, CLIPPED, MEAN_OF_STEPS, SIGN
from pong.toy.examples.pathwise import T7, T7_NARROW, T7_STEP
from pong.toy.examples.trajectories import T6, T6_DISCOUNTED, T8
from pong.toy.systems import Example

EXAMPLES: tuple[Example, ...] = (
    *(T1, T2),
    *(T3, T3_CONTEXT, T3_ONE_SAMPLE),
    *(T4_CONSTANT, T4_LEAKED),
    *(T5_BERNOULLI, T5_GAUSSIAN),
    *(T6, T6_DISCOUNTED),
    *(T7, T7_NARROW, T7_STEP),
    T8,
    *(T9, T9_COIN),
    *(SIGN, BROADCAST, ATTACHED, CLIPPED, MEAN_OF_STEPS, NO_MEASURE, INTEGERS, NOT_A_NUMBER),
)
