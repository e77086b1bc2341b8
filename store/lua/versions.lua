-- prelude: _clock.lua
-- Versions: the two pointers that rankers follow, what each version is made of, and who writes it.
-- Called by store/versions.py.
-- KEYS: active, previous, versions, and where a version has them manifest and workers, in this order.
-- A version's score in `versions` is the millisecond of its creation, negative once its deletion has begun, which is
-- irrevocable. Every answer begins with a word for the outcome of the call.

local ACTIVE, PREVIOUS, VERSIONS, MANIFEST, WORKERS = 1, 2, 3, 4, 5

local function pointer(key)
  return redis.call('GET', key) or ''
end

-- The score of a version, or nil.
local function born(keys, version)
  local score = redis.call('ZSCORE', keys[VERSIONS], version)
  return score and tonumber(score)
end

local function retiring(keys, version)
  return (born(keys, version) or 0) < 0
end

-- ARGV: version, 'any' | 'none' (only where none is active) | 'is' (only where the next one is), a version.
-- Answers {done | retiring | moved, the version active before}.
local function activate(keys, args)
  local version, active = args[1], pointer(keys[ACTIVE])
  if retiring(keys, version) then return { 'retiring', active } end
  if args[2] == 'none' and active ~= '' or args[2] == 'is' and active ~= args[3] then return { 'moved', active } end
  redis.call('ZADD', keys[VERSIONS], 'NX', now_ms(), version)
  if active ~= version then
    redis.call('SET', keys[ACTIVE], version)
    if active ~= '' then redis.call('SET', keys[PREVIOUS], active) end
  end
  return { 'done', active }
end

-- Answers {done | none, the version active before, the one active now}.
local function rollback(keys)
  local active, previous = pointer(keys[ACTIVE]), pointer(keys[PREVIOUS])
  if active == '' or previous == '' then return { 'none', active, active } end
  redis.call('SET', keys[ACTIVE], previous)
  redis.call('SET', keys[PREVIOUS], active)
  return { 'done', active, previous }
end

-- Answers {done, active, previous, version, score, version, score, ...}, oldest first.
local function names(keys)
  local answer = { 'done', pointer(keys[ACTIVE]), pointer(keys[PREVIOUS]) }
  for _, part in ipairs(redis.call('ZRANGE', keys[VERSIONS], 0, -1, 'WITHSCORES')) do answer[#answer + 1] = part end
  return answer
end

-- ARGV: version, who pins, then component and value in turn. Pins all, or none if one differs.
-- Answers {new | known | retiring} or {differs, component, pinned value, ...}.
local function pin(keys, args)
  local version = args[1]
  if retiring(keys, version) then return { 'retiring' } end
  local differing = { 'differs' }
  for i = 3, #args, 2 do
    local known = redis.call('HGET', keys[MANIFEST], args[i])
    if known and known ~= args[i + 1] then
      differing[#differing + 1], differing[#differing + 2] = args[i], known
    end
  end
  if #differing > 1 then return differing end
  local now = now_ms()
  for i = 3, #args, 2 do
    if redis.call('HSETNX', keys[MANIFEST], args[i], args[i + 1]) == 1 then
      redis.call('HSET', keys[MANIFEST], '@' .. args[i], string.format('%.0f %s', now, args[2]))
    end
  end
  return { redis.call('ZADD', keys[VERSIONS], 'NX', now, version) == 1 and 'new' or 'known' }
end

-- ARGV: version, worker, its description. Answers {done | retiring | gone | lost}: a worker that slept through the
-- deletion of its version does not bring it back; if there is no version at all, the server has lost its data.
local function beat(keys, args)
  local score = born(keys, args[1])
  if not score and redis.call('EXISTS', keys[VERSIONS], keys[ACTIVE]) == 0 then return { 'lost' } end
  if not score or score < 0 then
    redis.call('HDEL', keys[WORKERS], args[2])
    return { score and 'retiring' or 'gone' }
  end
  redis.call('HSET', keys[WORKERS], args[2], string.format('%.0f %s', now_ms(), args[3]))
  return { 'done' }
end

-- The workers of a version with a heartbeat in the last `live_ms`; removes the others.
local function alive(keys, live_ms)
  local now, found, rows = now_ms(), {}, redis.call('HGETALL', keys[WORKERS])
  for i = 1, #rows, 2 do
    if now - tonumber(string.match(rows[i + 1], '^%d+')) < live_ms then
      found[#found + 1] = rows[i]
    else
      redis.call('HDEL', keys[WORKERS], rows[i])
    end
  end
  return found
end

-- ARGV: version, live_ms, '1' to go on while workers are alive. Answers {done | active | previous} or {alive, worker, ...}.
local function retire(keys, args)
  local version = args[1]
  if version == pointer(keys[ACTIVE]) then return { 'active' } end
  if version == pointer(keys[PREVIOUS]) then return { 'previous' } end
  local score = born(keys, version) or now_ms()
  if score >= 0 then
    local workers = alive(keys, tonumber(args[2]))
    if #workers > 0 and args[3] ~= '1' then return { 'alive', unpack(workers) } end
    redis.call('ZADD', keys[VERSIONS], string.format('%.0f', -score), version)
  end
  return { 'done' }
end

-- ARGV: version, live_ms. Answers {done, worker, ...} with those that are alive.
local function workers(keys, args)
  return { 'done', unpack(alive(keys, tonumber(args[2]))) }
end

-- ARGV: version. The last step of a deletion. Answers {done | kept}.
local function forget(keys, args)
  if not retiring(keys, args[1]) then return { 'kept' } end
  redis.call('DEL', keys[MANIFEST], keys[WORKERS])
  redis.call('ZREM', keys[VERSIONS], args[1])
  return { 'done' }
end

redis.register_function('freshet_activate_DIGEST', activate)
redis.register_function('freshet_rollback_DIGEST', rollback)
redis.register_function('freshet_names_DIGEST', names)
redis.register_function('freshet_pin_DIGEST', pin)
redis.register_function('freshet_beat_DIGEST', beat)
redis.register_function('freshet_retire_DIGEST', retire)
redis.register_function('freshet_workers_DIGEST', workers)
redis.register_function('freshet_forget_DIGEST', forget)
