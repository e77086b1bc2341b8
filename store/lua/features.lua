-- Newer wins: the only way by which features, knowledge and deletions enter Redis.
-- Called by store/feature_writer.py; sdk/src/freshet/blob.py defines the bytes.

local HEADER, FORMAT, DELETED = 40, 1, 1
local DTYPES = { 'float16', 'bfloat16', 'int8' }
local FIRST_KEY, FIRST_BLOB = 5, 4
local WRITTEN, SAME, OLDER = 1, 0, -1

-- Which of two blobs stays is decided by, most significant first: event time, tier, sequence. The 64-bit numbers are
-- compared in halves, as a Lua number holds 53 bits exactly; as strings Lua would compare them by the server's locale.
local function compare(new, old)
  local a_low, a_high = struct.unpack('<I4i4', new, 9)
  local b_low, b_high = struct.unpack('<I4i4', old, 9)
  if a_high ~= b_high then return a_high > b_high and WRITTEN or OLDER end
  if a_low ~= b_low then return a_low > b_low and WRITTEN or OLDER end
  local a_tier, b_tier = string.byte(new, 3), string.byte(old, 3)
  if a_tier ~= b_tier then return a_tier > b_tier and WRITTEN or OLDER end
  a_low, a_high = struct.unpack('<I4i4', new, 25)
  b_low, b_high = struct.unpack('<I4i4', old, 25)
  if a_high ~= b_high then return a_high > b_high and WRITTEN or OLDER end
  if a_low ~= b_low then return a_low > b_low and WRITTEN or OLDER end
  return SAME
end

local function is_deletion(blob)
  return string.byte(blob, 4) % 2 == DELETED
end

-- A version has one shape, '128 float16'. Nothing of a call is written where one of its vectors has another.
-- Answers an error, or false and whether all blobs are deletions.
local function check(key, blobs)
  local known = redis.call('GET', key)
  local shape, checked, all_deleted = known, nil, true
  for i = FIRST_BLOB, #blobs do
    local blob = blobs[i]
    local format, dtype, _, flags, low, high = string.byte(blob, 1, 6)
    if #blob < HEADER or format ~= FORMAT then
      return redis.error_reply('FRESHET_BLOB argument ' .. i .. ' is no blob of format ' .. FORMAT)
    end
    all_deleted = all_deleted and flags % 2 == DELETED
    local dims = high * 256 + low
    local lead = dims * 256 + dtype
    if dims > 0 and lead ~= checked then
      if not DTYPES[dtype] then return redis.error_reply('FRESHET_BLOB argument ' .. i .. ' has an unknown dtype') end
      local own = dims .. ' ' .. DTYPES[dtype]
      shape = shape or own
      if own ~= shape then
        return redis.error_reply('FRESHET_SHAPE the version has ' .. shape .. ', a vector has ' .. own)
      end
      checked = lead
    end
  end
  return false, all_deleted, not known and shape
end

-- The blobs under the keys, false where there is none; an error where one holds another type than a string.
local function before(keys)
  local found = redis.call('MGET', unpack(keys, FIRST_KEY))
  local missing = {}
  for i, blob in ipairs(found) do
    if not blob then missing[#missing + 1] = keys[FIRST_KEY + i - 1] end
  end
  if #missing > 0 and redis.call('EXISTS', unpack(missing)) > 0 then
    for _, key in ipairs(missing) do redis.call('STRLEN', key) end
  end
  return found
end

-- Update the two indexes of items: scores and ids of the born (written) and of the died (deleted), then the ids of
-- those that were not alive before, and of the died.
local function index(keys, now, born, fresh, died, died_ids, ttl, mark_ttl)
  local items, deleted = keys[2], keys[3]
  if #born > 0 then redis.call('ZADD', items, unpack(born)) end
  if #fresh > 0 then redis.call('ZREM', deleted, unpack(fresh)) end
  if #died > 0 then
    redis.call('ZADD', deleted, unpack(died))
    redis.call('PEXPIRE', deleted, mark_ttl)
    redis.call('ZREM', items, unpack(died_ids))
  end
  redis.call('ZREMRANGEBYSCORE', deleted, '-inf', now - mark_ttl)
  if ttl > 0 then
    redis.call('ZREMRANGEBYSCORE', items, '-inf', now - ttl)
    redis.call('PEXPIRE', items, ttl)
  elseif #born > 0 then
    redis.call('PERSIST', items)
  end
end

-- Write the newest blob of each key, those without expiry in one command, and index those that are items (`cut` above
-- 0). Numbers that redis.call gets often are formatted once: it would format each one again, with 17 digits.
local function store(keys, found, current, ttl, mark_ttl, cut)
  local call, ttl_text, mark_ttl_text = redis.call, string.format('%.0f', ttl), string.format('%.0f', mark_ttl)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local score = string.format('%.0f', now)
  local forever, born, fresh, died, died_ids = {}, {}, {}, {}, {}
  for i = 1, #found do
    local key, old = keys[FIRST_KEY + i - 1], found[i]
    local blob = current[key]
    if blob then
      current[key] = nil
      local lives = not is_deletion(blob)
      if not lives or ttl > 0 then
        call('SET', key, blob, 'PX', lives and ttl_text or mark_ttl_text)
      else
        forever[#forever + 1] = key
        forever[#forever + 1] = blob
      end
      if cut > 0 then
        local id, scored = string.sub(key, cut + 1), lives and born or died
        scored[#scored + 1] = score
        scored[#scored + 1] = id
        if not lives then
          died_ids[#died_ids + 1] = id
        elseif not old or #old < HEADER or is_deletion(old) then
          fresh[#fresh + 1] = id
        end
      end
    end
  end
  if #forever > 0 then redis.call('MSET', unpack(forever)) end
  if #born + #died > 0 then index(keys, now, born, fresh, died, died_ids, ttl, mark_ttl) end
end

-- KEYS: shape, items, deleted, retired, then one key a blob; the same key may come twice.
-- ARGV: ttl_ms of features (0: forever), ttl_ms of deletions, how many leading bytes of an item key are not its id
-- (0: keep no index), then the blobs. Answers 1 (written), 0 (same) or -1 (older) for each.
-- All keys are read in one command and written in one, as each redis.call costs a microsecond; a key that comes twice
-- is compared with what its first blob left.
local function put(keys, args)
  local ttl, mark_ttl, cut = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  local refused, all_deleted, new_shape = check(keys[1], args)
  if refused then return refused end
  local answers = {}
  if redis.call('EXISTS', keys[4]) == 1 then
    if not all_deleted then return redis.error_reply('FRESHET_RETIRED the version is being deleted') end
    for i = FIRST_BLOB, #args do answers[i - FIRST_BLOB + 1] = SAME end
    return answers
  end
  local found, current = before(keys), {}
  for i = 1, #found do
    local key, blob = keys[FIRST_KEY + i - 1], args[FIRST_BLOB + i - 1]
    local old = current[key] or found[i]
    local answer = old and #old >= HEADER and compare(blob, old) or WRITTEN
    if answer == WRITTEN then current[key] = blob end
    answers[i] = answer
  end
  if next(current) then
    if new_shape then redis.call('SET', keys[1], new_shape) end
    store(keys, found, current, ttl, mark_ttl, cut)
  end
  return answers
end

redis.register_function('freshet_put_DIGEST', put)
