-- Tombstone times of erased users, and erasures with work pending. Called by store/erasure_watermarks.py; histories.lua
-- sets the tombstone time itself, in the call that deletes the history.

-- KEYS: erased. ARGV: digest and timestamp in turn. Brings back what an earlier Redis held; a user's later one stays.
local function restore(keys, args)
  for i = 1, #args, 2 do redis.call('ZADD', keys[1], 'GT', args[i + 1], args[i]) end
  return redis.status_reply('OK')
end

-- KEYS: erasures-owed. ARGV: user and timestamp in turn. Removes users without a later erasure: between the caller's
-- read and this call, one may have been erased again.
local function done(keys, args)
  for i = 1, #args, 2 do
    local pending = redis.call('ZSCORE', keys[1], args[i])
    if pending and tonumber(pending) <= tonumber(args[i + 1]) then redis.call('ZREM', keys[1], args[i]) end
  end
  return redis.status_reply('OK')
end

redis.register_function('freshet_restore_DIGEST', restore)
redis.register_function('freshet_done_DIGEST', done)
