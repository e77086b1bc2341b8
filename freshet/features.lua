-- Newer wins: the one way in which features, knowledge and deletions enter Redis.
-- freshet/writer.py calls this and puts the library header and the digest in; freshet/blob.py defines the bytes.

local HEADER, FORMAT, DELETED = 40, 1, 1
local DTYPES = { 'float16', 'bfloat16', 'int8' }
local FIRST_BLOB = 4
local WRITTEN, SAME, OLDER = 1, 0, -1

-- What decides which of two blobs stays, most significant first: event time, tier, sequence. The 64-bit numbers come
-- as two halves, as a Lua number holds 53 bits exactly. Strings are no way out: Lua compares them by the server's locale.
local function order(blob)
  local time_low, time_high = struct.unpack('<I4i4', blob, 9)
  local sequence_low, sequence_high = struct.unpack('<I4i4', blob, 25)
  return time_high, time_low, string.byte(blob, 3), sequence_high, sequence_low
end

local function compare(new, old)
  local a1, a2, a3, a4, a5 = order(new)
  local b1, b2, b3, b4, b5 = order(old)
  if a1 ~= b1 then return a1 > b1 and WRITTEN or OLDER end
  if a2 ~= b2 then return a2 > b2 and WRITTEN or OLDER end
  if a3 ~= b3 then return a3 > b3 and WRITTEN or OLDER end
  if a4 ~= b4 then return a4 > b4 and WRITTEN or OLDER end
  if a5 ~= b5 then return a5 > b5 and WRITTEN or OLDER end
  return SAME
end

local function is_deletion(blob)
  return string.byte(blob, 4) % 2 == DELETED
end

-- A version has one shape, '128 float16'. Nothing of a call is written where one of its vectors has another.
local function check_shape(key, blobs)
  local known = redis.call('GET', key)
  local shape = known
  for i = FIRST_BLOB, #blobs do
    local blob = blobs[i]
    if #blob < HEADER or string.byte(blob, 1) ~= FORMAT then
      return redis.error_reply('FRESHET_BLOB argument ' .. i .. ' is no blob of format ' .. FORMAT)
    end
    local dims = struct.unpack('<I2', blob, 5)
    if dims > 0 then
      local dtype = DTYPES[string.byte(blob, 2)]
      if not dtype then return redis.error_reply('FRESHET_BLOB argument ' .. i .. ' has an unknown dtype') end
      local own = dims .. ' ' .. dtype
      shape = shape or own
      if own ~= shape then
        return redis.error_reply('FRESHET_SHAPE the version has ' .. shape .. ', a vector has ' .. own)
      end
    end
  end
  if shape and not known then redis.call('SET', key, shape) end
end

-- Keep the two indexes of items in step with what was written; `live` says of each id whether it lives now.
local function index(items, deleted, live, mark_ttl)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local born, died, born_ids, died_ids = {}, {}, {}, {}
  for id, lives in pairs(live) do
    local scored, ids = lives and born or died, lives and born_ids or died_ids
    scored[#scored + 1] = now
    scored[#scored + 1] = id
    ids[#ids + 1] = id
  end
  if #born > 0 then
    redis.call('ZADD', items, unpack(born))
    redis.call('ZREM', deleted, unpack(born_ids))
  end
  if #died > 0 then
    redis.call('ZADD', deleted, unpack(died))
    redis.call('ZREM', items, unpack(died_ids))
  end
  redis.call('ZREMRANGEBYSCORE', deleted, '-inf', now - mark_ttl)
end

-- KEYS: shape, items, deleted, then one key a blob; the same key may come twice.
-- ARGV: ttl_ms of features (0: for ever), ttl_ms of deletions, how many leading bytes of an item key are not its id
-- (0: keep no index), then the blobs. Answers 1 (written), 0 (same) or -1 (older) for each.
local function put(keys, args)
  local ttl, mark_ttl, cut = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  local refused = check_shape(keys[1], args)
  if refused then return refused end
  local answers, live = {}, {}
  for i = FIRST_BLOB, #keys do
    local key, blob = keys[i], args[i]
    local header = redis.call('GETRANGE', key, 0, HEADER - 1)
    local answer = #header == HEADER and compare(blob, header) or WRITTEN
    if answer == WRITTEN then
      local life = is_deletion(blob) and mark_ttl or ttl
      if life > 0 then
        redis.call('SET', key, blob, 'PX', life)
      else
        redis.call('SET', key, blob)
      end
      if cut > 0 then live[string.sub(key, cut + 1)] = not is_deletion(blob) end
    end
    answers[i - FIRST_BLOB + 1] = answer
  end
  if next(live) then index(keys[2], keys[3], live, mark_ttl) end
  return answers
end

redis.register_function('freshet_put_DIGEST', put)
