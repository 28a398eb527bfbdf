// Pictures of files that the page does not serve: asked for when they come into view, and kept while the view lives.

function thumbnails(model, signal) {
  const urls = new Map(); // by id: a URL, "" where there is no picture, null while it is asked for
  const waiting = new Set(); // images that are to be filled, with their ids
  const players = new Map(); // by id: who waits for a clip
  const fill = (image) => {
    const url = urls.get(image.dataset.thumbnail);
    if (url) image.src = url;
    else if (url === "") image.dispatchEvent(new Event("error"));
    if (url !== null && url !== undefined) waiting.delete(image);
  };
  const seen = new IntersectionObserver((changes) => {
    for (const { isIntersecting, target } of changes) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      const id = target.dataset.thumbnail;
      waiting.add(target);
      if (!urls.has(id)) {
        urls.set(id, null);
        model.send({ kind: "thumbnail", id });
      }
      fill(target);
    }
  }, { rootMargin: "200px" });
  hear(model, signal, ({ kind, id, type }, buffers) => {
    if (kind !== "thumbnail" && kind !== "clip") return;
    const url = buffers?.length ? URL.createObjectURL(new Blob([buffers[0]], { type })) : "";
    if (url) signal.addEventListener("abort", () => URL.revokeObjectURL(url));
    if (kind === "clip") return players.get(id)?.(url);
    urls.set(id, url);
    for (const image of [...waiting]) if (image.dataset.thumbnail === id) fill(image);
  });
  signal.addEventListener("abort", () => seen.disconnect());
  return {
    // whether a file has to be asked for
    needed: (path) => !servesFiles || !path,
    image(id, without) {
      const image = element("img", { alt: "", draggable: false });
      image.addEventListener("error", () => image.replaceWith(without()));
      this.ask(image, id);
      return image;
    },
    ask(image, id) {
      image.dataset.thumbnail = id;
      seen.observe(image);
    },
    play(id, take) {
      players.set(id, take);
      model.send({ kind: "clip", id });
    },
  };
}
