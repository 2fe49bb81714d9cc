// A chart of one value over the last minutes, drawn on a canvas.

const WINDOW_S = 600;
const LEAST_WINDOW_S = 60;

/**
 * Draw points, oldest first.
 *
 * @param {HTMLCanvasElement} canvas Drawn at the size that it has on the page.
 * @param {{time: number, value: number | null}[]} points Times in seconds; null leaves a gap.
 * @param {number | null} ceiling The value at the top, above 0 at the bottom; null takes the
 *   least and the greatest value for both.
 */
export function draw(canvas, points, ceiling) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  const known = points.filter((point) => point.value !== null);
  if (!known.length) return;

  const end = points[points.length - 1].time;
  const span = Math.min(WINDOW_S, Math.max(LEAST_WINDOW_S, end - points[0].time));
  const [low, high] = bounds(known, ceiling);
  const x = (point) => width * (1 - (end - point.time) / span);
  const y = (point) => height - 2 - (height - 5) * Math.min(1, (point.value - low) / (high - low));

  const style = getComputedStyle(canvas);
  context.strokeStyle = context.fillStyle = style.getPropertyValue("--series").trim();
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  for (const run of runs(points)) {
    context.beginPath();
    run.forEach((point) => context.lineTo(x(point), y(point)));
    if (run.length === 1) context.lineTo(x(run[0]) - 1.5, y(run[0]));
    context.stroke();
    context.lineTo(x(run[run.length - 1]), height);
    context.lineTo(x(run[0]), height);
    context.globalAlpha = 0.13;
    context.fill();
    context.globalAlpha = 1;
  }
  if (ceiling === null) writeScale(context, style, height, low, high);
}

/** Leave out what is older than the window of a chart. */
export function forget(points) {
  const end = points.length ? points[points.length - 1].time : 0;
  while (points.length && points[0].time < end - WINDOW_S) points.shift();
}

/** Write the least and the greatest value, where a chart has no scale of its own. */
function writeScale(context, style, height, low, high) {
  context.fillStyle = style.getPropertyValue("--dim").trim();
  context.strokeStyle = style.getPropertyValue("--card").trim(); // parts it from the line
  context.lineWidth = 3;
  context.font = "10px system-ui, sans-serif";
  for (const [value, baseline, y] of [[high, "top", 2], [low, "bottom", height - 2]]) {
    const text = String(Number(value.toPrecision(3)));
    context.textBaseline = baseline;
    context.strokeText(text, 3, y);
    context.fillText(text, 3, y);
  }
}

function bounds(points, ceiling) {
  if (ceiling) return [0, ceiling];
  let low = Infinity, high = -Infinity;
  for (const { value } of points) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const margin = high > low ? 0 : 0.1 * Math.abs(high) || 1;
  return [low - margin, high + margin];
}

/** Split points where a value is missing, or where samples were for a while. */
function runs(points) {
  const steps = points.slice(1).map((point, i) => point.time - points[i].time);
  const usual = steps.sort((a, b) => a - b)[Math.floor(steps.length / 2)] || 1;
  const found = [];
  let run = [];
  let before = null;
  for (const point of points) {
    if (point.value === null || (before !== null && point.time - before > 5 * usual)) {
      if (run.length) found.push(run);
      run = [];
    }
    if (point.value !== null) run.push(point);
    before = point.time;
  }
  if (run.length) found.push(run);
  return found;
}
