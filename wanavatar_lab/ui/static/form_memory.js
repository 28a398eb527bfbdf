function render({ model, el }) {
  const ending = begin({ model, el }, "wl-form-memory");
  const name = model.get("key");
  const reset = element("button", { type: "button", className: "wl-link" });
  el.append(reset);

  if (!model.get("settled")) model.send({ kind: "remembered", values: memory.get(name) });
  reset.addEventListener("click", () => {
    memory.forget(name); // at once, in case that the page is left before the kernel answers
    model.send({ kind: "reset" });
  });
  follow(model, ending.signal, "words changed", () => {
    reset.textContent = say(model, "reset");
    el.hidden = !model.get("changed");
  });
  // only at a change: what the form begins with must not replace what is remembered
  const keep = () => (model.get("changed") ? memory.set(name, model.get("values")) : memory.forget(name));
  model.on("change:values", keep);
  ending.signal.addEventListener("abort", () => model.off("change:values", keep));
  return () => ending.abort();
}

export default { render };
