// @ts-check
/**
 * What the API sends, as far as these pages read it (GET /openapi.json says the rest). Times are
 * epoch seconds.
 *
 * @typedef {{ message: string, code?: string | null, param?: string | null }} ApiError
 * @typedef {{ tier: string, verdict: string, milliseconds: number, began?: number | null, detail?: string, status?: number | null, endpoint?: number }} Attempt
 * @typedef {{ prompt_tokens?: number, completion_tokens?: number, total_tokens?: number }} Usage
 * @typedef {Record<string, any>} Body
 * @typedef {{
 *   id: string, status: string, queue: string, created_at: number, started_at: number | null,
 *   finished_at: number | null, deadline_at: number, model: string | null, tier_used: string | null,
 *   degraded: boolean, cache_age_seconds: number | null, fit: string | null, text: string | null,
 *   answer?: any, usage: Usage | null, attempts: Attempt[], error: ApiError | null,
 *   metadata: Record<string, string>, request?: Body | null, streamed?: boolean,
 *   tier?: string | null, first_token_at?: number | null,
 * }} Job
 * @typedef {{ tiers?: Record<string, number>, models?: Record<string, Record<string, number>>, outcomes?: Record<string, Record<string, number>>, lines_per_second?: number | null, eta_seconds?: number | null }} Progress
 * @typedef {{
 *   id: string, status: string, endpoint: string, model: string | null, input_file_id: string,
 *   output_file_id: string | null, error_file_id: string | null, created_at: number,
 *   in_progress_at: number | null, completed_at: number | null, failed_at: number | null,
 *   expired_at: number | null, cancelled_at: number | null, expires_at: number | null,
 *   completion_window: string, request_counts: { total: number, completed: number, failed: number },
 *   usage: { input_tokens: number, output_tokens: number } | null,
 *   metadata: Record<string, string> | null, fallthrough: Progress,
 *   errors: { data?: { line?: number | null, message: string }[] } | null,
 * }} Batch
 * @typedef {{ line: number | null, custom_id: string | null, code: string | null, message: string }} LineError
 * @typedef {{ line: number | null, code: string, message: string }} Problem
 * @typedef {{ endpoint: string, lines: number, model: string | null, problem_count: number, problems: Problem[] }} Validation
 * @typedef {{ at: number, seconds: number, lines: number }} Bucket
 * @typedef {{ id: string, filename: string, bytes: number, purpose: string, created_at: number, expires_at: number }} StoredFile
 * @typedef {{ trouble: 'no_such_model' | 'misconfigured' | 'silent', host: string, reason: string, count: number, first_seen: number }} Trouble
 * @typedef {{
 *   state: string, tier: string, configured: boolean, consecutive_failures: number,
 *   half_open_successes: number, retry_after_seconds: number, held: boolean,
 *   hold_reason: string | null, share: number, opened_in_a_row: number, override: string | null,
 *   changed: { by: string | null, why: string | null, at: number } | null,
 *   window: { seconds: number, calls: number, failures: number, slow: number },
 *   failure_threshold: number, recovery_timeout_seconds: number, success_threshold: number,
 *   unanswered?: { host: string, last: string, since: number } | null, troubles?: Trouble[] | null,
 * }} Breaker
 * @typedef {{ running: number, waiting: number, parked: number }} Work
 * @typedef {{
 *   workers: number, jobs: Record<string, Record<string, number>>, unfinished: { jobs: Work, lines: Work },
 *   p50_latency_ms: number | null, p95_latency_ms: number | null, streams_in_flight: number,
 *   p50_first_token_ms: number | null, p95_first_token_ms: number | null,
 *   unusable: Record<string, Record<string, number>>, troubles: Record<string, Trouble[]>,
 *   flower_url: string | null,
 * }} Metrics
 * @typedef {{ breakers: [string, Breaker][], metrics: Metrics }} Operations
 * @typedef {{
 *   at: number, answers: Record<string, number>, queued: number | null,
 *   seconds: Record<string, { p50: number | null, p95: number | null }>, breakers: Record<string, string>,
 * }} Minute
 */

/**
 * @template T
 * @typedef {{ data: T[], has_more: boolean, last_id: string | null, next?: string | null }} List
 */

/**
 * A page of this site.
 *
 * @typedef {object} View
 * @property {string} title
 * @property {HTMLElement} element
 * @property {() => Promise<number | null | void>} [look] asks the API, and shows what it says;
 *   returns the ms until the next look if it is not the usual time, null if there is none
 * @property {() => { level: string, text: string, title: string }} [headline] what stands above it
 * @property {() => void} [tick] twice a second, for what counts down
 * @property {() => void} [leave] ends what it follows
 *
 * @typedef {{ id: string, query: URLSearchParams }} Where
 */

export {}
