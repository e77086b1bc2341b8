-- prelude: _clock.lua _refresh.lua
-- The refresh queue from its other end: lease users, and finish or return them. Called by store/refresh_queue.py.
-- No call takes more than 500 users: each runs alone on the server.

-- A lease promotes this many users more than it takes, so that activity has somebody to choose from.
local AHEAD = 64
-- How often a lease looks for replacements of users that turn out to be leased or refreshed just now.
local ROUNDS = 4

-- KEYS: due, waiting, leased, refreshed, then one history a user. ARGV: the policy, then one user each.
-- As if each user that has a history had just enough new events to be due; one that is in the queue keeps its position.
-- Answers how many have a history.
local function enqueue(keys, args)
  local policy, users = policy_of(args, 1), {}
  for i = 4, #args do
    if redis.call('EXISTS', keys[i + 1]) == 1 then users[#users + 1] = args[i] end
  end
  if #users == 0 then return 0 end
  local due = redis.call('ZMSCORE', keys[DUE], unpack(users))
  local waiting = redis.call('ZMSCORE', keys[WAITING], unpack(users))
  local new, events = {}, {}
  for i, user in ipairs(users) do
    if not due[i] and not waiting[i] then new[#new + 1], events[#events + 1] = user, policy.events end
  end
  schedule(keys, policy, now_ms(), new, events)
  return #users
end

-- KEYS: due, waiting, leased, refreshed. Answers how many are due, waiting and leased, and for how many milliseconds
-- the head of the queue has been due.
local function state(keys)
  local head = redis.call('ZRANGE', keys[DUE], 0, 0, 'WITHSCORES')
  local age = head[2] and math.max(0, now_ms() - math.floor(tonumber(head[2]))) or 0
  return { redis.call('ZCARD', keys[DUE]), redis.call('ZCARD', keys[WAITING]), redis.call('ZCARD', keys[LEASED]), age }
end

-- Users whose refresh came to nothing go to the front: that is where they stood when they were leased.
local function return_to_front(keys, now, users)
  if #users == 0 then return end
  local head = redis.call('ZRANGE', keys[DUE], 0, 0, 'WITHSCORES')
  local front = head[2] and math.min(now, (unpack_score(head[2]))) or now
  local in_waiting = redis.call('ZMSCORE', keys[WAITING], unpack(users))
  local due = {}
  for i, user in ipairs(users) do
    local _, events = unpack_score(in_waiting[i] or 0)
    due[#due + 1], due[#due + 2] = pack_score(front, events), user
  end
  zrem(keys[WAITING], users)
  zadd(keys[DUE], due, 'LT')
end

-- Move waiting users that may be leased by now to `due`, oldest first, at most `limit`.
local function promote(keys, policy, now, limit)
  local rows = redis.call('ZRANGEBYSCORE', keys[WAITING], '-inf', '(' .. now + 1, 'WITHSCORES', 'LIMIT', 0, limit)
  local users, due = {}, {}
  for i = 1, #rows, 2 do
    local ready_at, events = unpack_score(rows[i + 1])
    users[#users + 1] = rows[i]
    due[#due + 1], due[#due + 2] = pack_score(ready_at - bonus(policy, events), events), rows[i]
  end
  zrem(keys[WAITING], users)
  zadd(keys[DUE], due, 'LT')
end

-- At most `limit` of the users with a score up to `highest`, taken out of a set.
local function take(key, highest, limit)
  local users = redis.call('ZRANGEBYSCORE', key, '-inf', highest, 'LIMIT', 0, limit)
  zrem(key, users)
  return users
end

-- KEYS: due, waiting, leased, refreshed. ARGV: limit, lease_ms, the policy. Answers {token, user, user, ...}.
-- Whatever the sets hold, `limit` bounds the work; what is left over waits for the next call. At least as many users are
-- promoted as leased, so that nobody in `due` passes an older one in `waiting`; twice as many past refreshes
-- are forgotten as one call can lead to, so that they do not pile up.
local function lease(keys, args)
  local limit, lease_ms, policy = tonumber(args[1]), tonumber(args[2]), policy_of(args, 3)
  local now = now_ms()
  local expiry = now + lease_ms
  take(keys[REFRESHED], now - policy.patience, 2 * limit)
  promote(keys, policy, now, limit + AHEAD)
  return_to_front(keys, now, take(keys[LEASED], now, limit))
  local answer = { string.format('%.0f', expiry) }
  for _ = 1, ROUNDS do
    local wanted = limit + 1 - #answer
    local rows = wanted > 0 and redis.call('ZPOPMIN', keys[DUE], wanted) or {}
    if #rows == 0 then break end
    local users, leased, waiting = {}, {}, {}
    for i = 1, #rows, 2 do users[#users + 1] = rows[i] end
    local leases = redis.call('ZMSCORE', keys[LEASED], unpack(users))
    local refreshes = redis.call('ZMSCORE', keys[REFRESHED], unpack(users))
    for i, user in ipairs(users) do
      local ready_at = math.max(tonumber(leases[i] or 0), refreshes[i] and tonumber(refreshes[i]) + policy.interval or 0)
      if ready_at > now then  -- enqueued by a worker of another release or policy
        local _, events = unpack_score(rows[2 * i])
        waiting[#waiting + 1], waiting[#waiting + 2] = pack_score(ready_at, events), user
      else
        leased[#leased + 1], leased[#leased + 2] = expiry, user
        answer[#answer + 1] = user
      end
    end
    zadd(keys[LEASED], leased)
    zadd(keys[WAITING], waiting)
  end
  return answer
end

-- KEYS: due, waiting, leased, refreshed. ARGV: 'complete' or 'release', the policy, then user and token in turn.
-- Answers how many leases were still held under their token: one that ran out and went to another worker is left alone.
local function finish(keys, args)
  local now, policy = now_ms(), policy_of(args, 2)
  local users, held = {}, {}
  for i = 5, #args, 2 do users[#users + 1] = args[i] end
  local leases = redis.call('ZMSCORE', keys[LEASED], unpack(users))
  for i, user in ipairs(users) do
    if leases[i] and tonumber(leases[i]) == tonumber(args[4 + 2 * i]) then held[#held + 1] = user end
  end
  if #held == 0 then return 0 end
  zrem(keys[LEASED], held)
  if args[1] == 'release' then
    return_to_front(keys, now, held)
    return #held
  end
  local refreshed, moving, events = {}, {}, {}
  local in_waiting = redis.call('ZMSCORE', keys[WAITING], unpack(held))
  for i, user in ipairs(held) do
    refreshed[#refreshed + 1], refreshed[#refreshed + 2] = now, user
    if in_waiting[i] then  -- events came during the lease
      local _, since = unpack_score(in_waiting[i])
      moving[#moving + 1], events[#events + 1] = user, since
    end
  end
  zadd(keys[REFRESHED], refreshed)
  schedule(keys, policy, now, moving, events, true)
  return #held
end

redis.register_function('freshet_enqueue_DIGEST', enqueue)
redis.register_function('freshet_state_DIGEST', state)
redis.register_function('freshet_lease_DIGEST', lease)
redis.register_function('freshet_finish_DIGEST', finish)
