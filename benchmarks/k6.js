// k6 run -e URL=http://127.0.0.1:8000 --vus 50 --iterations 1000 benchmarks/k6.js
import http from 'k6/http'
import { check } from 'k6'
import { Counter } from 'k6/metrics'

const url = __ENV.URL || 'http://127.0.0.1:8000'
const tiers = new Counter('fallthrough_answers') // by the tag "tier"

export default function () {
  const prompt = `Say hello. (${__VU}-${__ITER}-${Date.now()})`
  const body = JSON.stringify({ messages: [{ role: 'user', content: prompt }], max_tokens: 16 })
  const reply = http.post(`${url}/v1/chat/completions`, body, {
    headers: { 'content-type': 'application/json' },
  })
  check(reply, { answered: (r) => r.status === 200 })
  tiers.add(1, { tier: reply.headers['X-Fallthrough-Tier'] || 'none' })
}
