// A value that is watched: who shows it is told when it changes.

import { useEffect, useState } from "preact/hooks";

export class Watched<T> {
  private readonly listeners = new Set<() => void>();

  constructor(private value: T) {}

  get(): T {
    return this.value;
  }

  set(value: T): void {
    if (value === this.value) return;
    this.value = value;
    for (const listener of this.listeners) listener();
  }

  on(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

export function useWatched<T>(watched: Watched<T>): T {
  const [, again] = useState(0);
  useEffect(() => watched.on(() => again((n) => n + 1)), [watched]);
  return watched.get();
}
