-- Prelude. The refresh queue of a version: its four sorted sets, its scores, and where a user is filed.
-- histories.lua enqueues users with new events; refresh_queue.lua leases them.

-- A user with events that its features do not reflect is in one of two sorted sets: in `due`, where it may be leased, or
-- in `waiting` until the timestamp from which it may. A score is that timestamp in milliseconds; its fraction counts the
-- events since the last refresh. A double has 53 bits, which leaves ten for the count until the year 2248.
local UNIT, MAX_EVENTS = 1024, 1023
-- Events beyond this many do not move a user further forward.
local BONUS_EVENTS = 64

-- Where each sorted set stands among the keys of a version.
local DUE, WAITING, LEASED, REFRESHED = 1, 2, 3, 4

local function pack_score(timestamp, events)
  return timestamp + math.min(events, MAX_EVENTS) / UNIT
end

local function unpack_score(score)
  score = tonumber(score)
  local timestamp = math.floor(score)
  return timestamp, math.max(1, (score - timestamp) * UNIT)
end

-- The policy in a function's ARGV, from `at` on: events, stale_ms, interval_ms.
local function policy_of(args, at)
  local events, stale, interval = tonumber(args[at]), tonumber(args[at + 1]), tonumber(args[at + 2])
  return {
    events = events,
    interval = interval,
    -- Pause after a refresh for a user with fewer events than `events`; where one event is enough, nobody has fewer.
    patience = events > 1 and math.max(stale, interval) or interval,
    -- Counting beyond this many events would change neither a user's set nor its order.
    enough = math.max(events, BONUS_EVENTS),
  }
end

-- Milliseconds of waiting that this many events are worth. The logarithm makes staleness + bonus order users as
-- staleness * events does while staleness is about one interval; it is at most ln 64 = 4.2 intervals.
local function bonus(policy, events)
  return math.floor(math.max(policy.interval, 1000) * math.log(math.min(events, BONUS_EVENTS)))
end

local function zadd(key, rows, option)
  if #rows == 0 then return end
  if option then redis.call('ZADD', key, option, unpack(rows)) else redis.call('ZADD', key, unpack(rows)) end
end

local function zrem(key, users)
  if #users > 0 then redis.call('ZREM', key, unpack(users)) end
end

-- Put users, each with its events since the last refresh, into `due` or, until they may be leased, into `waiting`.
local function schedule(keys, policy, now, users, events, were_waiting)
  if #users == 0 then return end
  local leases = redis.call('ZMSCORE', keys[LEASED], unpack(users))
  local refreshes = redis.call('ZMSCORE', keys[REFRESHED], unpack(users))
  local due, waiting, ready = {}, {}, {}
  for i, user in ipairs(users) do
    local ready_at = now
    if refreshes[i] then
      local pause = events[i] >= policy.events and policy.interval or policy.patience
      ready_at = math.max(ready_at, tonumber(refreshes[i]) + pause)
    end
    if leases[i] then ready_at = math.max(ready_at, tonumber(leases[i])) end
    if ready_at > now then
      waiting[#waiting + 1], waiting[#waiting + 2] = pack_score(ready_at, events[i]), user
    else
      if were_waiting then ready[#ready + 1] = user end
      due[#due + 1], due[#due + 2] = pack_score(now - bonus(policy, events[i]), events[i]), user
    end
  end
  zrem(keys[WAITING], ready)
  zadd(keys[DUE], due)
  zadd(keys[WAITING], waiting)
end
