-- Histories and who is due, changed together on the server. Times are the server's, in milliseconds.
-- Called by store/histories.py and store/refresh_queue.py; store/functions.py adds the library's header and digest.
-- No call takes more than 500 users: each runs alone on the server.

-- A user with events that its features do not know is in one of two sorted sets: in `due`, where it may be claimed, or
-- in `waiting` until the moment from which it may. Its score there is a mark: milliseconds, and as fraction how many
-- events came since the last refresh. 2^53 leaves ten bits for them beside the milliseconds of the next two centuries.
local UNIT, MOST_EVENTS = 1024, 1023
-- More events than this no longer bring a user forward.
local BONUS_EVENTS = 64
-- As many more users than wanted become due in a claim, so that activity has somebody to choose from.
local AHEAD = 64
-- Times a claim looks for others in place of users that turn out to be leased or refreshed just now.
local ROUNDS = 4

-- Where a version's own sets stand among its keys.
local DUE, WAITING, LEASED, REFRESHED = 1, 2, 3, 4

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function mark(moment, events)
  return moment + math.min(events, MOST_EVENTS) / UNIT
end

local function unmark(score)
  score = tonumber(score)
  local moment = math.floor(score)
  return moment, math.max(1, (score - moment) * UNIT)
end

-- The policy in a function's ARGV, from `at` on: events, stale_ms, interval_ms.
local function policy_of(args, at)
  local events, stale, interval = tonumber(args[at]), tonumber(args[at + 1]), tonumber(args[at + 2])
  return {
    events = events,
    interval = interval,
    -- With fewer events than wanted; where one is enough, nobody has fewer.
    patience = events > 1 and math.max(stale, interval) or interval,
    -- Counting on would change neither place nor order.
    enough = math.max(events, BONUS_EVENTS),
  }
end

-- Milliseconds of waiting that so many events are worth: what makes staleness + bonus order users as staleness times
-- events does while staleness is about one interval, and no more than 4.2 intervals.
local function bonus(policy, events)
  return math.floor(math.max(policy.interval, 1000) * math.log(math.min(events, BONUS_EVENTS)))
end

local function zadd(key, marks, option)
  if #marks == 0 then return end
  if option then redis.call('ZADD', key, option, unpack(marks)) else redis.call('ZADD', key, unpack(marks)) end
end

local function zrem(key, users)
  if #users > 0 then redis.call('ZREM', key, unpack(users)) end
end

-- File users, each with its events since the last refresh, under the moment from which it may be claimed.
local function place(keys, policy, now, users, events, were_waiting)
  if #users == 0 then return end
  local leases = redis.call('ZMSCORE', keys[LEASED], unpack(users))
  local refreshes = redis.call('ZMSCORE', keys[REFRESHED], unpack(users))
  local due, waiting, ready = {}, {}, {}
  for i, user in ipairs(users) do
    local moment = now
    if refreshes[i] then
      local rest = events[i] >= policy.events and policy.interval or policy.patience
      moment = math.max(moment, tonumber(refreshes[i]) + rest)
    end
    if leases[i] then moment = math.max(moment, tonumber(leases[i])) end
    if moment > now then
      waiting[#waiting + 1], waiting[#waiting + 2] = mark(moment, events[i]), user
    else
      if were_waiting then ready[#ready + 1] = user end
      due[#due + 1], due[#due + 2] = mark(now - bonus(policy, events[i]), events[i]), user
    end
  end
  zrem(keys[WAITING], ready)
  zadd(keys[DUE], due)
  zadd(keys[WAITING], waiting)
end

-- Count new events of users that are not due: of those that wait, and of those that had none.
local function count(keys, policy, now, users, events)
  if #users == 0 then return end
  local marks = redis.call('ZMSCORE', keys[WAITING], unpack(users))
  local waiting, new, theirs, moving, totals = {}, {}, {}, {}, {}
  for i, user in ipairs(users) do
    if not marks[i] then
      new[#new + 1], theirs[#theirs + 1] = user, events[i]
    else
      local moment, seen = unmark(marks[i])
      local all = seen + events[i]
      if seen < policy.events and all >= policy.events then
        moving[#moving + 1], totals[#totals + 1] = user, all
      elseif seen < policy.enough then
        waiting[#waiting + 1], waiting[#waiting + 2] = mark(moment, all), user
      end
    end
  end
  zadd(keys[WAITING], waiting, 'XX')
  place(keys, policy, now, moving, totals, true)
  place(keys, policy, now, new, theirs)
end

-- Note how many new events each of these users has. A due user moves forward only where they are at least as many as it
-- had: writing each one down costs a search through a million marks, 3 us, and moves it little.
local function note(keys, policy, users, events)
  if #users == 0 then return end
  local marks = redis.call('ZMSCORE', keys[DUE], unpack(users))
  local due, others, theirs = {}, {}, {}
  for i, user in ipairs(users) do
    if marks[i] then
      local moment, seen = unmark(marks[i])
      if events[i] >= seen and seen < BONUS_EVENTS then
        local all = seen + events[i]
        due[#due + 1], due[#due + 2] = mark(moment - bonus(policy, all) + bonus(policy, seen), all), user
      end
    else
      others[#others + 1], theirs[#theirs + 1] = user, events[i]
    end
  end
  zadd(keys[DUE], due, 'XX')
  count(keys, policy, now_ms(), others, theirs)
end

-- Whether every version that is refreshed is among those that the caller knows.
local function all_known(refreshing, args, first, last)
  local known = {}
  for i = first, last do known[args[i]] = true end
  for _, version in ipairs(redis.call('ZRANGE', refreshing, 0, -1)) do
    if not known[version] then return false end
  end
  return true
end

-- Up to which moment each user was erased, 0 where it never was: nothing older comes in again, from wherever it comes.
local function erased_until(key, users)
  if #users == 0 or redis.call('EXISTS', key) == 0 then return {} end
  local digests = {}
  for i, user in ipairs(users) do digests[i] = redis.sha1hex(user) end
  return redis.call('ZMSCORE', key, unpack(digests))
end

-- Forget a user up to `moment`. What is heard for the first time forgets all there is: an event may say that it comes
-- from the future. Heard again (a redelivery, a rebuild) it leaves alone what the user did since.
local function erase(key, history, sets, user, moment, known)
  if known and tonumber(known) >= moment then
    redis.call('ZREMRANGEBYSCORE', history, '-inf', string.format('%.0f', moment))
    return
  end
  redis.call('ZADD', key, 'GT', string.format('%.0f', moment), redis.sha1hex(user))
  redis.call('DEL', history)
  for _, own in ipairs(sets) do
    for i = DUE, REFRESHED do redis.call('ZREM', own[i], user) end
  end
end

-- KEYS: refreshing; erased; due, waiting, leased and refreshed of each version; then one history a user.
-- ARGV: length, ttl_ms, the policy, how many of the versions (the first ones) have users that become due, how many
-- versions there are, their names; then three a user: its id, the milliseconds up to which it is erased first (0: it
-- is not; a moment to come counts as now), its packed records. A record from before a user's erasure is left out. A
-- record is the score (i64, big-endian), the member's length (u32) and the member.
-- Adding the same record again changes nothing, and what is kept does not depend on the order of calls: the newest
-- `length` by (score, member) of all that came. Answers the number of records that changed a history; nothing changes
-- where a version is refreshed that the caller does not know.
local function append(keys, args)
  local length, ttl, policy = tonumber(args[1]), args[2], policy_of(args, 3)
  local n_marked, n_versions = tonumber(args[6]), tonumber(args[7])
  if not all_known(keys[1], args, 8, 7 + n_versions) then
    return redis.error_reply('FRESHET_VERSIONS another version is refreshed since')
  end
  local sets = {}
  for v = 0, n_versions - 1 do sets[v + 1] = { unpack(keys, 3 + 4 * v, 6 + 4 * v) } end
  local total, users, events, n_users = 0, {}, {}, 0
  local at, first_user = 8 + n_versions, 3 + 4 * n_versions
  local names, now = {}, now_ms()
  for i = at, #args, 3 do names[#names + 1] = args[i] end
  local bounds = erased_until(keys[2], names)
  for u = first_user, #keys do
    local user, moment, data = args[at], tonumber(args[at + 1]), args[at + 2]
    local bound = tonumber(bounds[u - first_user + 1] or -1)
    at = at + 3
    if moment > 0 then
      moment = math.min(moment, now)
      erase(keys[2], keys[u], sets, user, moment, bound > 0 and bound)
      bound = math.max(bound, moment)
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
  for v = 1, n_marked do note(sets[v], policy, users, events) end
  return total
end

-- KEYS: due, waiting, leased, refreshed, then one history a user. ARGV: the policy, then one user each.
-- As if each user that has a history had new events, as many as make one due; who is due or waits keeps its place.
-- Answers how many have a history.
local function mark_due(keys, args)
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
  place(keys, policy, now_ms(), new, events)
  return #users
end

-- KEYS: refreshing. ARGV: version, memory_ms. The version's users become due by new events for the next `memory_ms`.
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

-- KEYS: due, waiting, leased, refreshed. Answers how many are due, waiting and leased, and for how many milliseconds
-- the first in line has been due.
local function state(keys)
  local head = redis.call('ZRANGE', keys[DUE], 0, 0, 'WITHSCORES')
  local age = head[2] and math.max(0, now_ms() - math.floor(tonumber(head[2]))) or 0
  return { redis.call('ZCARD', keys[DUE]), redis.call('ZCARD', keys[WAITING]), redis.call('ZCARD', keys[LEASED]), age }
end

-- Users whose refresh came to nothing go to the front: they stood there when they were claimed.
local function give_back(keys, now, users)
  if #users == 0 then return end
  local head = redis.call('ZRANGE', keys[DUE], 0, 0, 'WITHSCORES')
  local front = head[2] and math.min(now, (unmark(head[2]))) or now
  local in_waiting = redis.call('ZMSCORE', keys[WAITING], unpack(users))
  local due = {}
  for i, user in ipairs(users) do
    local _, events = unmark(in_waiting[i] or 0)
    due[#due + 1], due[#due + 2] = mark(front, events), user
  end
  zrem(keys[WAITING], users)
  zadd(keys[DUE], due, 'LT')
end

-- Users whose moment has come, oldest first, at most `limit`.
local function promote(keys, policy, now, limit)
  local rows = redis.call('ZRANGEBYSCORE', keys[WAITING], '-inf', '(' .. now + 1, 'WITHSCORES', 'LIMIT', 0, limit)
  local users, due = {}, {}
  for i = 1, #rows, 2 do
    local moment, events = unmark(rows[i + 1])
    users[#users + 1] = rows[i]
    due[#due + 1], due[#due + 2] = mark(moment - bonus(policy, events), events), rows[i]
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
-- Whatever stands in the sets, the work is bounded by `limit`; what is left over waits for the next claim. No fewer are
-- promoted than claimed, so that nobody in `due` passes an older one in `waiting`; twice as many refreshes are
-- forgotten as can be noted, so that they do not pile up.
local function claim(keys, args)
  local limit, lease, policy = tonumber(args[1]), tonumber(args[2]), policy_of(args, 3)
  local now = now_ms()
  local expiry = now + lease
  take(keys[REFRESHED], now - policy.patience, 2 * limit)
  promote(keys, policy, now, limit + AHEAD)
  give_back(keys, now, take(keys[LEASED], now, limit))
  local claimed = { string.format('%.0f', expiry) }
  for _ = 1, ROUNDS do
    local wanted = limit + 1 - #claimed
    local rows = wanted > 0 and redis.call('ZPOPMIN', keys[DUE], wanted) or {}
    if #rows == 0 then break end
    local users, leased, waiting = {}, {}, {}
    for i = 1, #rows, 2 do users[#users + 1] = rows[i] end
    local leases = redis.call('ZMSCORE', keys[LEASED], unpack(users))
    local refreshes = redis.call('ZMSCORE', keys[REFRESHED], unpack(users))
    for i, user in ipairs(users) do
      local moment = math.max(tonumber(leases[i] or 0), refreshes[i] and tonumber(refreshes[i]) + policy.interval or 0)
      if moment > now then  -- marked by a worker of another release or policy
        local _, events = unmark(rows[2 * i])
        waiting[#waiting + 1], waiting[#waiting + 2] = mark(moment, events), user
      else
        leased[#leased + 1], leased[#leased + 2] = expiry, user
        claimed[#claimed + 1] = user
      end
    end
    zadd(keys[LEASED], leased)
    zadd(keys[WAITING], waiting)
  end
  return claimed
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
    give_back(keys, now, held)
    return #held
  end
  local refreshed, moving, events = {}, {}, {}
  local in_waiting = redis.call('ZMSCORE', keys[WAITING], unpack(held))
  for i, user in ipairs(held) do
    refreshed[#refreshed + 1], refreshed[#refreshed + 2] = now, user
    if in_waiting[i] then
      local _, since = unmark(in_waiting[i])
      moving[#moving + 1], events[#events + 1] = user, since
    end
  end
  zadd(keys[REFRESHED], refreshed)
  place(keys, policy, now, moving, events, true)
  return #held
end

-- KEYS: erased. ARGV: digest and moment in turn. What an earlier Redis knew; the later moment of a user stays.
local function restore(keys, args)
  for i = 1, #args, 2 do redis.call('ZADD', keys[1], 'GT', args[i + 1], args[i]) end
  return redis.status_reply('OK')
end

-- KEYS: erasures-owed. ARGV: user and moment in turn. Forgets those that are owed nothing later.
local function settle(keys, args)
  for i = 1, #args, 2 do
    local owed = redis.call('ZSCORE', keys[1], args[i])
    if owed and tonumber(owed) <= tonumber(args[i + 1]) then redis.call('ZREM', keys[1], args[i]) end
  end
  return redis.status_reply('OK')
end

redis.register_function('freshet_append_DIGEST', append)
redis.register_function('freshet_settle_DIGEST', settle)
redis.register_function('freshet_restore_DIGEST', restore)
redis.register_function('freshet_mark_DIGEST', mark_due)
redis.register_function('freshet_announce_DIGEST', announce)
redis.register_function('freshet_refreshing_DIGEST', refreshing)
redis.register_function('freshet_state_DIGEST', state)
redis.register_function('freshet_claim_DIGEST', claim)
redis.register_function('freshet_finish_DIGEST', finish)
