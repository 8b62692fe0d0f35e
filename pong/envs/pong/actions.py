"""What can be done in Pong."""

NOOP, FIRE, UP, DOWN, UP_FIRE, DOWN_FIRE = range(6)  # ALE's minimal action set; it calls UP and DOWN RIGHT and LEFT
ALE_ACTIONS = (DOWN, UP, NOOP, FIRE, UP_FIRE, DOWN_FIRE)  # indexed by our actions
NAMES = ("DOWN", "UP", "NOOP", "FIRE", "UP+FIRE", "DOWN+FIRE")  # likewise
