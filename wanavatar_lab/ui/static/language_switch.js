function render({ model, el }) {
  const ending = begin({ model, el }, "wl-language");
  const text = element("span");
  const names = model.get("names");
  const choice = element("select", {}, ...Object.entries(names).map(([value, name]) =>
    element("option", { value, textContent: name, lang: value })));
  el.append(element("label", { className: "wl-row" }, text, choice));

  // the first page of a kernel: what was chosen here before, else the first language of the browser that there is
  if (!model.get("settled")) {
    const wanted = [memory.get("language"), ...navigator.languages.map((tag) => tag.split("-")[0].toLowerCase())];
    model.set("code", wanted.find((code) => code in names) ?? model.get("code"));
    model.set("settled", true);
    model.save_changes();
  }
  follow(model, ending.signal, "words code", () => {
    text.textContent = say(model, "language");
    choice.value = model.get("code");
    // Voilà's page has this language; Lab's page keeps its own
    if (inVoila) document.documentElement.lang = model.get("code");
  });
  choice.addEventListener("change", () => {
    memory.set("language", choice.value);
    model.set("code", choice.value);
    model.save_changes();
  });
  return () => ending.abort();
}

export default { render };
