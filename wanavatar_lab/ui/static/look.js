// A file dropped outside every drop zone: the browser would open it, and unsaved input would be lost.

function render({ model }) {
  const ending = new AbortController();
  // on the window, so that drop zones, Lab's file browser among them, handle the event first
  for (const kind of ["dragover", "drop"]) {
    window.addEventListener(kind, (event) => {
      if (event.defaultPrevented || !event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "none"; // the pointer shows that nothing takes it here
    }, { signal: ending.signal });
  }
  // after the first paint: the kernel makes the remaining widgets when it receives this
  requestAnimationFrame(() => setTimeout(() => {
    if (ending.signal.aborted || model.get("drawn")) return;
    model.set("drawn", true);
    model.save_changes();
  }));
  return () => ending.abort();
}

export default { render };
