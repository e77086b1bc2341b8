-- prelude: _clock.lua _refresh.lua
-- Histories, and the refresh queues that their new events feed. Both change in one call, so that no crash between them
-- can leave a user with new events outside of the queue.
-- Called by store/histories.py. No call takes more than 500 users: each runs alone on the server.

-- Count new events of users that are not due: of those that wait, and of those that are not in the queue yet.
local function count_events(keys, policy, now, users, events)
  if #users == 0 then return end
  local scores = redis.call('ZMSCORE', keys[WAITING], unpack(users))
  local waiting, new, new_events, moving, totals = {}, {}, {}, {}, {}
  for i, user in ipairs(users) do
    if not scores[i] then
      new[#new + 1], new_events[#new_events + 1] = user, events[i]
    else
      local ready_at, seen = unpack_score(scores[i])
      local total = seen + events[i]
      if seen < policy.events and total >= policy.events then
        moving[#moving + 1], totals[#totals + 1] = user, total
      elseif seen < policy.enough then
        waiting[#waiting + 1], waiting[#waiting + 2] = pack_score(ready_at, total), user
      end
    end
  end
  zadd(keys[WAITING], waiting, 'XX')
  schedule(keys, policy, now, moving, totals, true)
  schedule(keys, policy, now, new, new_events)
end

-- Enqueue users by their number of new events. A due user moves forward only where they are at least as many as it had:
-- each new score costs a search through up to a million others, 3 us, and moves the user little.
local function enqueue(keys, policy, users, events)
  if #users == 0 then return end
  local scores = redis.call('ZMSCORE', keys[DUE], unpack(users))
  local due, others, other_events = {}, {}, {}
  for i, user in ipairs(users) do
    if scores[i] then
      local position, seen = unpack_score(scores[i])
      if events[i] >= seen and seen < BONUS_EVENTS then
        local total = seen + events[i]
        due[#due + 1], due[#due + 2] = pack_score(position - bonus(policy, total) + bonus(policy, seen), total), user
      end
    else
      others[#others + 1], other_events[#other_events + 1] = user, events[i]
    end
  end
  zadd(keys[DUE], due, 'XX')
  count_events(keys, policy, now_ms(), others, other_events)
end

-- Whether the caller knows every version that is refreshed.
local function all_known(refreshing, args, first, last)
  local known = {}
  for i = first, last do known[args[i]] = true end
  for _, version in ipairs(redis.call('ZRANGE', refreshing, 0, -1)) do
    if not known[version] then return false end
  end
  return true
end

-- The timestamp up to which each user was erased, 0 where it never was: no older event enters a history again,
-- whichever way it comes.
local function erased_until(key, users)
  if #users == 0 or redis.call('EXISTS', key) == 0 then return {} end
  local digests = {}
  for i, user in ipairs(users) do digests[i] = redis.sha1hex(user) end
  return redis.call('ZMSCORE', key, unpack(digests))
end

-- Forget a user up to `timestamp`. The first time this deletes everything: an event may claim to come from the future.
-- Repeated (a redelivery, a rebuild), it leaves alone what the user did since.
local function erase(key, history, queues, user, timestamp, known)
  if known and tonumber(known) >= timestamp then
    redis.call('ZREMRANGEBYSCORE', history, '-inf', string.format('%.0f', timestamp))
    return
  end
  redis.call('ZADD', key, 'GT', string.format('%.0f', timestamp), redis.sha1hex(user))
  redis.call('DEL', history)
  for _, queue in ipairs(queues) do
    for i = DUE, REFRESHED do redis.call('ZREM', queue[i], user) end
  end
end

-- KEYS: refreshing; erased; due, waiting, leased and refreshed of each version; then one history a user.
-- ARGV: length, ttl_ms, the policy, how many of the versions (the first ones) enqueue users with new events, how many
-- versions there are, their names; then three a user: its id, the milliseconds up to which it is erased first (0: it
-- is not; a future timestamp counts as now), its packed records. A record from before a user's erasure is left out. A
-- record is the score (i64, big-endian), the member's length (u32) and the member.
-- Adding the same record again changes nothing, and what is kept does not depend on the order of calls: the newest
-- `length` by (score, member) of all that came. Answers the number of records that changed a history; nothing changes
-- where a version is refreshed that the caller does not know.
local function append(keys, args)
  local length, ttl, policy = tonumber(args[1]), args[2], policy_of(args, 3)
  local n_queued, n_versions = tonumber(args[6]), tonumber(args[7])
  if not all_known(keys[1], args, 8, 7 + n_versions) then
    return redis.error_reply('FRESHET_VERSIONS another version is refreshed since')
  end
  local queues = {}
  for v = 0, n_versions - 1 do queues[v + 1] = { unpack(keys, 3 + 4 * v, 6 + 4 * v) } end
  local total, users, events, n_users = 0, {}, {}, 0
  local at, first_user = 8 + n_versions, 3 + 4 * n_versions
  local names, now = {}, now_ms()
  for i = at, #args, 3 do names[#names + 1] = args[i] end
  local bounds = erased_until(keys[2], names)
  for u = first_user, #keys do
    local user, timestamp, data = args[at], tonumber(args[at + 1]), args[at + 2]
    local bound = tonumber(bounds[u - first_user + 1] or -1)
    at = at + 3
    if timestamp > 0 then
      timestamp = math.min(timestamp, now)
      erase(keys[2], keys[u], queues, user, timestamp, bound > 0 and bound)
      bound = math.max(bound, timestamp)
    end
    local position, size = 1, #data
    if size > 0 then
      local pairs_, n = {}, 0
      while position <= size do
        pairs_[n + 1], pairs_[n + 2], position = struct.unpack('>i8I4c0', data, position)
        if pairs_[n + 1] > bound then n = n + 2 end
      end
      local changed = n > 0 and redis.call('ZADD', keys[u], 'GT', 'CH', unpack(pairs_, 1, n)) or 0
      if changed > 0 then
        total = total + changed
        redis.call('ZREMRANGEBYRANK', keys[u], 0, -length - 1)
        redis.call('PEXPIRE', keys[u], ttl)
        n_users = n_users + 1
        users[n_users], events[n_users] = user, changed
      end
    end
  end
  for v = 1, n_queued do enqueue(queues[v], policy, users, events) end
  return total
end

redis.register_function('freshet_append_DIGEST', append)
