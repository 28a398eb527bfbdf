// Draws a waveform: `at` is the playhead, `from` and `to` the selected part, all as fractions of the whole.
function drawWave(canvas, peaks, { at = 0, from = 0, to = 1 }) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !height) return;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(name).trim();
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  if (from > 0 || to < 1) {
    context.globalAlpha = 0.15;
    context.fillStyle = colour("--wl-accent");
    context.fillRect(from * width, 0, (to - from) * width, height);
    context.globalAlpha = 1;
  }
  const loudest = Math.max(0.05, ...peaks);
  const column = width / Math.max(1, peaks.length);
  peaks.forEach((peak, index) => {
    const place = (index + 0.5) / peaks.length;
    const half = Math.max(0.5, (peak / loudest) * (height / 2 - 3));
    context.fillStyle = colour(place < from || place > to ? "--wl-line" : place <= at ? "--wl-accent" : "--wl-soft");
    context.fillRect(index * column, height / 2 - half, Math.max(0.75, column - 0.5), 2 * half);
  });
  context.fillStyle = colour("--wl-bad");
  context.fillRect(Math.min(at * width, width - 2), 0, 2, height);
}

// Draws now, while the medium plays, and whenever the canvas is resized, the theme changes or the medium seeks.
function keepDrawn(canvas, medium, signal, draw) {
  let frame = 0;
  const loop = () => {
    draw();
    frame = medium.paused || medium.ended ? 0 : requestAnimationFrame(loop);
  };
  const wake = () => {
    if (!frame) frame = requestAnimationFrame(loop);
  };
  for (const event of ["play", "pause", "seeked", "timeupdate", "loadedmetadata"]) {
    medium.addEventListener(event, wake, { signal });
  }
  const resizes = new ResizeObserver(draw);
  resizes.observe(canvas);
  const themes = new MutationObserver(draw); // Lab and the page mark the body with it
  themes.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  signal.addEventListener("abort", () => {
    resizes.disconnect();
    themes.disconnect();
    cancelAnimationFrame(frame);
  });
}
