function render({ model, el }) {
  const ending = begin({ model, el }, "wl-download");
  const link = element("a", { className: "wl-button" });
  const size = element("span", { className: "wl-download-size" });
  const place = element("code", { className: "wl-code" });
  el.append(link, size, place);
  follow(model, ending.signal, "words path version place name size", () => {
    const path = model.get("path");
    el.hidden = !model.get("place");
    link.hidden = !path || !servesFiles;
    link.textContent = say(model, "download", { name: model.get("name") });
    link.download = model.get("name");
    if (path) link.href = fileUrl(path, model.get("version"));
    size.textContent = model.get("size");
    place.textContent = model.get("place");
    place.hidden = !link.hidden; // where it can be downloaded, the path says nothing more
  });
  return () => ending.abort();
}

export default { render };
