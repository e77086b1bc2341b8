-- Histories and the due-set, changed together on the server. Times are the server's, in milliseconds.
-- Called by freshet/histories.py and freshet/due.py; freshet/functions.py adds the library's header and digest.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- KEYS: due, leased, refreshed, then one history a user.
-- ARGV: length, ttl_ms, then three a user: its id, '1' to erase it first (else '0'), its packed records.
-- A record is the score (i64, big-endian), the member's length (u32) and the member.
-- Adding the same record again changes nothing, and what is kept does not depend on the order of calls: the newest
-- `length` by (score, member) of all that came. Answers the number of records that changed a history.
local function append(keys, args)
  local length, ttl = tonumber(args[1]), args[2]
  local now = now_ms()
  local total, due, n = 0, {}, 0
  for u = 4, #keys do
    local at = 3 * (u - 3)
    local user, erase, data = args[at], args[at + 1], args[at + 2]
    if erase == '1' then
      redis.call('DEL', keys[u])
      for i = 1, 3 do redis.call('ZREM', keys[i], user) end
    end
    local position, size = 1, #data
    if size > 0 then
      local pairs_, count = {}, 0
      while position <= size do
        pairs_[count + 1], pairs_[count + 2], position = struct.unpack('>i8I4c0', data, position)
        count = count + 2
      end
      local changed = redis.call('ZADD', keys[u], 'GT', 'CH', unpack(pairs_))
      if changed > 0 then
        total = total + changed
        redis.call('ZREMRANGEBYRANK', keys[u], 0, -length - 1)
        redis.call('PEXPIRE', keys[u], ttl)
        due[n + 1], due[n + 2] = now, user
        n = n + 2
      end
    end
  end
  if n > 0 then redis.call('ZADD', keys[1], 'NX', unpack(due)) end
  return total
end

-- Put users whose lease has run out back among the due ones, at most `limit`.
local function expire_leases(due, leased, now, limit)
  local late = redis.call('ZRANGEBYSCORE', leased, '-inf', now, 'LIMIT', 0, limit)
  for _, user in ipairs(late) do
    redis.call('ZREM', leased, user)
    redis.call('ZADD', due, 'LT', now, user)
  end
end

-- KEYS: due, leased, refreshed. ARGV: limit, lease_ms, interval_ms. Answers {token, user, user, ...}.
-- A due user that is leased, or was refreshed less than an interval ago, moves to the moment it may be claimed, so
-- that it is not looked at again before then and never hides the ones behind it.
local function claim(keys, args)
  local limit, lease, interval = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  local now = now_ms()
  local expiry = now + lease
  expire_leases(keys[1], keys[2], now, limit)
  redis.call('ZREMRANGEBYSCORE', keys[3], '-inf', now - interval)
  local claimed = { string.format('%.0f', expiry) }
  for _ = 1, 10 do
    local wanted = limit + 1 - #claimed
    if wanted <= 0 then break end
    local candidates = redis.call('ZRANGEBYSCORE', keys[1], '-inf', now, 'LIMIT', 0, wanted)
    if #candidates == 0 then break end
    for _, user in ipairs(candidates) do
      local until_ = redis.call('ZSCORE', keys[2], user)
      local refreshed = not until_ and redis.call('ZSCORE', keys[3], user)
      if until_ then
        redis.call('ZADD', keys[1], math.max(tonumber(until_), now + 1), user)
      elseif refreshed and tonumber(refreshed) + interval > now then
        redis.call('ZADD', keys[1], tonumber(refreshed) + interval, user)
      else
        redis.call('ZREM', keys[1], user)
        redis.call('ZADD', keys[2], expiry, user)
        claimed[#claimed + 1] = user
      end
    end
  end
  return claimed
end

-- KEYS: due, leased, refreshed. ARGV: 'complete' or 'release', then user and token in turn. Answers how many leases
-- were still held under their token: one that ran out and went to another worker is left alone.
local function finish(keys, args)
  local now, held = now_ms(), 0
  for i = 2, #args, 2 do
    local user, token = args[i], args[i + 1]
    local expiry = redis.call('ZSCORE', keys[2], user)
    if expiry and tonumber(expiry) == tonumber(token) then
      held = held + 1
      redis.call('ZREM', keys[2], user)
      if args[1] == 'complete' then
        redis.call('ZADD', keys[3], now, user)
        redis.call('ZADD', keys[1], 'XX', 'LT', now, user)
      else
        redis.call('ZADD', keys[1], 'LT', now, user)
      end
    end
  end
  return held
end

redis.register_function('freshet_append_DIGEST', append)
redis.register_function('freshet_claim_DIGEST', claim)
redis.register_function('freshet_finish_DIGEST', finish)
