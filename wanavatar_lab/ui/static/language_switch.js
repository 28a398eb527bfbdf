function render({ model, el }) {
  const ending = begin({ model, el }, "wl-language");
  const text = element("span");
  const choice = element("select", {}, ...Object.entries(model.get("names")).map(([value, name]) =>
    element("option", { value, textContent: name, lang: value })));
  el.append(element("label", { className: "wl-row" }, text, choice));
  follow(model, ending.signal, "words code", () => {
    text.textContent = say(model, "language");
    choice.value = model.get("code");
    // Voilà's page has this language; Lab's page keeps its own
    if (inVoila) document.documentElement.lang = model.get("code");
  });
  choice.addEventListener("change", () => {
    model.set("code", choice.value);
    model.save_changes();
  });
  return () => ending.abort();
}

export default { render };
