-- prelude: _clock.lua
-- One budget of LLM tokens per hour for all workers. Hours are the server's, so workers need not agree on a clock.
-- Called by store/token_budget.py.

local HOUR_MS = 3600000

-- Tokens spent in the hour of `now`; those of an earlier hour do not count.
local function spent_in(key, now)
  local found = redis.call('HMGET', key, 'hour', 'spent')
  if tonumber(found[1] or -1) ~= math.floor(now / HOUR_MS) then return 0 end
  return tonumber(found[2] or 0)
end

-- Tokens set aside for calls in flight. An expired lease belongs to a worker that died: it is removed.
local function held_now(key, now)
  local sum, all = 0, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local tokens, expiry = string.match(all[i + 1], '^(%d+):(%d+)$')
    if tokens == nil or tonumber(expiry) <= now then
      redis.call('HDEL', key, all[i])
    else
      sum = sum + tonumber(tokens)
    end
  end
  return sum
end

local function answer(admitted, spent, held, limit, now)
  return { admitted, spent, held, limit, HOUR_MS - now % HOUR_MS }
end

-- KEYS: budget, held. ARGV: id, tokens, limit, lease_ms. Answers {admitted, spent, held, limit, ms to the next hour}.
-- An estimate larger than the whole budget counts as all of it: it is admitted when nothing else is spent or held,
-- or it would wait forever. The same id comes twice only after a lost answer, and is admitted once.
local function reserve(keys, args)
  local now, limit = now_ms(), tonumber(args[3])
  local tokens = math.min(tonumber(args[2]), limit)
  local spent, held = spent_in(keys[1], now), held_now(keys[2], now)
  redis.call('HSET', keys[1], 'hour', math.floor(now / HOUR_MS), 'spent', spent, 'limit', limit)
  redis.call('PEXPIRE', keys[1], 2 * HOUR_MS)
  local admitted = redis.call('HEXISTS', keys[2], args[1])
  if admitted == 0 and spent + held + tokens <= limit then
    local lease = tonumber(args[4])
    redis.call('HSET', keys[2], args[1], string.format('%d:%.0f', tokens, now + lease))
    redis.call('PEXPIRE', keys[2], math.max(lease, 2 * HOUR_MS))
    admitted, held = 1, held + tokens
  end
  return answer(admitted, spent, held, limit, now)
end

-- KEYS: budget, held. ARGV: id, tokens used. Counts once: an id that is no longer held was settled before, or its lease
-- ran out. Answers as `reserve` does.
local function settle(keys, args)
  local now = now_ms()
  local known, spent = redis.call('HDEL', keys[2], args[1]), spent_in(keys[1], now)
  if known == 1 then
    spent = spent + tonumber(args[2])
    redis.call('HSET', keys[1], 'hour', math.floor(now / HOUR_MS), 'spent', spent)
    redis.call('PEXPIRE', keys[1], 2 * HOUR_MS)
  end
  return answer(known, spent, held_now(keys[2], now), tonumber(redis.call('HGET', keys[1], 'limit') or 0), now)
end

-- KEYS: budget, held. Answers as `reserve` does, and admits nothing.
local function look(keys)
  local now = now_ms()
  local limit = tonumber(redis.call('HGET', keys[1], 'limit') or 0)
  return answer(0, spent_in(keys[1], now), held_now(keys[2], now), limit, now)
end

redis.register_function('freshet_reserve_DIGEST', reserve)
redis.register_function('freshet_settle_DIGEST', settle)
redis.register_function('freshet_look_DIGEST', look)
