// ALE's random numbers: mt19937 (Matsumoto & Nishimura 1998).

export class Random {
  constructor(seed) {
    this.words = new Uint32Array(624);
    this.words[0] = seed;
    for (let i = 1; i < 624; i += 1) {
      const y = this.words[i - 1] ^ (this.words[i - 1] >>> 30);
      this.words[i] = Math.imul(1812433253, y) + i;
    }
    this.drawn = 624;
  }

  // An integer in [0, 2³²).
  uint32() {
    if (this.drawn === 624) this.twist();
    let y = this.words[this.drawn];
    this.drawn += 1;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  twist() {
    const { words } = this;
    for (let i = 0; i < 624; i += 1) {
      const y = (words[i] & 0x80000000) | (words[(i + 1) % 624] & 0x7fffffff);
      words[i] = words[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.drawn = 0;
  }

  // A number in [0, 1).
  uniform() {
    return this.uint32() / 2 ** 32;
  }

  // A standard normal number (Box & Muller 1958).
  normal() {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }
}
