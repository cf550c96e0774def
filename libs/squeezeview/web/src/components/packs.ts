// Packs: columns of integers, delta-coded and deflated, unpacked by the browser itself.

export interface PackedColumn {
  name: string;
  unit: string;
  scale: number;
}

export interface Pack {
  count: number;
  columns: PackedColumn[];
  data: string; // base64 of deflate of the columns' differences, zigzag LEB128
}

export interface Columns {
  readonly count: number;
  readonly units: Readonly<Record<string, string>>;
  readonly values: Readonly<Partial<Record<string, Float64Array>>>; // by the columns' names
}

export const EMPTY: Columns = { count: 0, units: {}, values: {} };

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

export async function inflate(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Unpack a pack whose base64 stands in it. */
export async function unpack(pack: Pack): Promise<Columns> {
  return pack.count === 0 ? decode(pack, new Uint8Array()) : decode(pack, await inflate(fromBase64(pack.data)));
}

/** Read the columns one after the other: sums of differences, divided by the column's scale. */
export function decode(pack: Pack, bytes: Uint8Array): Columns {
  const values: Record<string, Float64Array> = {};
  const units: Record<string, string> = {};
  let at = 0;
  for (const column of pack.columns) {
    const out = new Float64Array(pack.count);
    let sum = 0;
    for (let i = 0; i < pack.count; i++) {
      // The lowest bit is the sign. It is taken off before the rest is added up, so that 2^53 still fits a double.
      let byte = bytes[at++];
      const negative = byte & 1;
      let size = (byte & 127) >> 1;
      for (let place = 64; byte > 127; place *= 128) {
        byte = bytes[at++];
        size += (byte & 127) * place;
      }
      sum += negative ? -size - 1 : size;
      out[i] = sum;
    }
    if (column.scale !== 1) for (let i = 0; i < pack.count; i++) out[i] /= column.scale;
    values[column.name] = out;
    units[column.name] = column.unit;
  }
  if (at !== bytes.length) throw new Error(`a pack held ${bytes.length} bytes, its ${pack.count} rows ended at ${at}`);
  return { count: pack.count, units, values };
}
