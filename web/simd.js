// The arithmetic of two layers on sparse rows, four numbers at a time: WebAssembly, assembled from its text format here.

// W (width, hidden), w (hidden,), h (hidden,), of float32; `columns` and `signs` of a row's numbers; all addresses and
// `size`, of the numbers, and `stride`, of a row of W, are in bytes; a stride is a multiple of 32.
const SOURCE = `
(func $forward (param $W i32) (param $w i32) (param $h i32) (param $columns i32) (param $signs i32) (param $size i32)
    (param $stride i32) (result f32)
    (local $j i32) (local $k i32) (local $a i32) (local $s v128) (local $h0 v128) (local $h1 v128) (local $z v128)
  (loop
    (local.set $h0 (v128.zero)) (local.set $h1 (v128.zero)) (local.set $k (i32.const 0))
    (block (loop
      (br_if 1 (i32.ge_u (local.get $k) (local.get $size)))
      (local.set $a (i32.add (i32.add (local.get $W) (local.get $j))
        (i32.mul (local.get $stride) (i32.load (i32.add (local.get $columns) (local.get $k))))))
      (local.set $s (v128.load32_splat (i32.add (local.get $signs) (local.get $k))))
      (local.set $h0 (f32x4.add (local.get $h0) (f32x4.mul (local.get $s) (v128.load (local.get $a)))))
      (local.set $h1 (f32x4.add (local.get $h1) (f32x4.mul (local.get $s) (v128.load 16 (local.get $a)))))
      (local.set $k (i32.add (local.get $k) (i32.const 4)))
      (br 0)))
    (local.set $h0 (f32x4.max (local.get $h0) (v128.zero)))
    (local.set $h1 (f32x4.max (local.get $h1) (v128.zero)))
    (v128.store (i32.add (local.get $h) (local.get $j)) (local.get $h0))
    (v128.store 16 (i32.add (local.get $h) (local.get $j)) (local.get $h1))
    (local.set $a (i32.add (local.get $w) (local.get $j)))
    (local.set $z (f32x4.add (local.get $z) (f32x4.add
      (f32x4.mul (local.get $h0) (v128.load (local.get $a)))
      (f32x4.mul (local.get $h1) (v128.load 16 (local.get $a))))))
    (local.set $j (i32.add (local.get $j) (i32.const 32)))
    (br_if 0 (i32.lt_u (local.get $j) (local.get $stride))))
  (f32.add
    (f32.add (f32x4.lane 0 (local.get $z)) (f32x4.lane 1 (local.get $z)))
    (f32.add (f32x4.lane 2 (local.get $z)) (f32x4.lane 3 (local.get $z)))))

(func $backward (param $dW i32) (param $dw i32) (param $w i32) (param $h i32) (param $columns i32) (param $signs i32)
    (param $size i32) (param $stride i32) (param $dz f32)
    (local $j i32) (local $k i32) (local $a i32) (local $s v128) (local $h0 v128) (local $dz4 v128)
  (local.set $dz4 (f32x4.splat (local.get $dz)))
  (loop
    (local.set $h0 (v128.load (i32.add (local.get $h) (local.get $j))))
    (local.set $a (i32.add (local.get $dw) (local.get $j)))
    (v128.store (local.get $a) (f32x4.add (v128.load (local.get $a)) (f32x4.mul (local.get $dz4) (local.get $h0))))
    (local.set $h0 (v128.and (f32x4.gt (local.get $h0) (v128.zero))
      (f32x4.mul (local.get $dz4) (v128.load (i32.add (local.get $w) (local.get $j))))))
    (local.set $k (i32.const 0))
    (block (loop
      (br_if 1 (i32.ge_u (local.get $k) (local.get $size)))
      (local.set $a (i32.add (i32.add (local.get $dW) (local.get $j))
        (i32.mul (local.get $stride) (i32.load (i32.add (local.get $columns) (local.get $k))))))
      (local.set $s (v128.load32_splat (i32.add (local.get $signs) (local.get $k))))
      (v128.store (local.get $a)
        (f32x4.add (v128.load (local.get $a)) (f32x4.mul (local.get $s) (local.get $h0))))
      (local.set $k (i32.add (local.get $k) (i32.const 4)))
      (br 0)))
    (local.set $j (i32.add (local.get $j) (i32.const 16)))
    (br_if 0 (i32.lt_u (local.get $j) (local.get $stride)))))

(func $adam (param $x i32) (param $g i32) (param $m i32) (param $v i32) (param $size i32) (param $first f32)
    (param $second f32) (param $rate f32) (param $root f32) (param $epsilon f32)
    (local $j i32) (local $g4 v128) (local $m4 v128) (local $v4 v128) (local $a i32)
  (loop
    (local.set $g4 (v128.load (i32.add (local.get $g) (local.get $j))))
    (v128.store (i32.add (local.get $g) (local.get $j)) (v128.zero))
    (local.set $a (i32.add (local.get $m) (local.get $j)))
    (local.set $m4 (v128.load (local.get $a)))
    (local.set $m4 (f32x4.add (local.get $m4)
      (f32x4.mul (f32x4.splat (local.get $first)) (f32x4.sub (local.get $g4) (local.get $m4)))))
    (v128.store (local.get $a) (local.get $m4))
    (local.set $a (i32.add (local.get $v) (local.get $j)))
    (local.set $v4 (v128.load (local.get $a)))
    (local.set $v4 (f32x4.add (local.get $v4) (f32x4.mul (f32x4.splat (local.get $second))
      (f32x4.sub (f32x4.mul (local.get $g4) (local.get $g4)) (local.get $v4)))))
    (v128.store (local.get $a) (local.get $v4))
    (local.set $a (i32.add (local.get $x) (local.get $j)))
    (v128.store (local.get $a) (f32x4.sub (v128.load (local.get $a)) (f32x4.div
      (f32x4.mul (f32x4.splat (local.get $rate)) (local.get $m4))
      (f32x4.add (f32x4.div (f32x4.sqrt (local.get $v4)) (f32x4.splat (local.get $root)))
        (f32x4.splat (local.get $epsilon))))))
    (local.set $j (i32.add (local.get $j) (i32.const 16)))
    (br_if 0 (i32.lt_u (local.get $j) (local.get $size)))))
`;

const TYPES = { i32: 0x7f, f32: 0x7d, v128: 0x7b };
const SIMD = 0xfd;
const CODES = {
  "local.get": [0x20], "local.set": [0x21], "i32.const": [0x41], br: [0x0c], br_if: [0x0d],
  "i32.add": [0x6a], "i32.mul": [0x6c], "i32.lt_u": [0x49], "i32.ge_u": [0x4f], "f32.add": [0x92],
  "f32x4.splat": [SIMD, 0x13], "f32x4.lane": [SIMD, 0x1f], "f32x4.gt": [SIMD, 0x44], "v128.and": [SIMD, 0x4e],
  "f32x4.sqrt": [SIMD, 0xe3, 1], "f32x4.add": [SIMD, 0xe4, 1], "f32x4.sub": [SIMD, 0xe5, 1],
  "f32x4.mul": [SIMD, 0xe6, 1], "f32x4.div": [SIMD, 0xe7, 1], "f32x4.max": [SIMD, 0xe9, 1],
  "v128.zero": [SIMD, 0x0c, ...new Array(16).fill(0)],
};
const ACCESS = { "i32.load": [0x28], "v128.load": [SIMD, 0], "v128.load32_splat": [SIMD, 9], "v128.store": [SIMD, 11] };

// Nested lists of words.
function parse(text) {
  const stack = [[]];
  for (const token of text.match(/[()]|[^\s()]+/g)) {
    if (token === "(") stack.push([]);
    else if (token === ")") stack.at(-2).push(stack.pop());
    else stack.at(-1).push(token);
  }
  return stack[0];
}

function number(n) { // LEB128, of a number that is not negative
  const low = n & 0x7f, high = n >> 7;
  return high || low & 0x40 ? [low | 0x80, ...number(high)] : [low];
}

const sized = (bytes) => [...number(bytes.length), ...bytes];
const vector = (items) => [...number(items.length), ...items.flat()];
const section = (id, items) => [id, ...sized(vector(items))];
const name = (text) => sized([...new TextEncoder().encode(text)]);

function instruction([head, ...rest], locals) {
  const words = rest.filter((item) => typeof item === "string");
  const inner = rest.filter(Array.isArray).flatMap((item) => instruction(item, locals));
  if (head === "loop" || head === "block") return [head === "loop" ? 0x03 : 0x02, 0x40, ...inner, 0x0b];
  if (head in ACCESS) return [...inner, ...ACCESS[head], 2, ...number(Number(words[0] ?? 0))];
  return [...inner, ...CODES[head], ...words.flatMap((w) => number(w in locals ? locals[w] : Number(w)))];
}

function assemble(text) {
  const functions = parse(text).map(([, id, ...parts]) => {
    const of = (kind) => parts.filter((part) => part[0] === kind);
    const variables = [...of("param"), ...of("local")].map((part) => part[1]);
    const locals = Object.fromEntries(variables.map((variable, i) => [variable, i]));
    const body = parts.filter((part) => !["param", "local", "result"].includes(part[0]));
    const types = (kind, i) => of(kind).map((part) => [TYPES[part[i]]]);
    return {
      id: id.slice(1),
      type: [0x60, ...vector(types("param", 2)), ...vector(types("result", 1))],
      code: sized([...vector(types("local", 2).map((type) => [1, ...type])),
        ...body.flatMap((item) => instruction(item, locals)), 0x0b]),
    };
  });
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, functions.map((f) => f.type)),
    ...section(2, [[...name("js"), ...name("memory"), 2, 0, 1]]),
    ...section(3, functions.map((f, i) => number(i))),
    ...section(7, functions.map((f, i) => [...name(f.id), 0, ...number(i)])),
    ...section(10, functions.map((f) => f.code)),
  ]);
}

const MODULE = new WebAssembly.Module(assemble(SOURCE));

// The functions above, and arrays in their memory.
export class Simd {
  constructor(bytes) {
    this.memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
    Object.assign(this, new WebAssembly.Instance(MODULE, { js: { memory: this.memory } }).exports);
    this.used = 0;
  }

  array(Type, length) {
    const array = new Type(this.memory.buffer, this.used, length);
    this.used += Math.ceil(array.byteLength / 16) * 16;
    return array;
  }
}
