-- The counters of apps/quotas/counters.py in Redis: the same rules, decided and written in one step.
-- KEYS: the hold of the request, the index of holds by their age, then one counter for each claim.
-- ARGV: what is asked as JSON. Amounts stay whole numbers below 2^53.

local WINDOW_S, WARN_AT_PERCENT, KEPT_S = 60, 80, 40 * 86400
local asked = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local now = asked.now_s or (tonumber(clock[1]) + tonumber(clock[2]) / 1e6)

local function text(number) return string.format('%.0f', number) end

local function load(key)
  local counter = {key = key, buckets = {}, num_open = 0, period = '', warned = '',
    spent_tokens = 0, held_tokens = 0, spent_nano = 0, held_nano = 0, requests = 0, tokens = 0}
  local raw = redis.call('HGETALL', key)
  for i = 1, #raw, 2 do
    local at = string.match(raw[i], '^w(%d+)$')
    if at == nil then
      counter[raw[i]] = (raw[i] == 'period' or raw[i] == 'warned') and raw[i + 1] or tonumber(raw[i + 1])
    elseif tonumber(at) + WINDOW_S + 1 <= now then
      redis.call('HDEL', key, raw[i])
    else
      local requests, tokens = string.match(raw[i + 1], '^(-?%d+):(-?%d+)$')
      local bucket = {at = tonumber(at), requests = tonumber(requests), tokens = tonumber(tokens)}
      counter.buckets[#counter.buckets + 1] = bucket
      counter.requests = counter.requests + bucket.requests
      counter.tokens = counter.tokens + bucket.tokens
    end
  end
  table.sort(counter.buckets, function(a, b) return a.at < b.at end)
  return counter
end

local function save(counter)
  local fields = {'num_open', text(counter.num_open), 'period', counter.period, 'warned', counter.warned}
  for _, name in ipairs({'spent_tokens', 'held_tokens', 'spent_nano', 'held_nano'}) do
    fields[#fields + 1] = name
    fields[#fields + 1] = text(counter[name])
  end
  for _, bucket in ipairs(counter.buckets) do
    fields[#fields + 1] = 'w' .. text(bucket.at)
    fields[#fields + 1] = text(bucket.requests) .. ':' .. text(bucket.tokens)
  end
  redis.call('HSET', counter.key, unpack(fields))
  redis.call('EXPIRE', counter.key, KEPT_S)
end

local function add(counter, second, requests, tokens, may_create)
  for _, bucket in ipairs(counter.buckets) do
    if bucket.at == second then
      bucket.requests = bucket.requests + requests
      bucket.tokens = bucket.tokens + tokens
      may_create = false
      counter.requests = counter.requests + requests
      counter.tokens = counter.tokens + tokens
    end
  end
  if may_create then
    counter.buckets[#counter.buckets + 1] = {at = second, requests = requests, tokens = tokens}
    counter.requests = counter.requests + requests
    counter.tokens = counter.tokens + tokens
  end
end

local function wait_for(counter, field, excess)
  for _, bucket in ipairs(counter.buckets) do
    excess = excess - bucket[field]
    if excess <= 0 then return bucket.at + WINDOW_S + 1 - now end
  end
  return nil
end

local function find_refusal(counter, claim, need, position)
  local checks = {
    {'requests_per_minute', counter.requests, 0, need.requests, 'requests'},
    {'tokens_per_minute', counter.tokens, 0, need.tokens, 'tokens'},
    {'max_concurrent', counter.num_open, 0, need.requests},
    {'budget_tokens', counter.spent_tokens, counter.held_tokens, need.tokens},
    {'budget_nano', counter.spent_nano, counter.held_nano, need.nano},
  }
  for _, check in ipairs(checks) do
    local limit, used, held, wanted, field = check[1], check[2], check[3], check[4], check[5]
    local excess = claim[limit] ~= nil and used + held + wanted - claim[limit] or 0
    if wanted > 0 and excess > 0 then
      local wait = field and wait_for(counter, field, excess)
      return {position, limit, text(used + held), wait and tostring(wait) or '', text(held)}
    end
  end
  return nil
end

local function reserve()
  local claims, need, counters = asked.claims, asked.need, {}
  local unseeded = {}
  for i, claim in ipairs(claims) do
    counters[i] = load(KEYS[i + 2])
    local period = claim.period or ''
    if period ~= '' and period > counters[i].period then
      local seed = asked.seeds and asked.seeds[claim.counter]
      if seed then
        counters[i].period = period
        counters[i].spent_tokens, counters[i].spent_nano = seed[1], seed[2]
        counters[i].held_tokens, counters[i].held_nano = 0, 0
      else
        unseeded[#unseeded + 1] = i - 1
      end
    end
  end
  if #unseeded > 0 then return {'unseeded', unseeded} end
  local hold = redis.call('GET', KEYS[1])
  local shares = hold and cjson.decode(hold) or {}
  local first = shares[1]
  local is_repeated = first and ((need.requests > 0 and first.requests > 0) or (need.tokens > 0 and first.tokens > 0))
  local refusal
  for i, claim in ipairs(claims) do
    refusal = refusal or (not is_repeated and find_refusal(counters[i], claim, need, i - 1)) or nil
  end
  if refusal == nil and not is_repeated then
    for i, claim in ipairs(claims) do
      local counter, second = counters[i], math.floor(now)
      local share = shares[i] or {counter = claim.counter, key = KEYS[i + 2], requests = 0, tokens = 0, nano = 0,
        requests_at = 0, tokens_at = 0, period = (claim.period or '') ~= '' and counter.period or '',
        budget_tokens = claim.budget_tokens, budget_nano = claim.budget_nano}
      shares[i] = share
      add(counter, second, need.requests, need.tokens, true)
      counter.num_open = counter.num_open + need.requests
      if need.requests > 0 then share.requests, share.requests_at = need.requests, second end
      if need.tokens > 0 then share.tokens, share.tokens_at, share.nano = need.tokens, second, need.nano end
      if (claim.period or '') ~= '' then
        counter.held_tokens = counter.held_tokens + need.tokens
        counter.held_nano = counter.held_nano + need.nano
      end
      save(counter)
    end
    redis.call('SET', KEYS[1], cjson.encode(shares), 'EX', KEPT_S)
    redis.call('ZADD', KEYS[2], 'NX', text(now), asked.id)
  end
  local standings = {}
  for i, counter in ipairs(counters) do
    local newest = #counter.buckets > 0 and now - counter.buckets[#counter.buckets].at or WINDOW_S
    standings[i] = {text(counter.requests), text(counter.tokens), tostring(math.max(0, newest)),
      text(counter.spent_tokens + counter.held_tokens)}
  end
  return {refusal and 'refused' or 'held', refusal or {}, standings}
end

local function is_nearly_full(spent, limit)
  return limit ~= nil and spent * 100 >= limit * WARN_AT_PERCENT
end

local function settle()
  local hold = redis.call('GET', KEYS[1])
  redis.call('ZREM', KEYS[2], asked.id)
  if not hold then return {} end
  redis.call('DEL', KEYS[1])
  local used, warnings = asked.used, {}
  for _, share in ipairs(cjson.decode(hold)) do
    local counter = load(share.key)
    counter.num_open = math.max(0, counter.num_open - share.requests)
    if share.requests > 0 then add(counter, share.requests_at, used.requests - share.requests, 0, false) end
    if share.tokens > 0 then add(counter, share.tokens_at, 0, used.tokens - share.tokens, false) end
    if share.period ~= '' and share.period == counter.period then
      counter.held_tokens = math.max(0, counter.held_tokens - share.tokens)
      counter.held_nano = math.max(0, counter.held_nano - share.nano)
      counter.spent_tokens = counter.spent_tokens + used.tokens
      counter.spent_nano = counter.spent_nano + used.nano
      if counter.warned ~= counter.period and (is_nearly_full(counter.spent_tokens, share.budget_tokens)
          or is_nearly_full(counter.spent_nano, share.budget_nano)) then
        counter.warned = counter.period
        warnings[#warnings + 1] =
          {share.counter, counter.period, text(counter.spent_tokens), text(counter.spent_nano)}
      end
    end
    save(counter)
  end
  return warnings
end

return asked.op == 'reserve' and reserve() or settle()
