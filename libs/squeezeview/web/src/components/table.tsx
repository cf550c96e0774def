// Real tables: sorted by their heads, walked by arrows where rows can be opened.

import type { ComponentChildren, JSX, TargetedKeyboardEvent } from "preact";
import { useMemo, useRef, useState } from "preact/hooks";

export interface Column<Row> {
  head: string;
  unit?: string;
  title?: string;
  value: (row: Row) => number | string | null; // what is sorted by
  show?: (row: Row) => ComponentChildren;
  tone?: (row: Row) => number; // above 0 good, below 0 bad
  left?: boolean; // words stand left, numbers right
}

interface Props<Row> {
  label: string;
  columns: Column<Row>[];
  rows: Row[];
  keyOf: (row: Row) => string | number;
  sort?: { column: number; down: boolean };
  chosen?: string | number | null;
  onOpen?: (row: Row) => void;
  most?: number; // rows shown until one asks for the rest
}

export function DataTable<Row>(props: Props<Row>): JSX.Element {
  const { columns, rows, keyOf, onOpen, most = 300 } = props;
  const [sort, setSort] = useState(props.sort ?? null);
  const [all, setAll] = useState(false);
  const [current, setCurrent] = useState(0);
  const body = useRef<HTMLTableSectionElement>(null);
  const sorted = useMemo(() => {
    if (!sort) return rows;
    const { value } = columns[sort.column];
    const sign = sort.down ? -1 : 1;
    return [...rows].sort((a, b) => sign * compare(value(a), value(b)));
  }, [rows, columns, sort]);
  const shown = all ? sorted : sorted.slice(0, most);

  const walk = (event: TargetedKeyboardEvent<HTMLTableSectionElement>): void => {
    const index = Number((event.target as HTMLElement).closest("tr")?.dataset.index ?? -1);
    if (index < 0) return;
    const steps: Record<string, number> = {
      ArrowDown: index + 1,
      ArrowUp: index - 1,
      PageDown: index + 10,
      PageUp: index - 10,
      Home: 0,
      End: shown.length - 1,
    };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      onOpen?.(shown[index]);
    } else if (event.key in steps) {
      event.preventDefault();
      const next = Math.min(shown.length - 1, Math.max(0, steps[event.key]));
      setCurrent(next);
      body.current?.querySelectorAll<HTMLElement>("tr")[next]?.focus();
    }
  };

  return (
    <div class="scroll" role="region" aria-label={props.label} tabIndex={onOpen ? -1 : 0}>
      <table class={onOpen ? "data opens" : "data"}>
        <caption class="hidden">{props.label}</caption>
        <thead>
          <tr>
            {columns.map((column, index) => (
              <th
                key={column.head}
                scope="col"
                class={column.left ? "left" : ""}
                aria-sort={sort?.column === index ? (sort.down ? "descending" : "ascending") : "none"}
              >
                <button
                  type="button"
                  title={column.title ?? `Sort by ${column.head}`}
                  onClick={() =>
                    setSort({ column: index, down: sort?.column === index ? !sort.down : !column.left })
                  }
                >
                  {column.head}
                  {column.unit && <small> {column.unit}</small>}
                </button>
              </th>
            ))}
          </tr>
        </thead>
        <tbody ref={body} onKeyDown={onOpen ? walk : undefined}>
          {shown.map((row, index) => {
            const key = keyOf(row);
            const opens = onOpen && {
              tabIndex: index === Math.min(current, shown.length - 1) ? 0 : -1,
              "data-index": index,
              "data-key": key,
              "aria-selected": props.chosen === key,
              onFocus: () => setCurrent(index),
              onClick: () => onOpen(row),
            };
            return (
              <tr key={key} {...opens}>
                {columns.map((column) => {
                  const tone = column.tone?.(row) ?? 0;
                  return (
                    <td
                      key={column.head}
                      class={(column.left ? "left " : "") + (tone > 0 ? "good" : tone < 0 ? "bad" : "")}
                    >
                      {column.show ? column.show(row) : column.value(row)}
                    </td>
                  );
                })}
              </tr>
            );
          })}
        </tbody>
      </table>
      {shown.length < sorted.length && (
        <button type="button" class="more" onClick={() => setAll(true)}>
          Show all {sorted.length.toLocaleString("en-US")}
        </button>
      )}
    </div>
  );
}

function compare(a: number | string | null, b: number | string | null): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? -1 : 1;
  return typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : a - b;
}
