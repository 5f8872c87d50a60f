// How figures, times and languages are said.

export function clock(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = String(rest).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

export function duration(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 360) / 10} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let power = -1;
  do { count /= 1024; power += 1; } while (count >= 1023.5 && power < units.length - 1);
  return `${count < 10 ? count.toFixed(1) : Math.round(count)} ${units[power]}`;
}

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export function ago(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  const size = Math.abs(seconds);
  if (size < 45) return "just now";
  if (size < 3600) return relative.format(Math.round(seconds / 60), "minute");
  if (size < 86400) return relative.format(Math.round(seconds / 3600), "hour");
  if (size < 30 * 86400) return relative.format(Math.round(seconds / 86400), "day");
  return new Date(time).toLocaleDateString();
}

export function moment(time) {
  return new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

const languages = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });

export function language(code) {
  if (!code || code === "und") return "";
  try { return languages.of(code); } catch { return code; }
}

export function model(used) {
  // batch-whisper/demo/cpu/int8: the model is what people know
  return (used ?? "").split("/")[1] ?? used ?? "";
}

/** What a job is called: as somebody named it, or as its file was. */
export function name(job) {
  const title = job.metadata?.title;
  return typeof title === "string" && title ? title : job.filename;
}

/** What a job's state is called, and which colour it has. */
export function state(job) {
  if (job.status === "processing" && (job.cancel_requested_at || job.cancelling)) return ["cancelling", "wait"];
  if (job.status === "pending" && job.queue_paused) return ["paused", "wait"];
  if (job.status === "pending" && job.current_step === "fetching") return ["being fetched", "wait"];
  if (job.status === "pending" && job.error_code) return ["will try again", "wait"];
  return {
    pending: ["waiting", "wait"],
    processing: ["transcribing", "run"],
    completed: ["done", "good"],
    failed: ["failed", "bad"],
    cancelled: ["cancelled", "off"],
  }[job.status] ?? [job.status, "off"];
}

export function left(job) {
  if (job.eta_seconds === null || job.eta_seconds === undefined) return "";
  return `about ${duration(Math.max(1, job.eta_seconds))} left`;
}
