// BullMQ: `node app_bullmq.cjs work` works, `node app_bullmq.cjs N` enqueues.
const { Queue, Worker } = require("bullmq");

const AT_ONCE = 64;
const store = new URL(process.env.PEERS_STORE);
const connection = { host: store.hostname, port: Number(store.port), maxRetriesPerRequest: null };
const upstream = `${process.env.PEERS_UPSTREAM}/v1/chat/completions`;

async function ask(job) {
  const messages = [{ role: "user", content: job.data.prompt }];
  const answer = await fetch(upstream, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "bench", messages, max_tokens: 64 }),
  });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

async function enqueue(number) {
  const queue = new Queue("peers", { connection });
  let next = 0;
  const work = async () => {
    while (next < number) await queue.add("ask", { prompt: `A prompt of some words, ${next++}.` });
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  await queue.close();
}

if (process.argv[2] === "work") {
  new Worker("peers", ask, { connection, concurrency: AT_ONCE });
} else {
  enqueue(Number(process.argv[2]));
}
