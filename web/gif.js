// A GIF of pictures of a few colours (Graphics Interchange Format, version 89a).

export function gif(pictures, palette, width, height, centiseconds) {
  const bits = Math.max(2, Math.ceil(Math.log2(palette.length)));
  const colors = Array.from({ length: 2 ** bits }, (_, i) => palette[i] ?? [0, 0, 0]).flat();
  const word = (n) => [n & 255, n >> 8];
  const parts = [
    [..."GIF89a"].map((c) => c.charCodeAt()), word(width), word(height), [0xf0 | (bits - 1), 0, 0], colors,
    [0x21, 0xff, 11], [..."NETSCAPE2.0"].map((c) => c.charCodeAt()), [3, 1, 0, 0, 0],
  ];
  for (const picture of pictures) {
    parts.push([0x21, 0xf9, 4, 0, ...word(centiseconds), 0, 0], [0x2c, 0, 0, 0, 0], word(width), word(height), [0, bits]);
    const data = compress(picture, bits);
    for (let i = 0; i < data.length; i += 255) parts.push([Math.min(255, data.length - i)], data.slice(i, i + 255));
    parts.push([0]);
  }
  return new Blob([...parts, [0x3b]].map((part) => Uint8Array.from(part)), { type: "image/gif" });
}

// Lempel, Ziv and Welch's codes of growing width.
function compress(pixels, bits) {
  const clear = 2 ** bits, bytes = [];
  let table, next, width, buffer = 0, filled = 0;
  const write = (code) => {
    buffer |= code << filled;
    filled += width;
    for (; filled >= 8; filled -= 8, buffer >>>= 8) bytes.push(buffer & 255);
  };
  const restart = () => { table = new Map(); next = clear + 2; width = bits + 1; };
  restart();
  write(clear);
  let prefix = pixels[0];
  for (const pixel of pixels.subarray(1)) {
    const key = prefix * 256 + pixel, code = table.get(key);
    if (code !== undefined) { prefix = code; continue; }
    write(prefix);
    prefix = pixel;
    if (next === 4096) { write(clear); restart(); continue; }
    if (next === 2 ** width) width += 1;
    table.set(key, next);
    next += 1;
  }
  write(prefix);
  write(clear + 1);
  bytes.push(buffer & 255);
  return bytes;
}
