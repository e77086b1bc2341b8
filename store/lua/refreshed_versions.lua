-- prelude: _clock.lua
-- Which versions are refreshed: each with the time of its last announcement. Called by store/refreshed_versions.py.

-- KEYS: refreshing. ARGV: version, memory_ms. New events enqueue users in this version for the next `memory_ms`.
local function announce(keys, args)
  local now = now_ms()
  redis.call('ZADD', keys[1], now, args[1])
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', now - args[2])
  return redis.status_reply('OK')
end

-- KEYS: refreshing. ARGV: memory_ms. Answers {version, '1' where it was announced within `memory_ms`, ...}.
local function refreshing(keys, args)
  local since, answer = now_ms() - args[1], {}
  local rows = redis.call('ZRANGE', keys[1], 0, -1, 'WITHSCORES')
  for i = 1, #rows, 2 do
    answer[i], answer[i + 1] = rows[i], tonumber(rows[i + 1]) > since and '1' or '0'
  end
  return answer
end

redis.register_function('freshet_announce_DIGEST', announce)
redis.register_function('freshet_refreshing_DIGEST', refreshing)
