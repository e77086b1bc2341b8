-- Prelude. The server's clock in epoch milliseconds: workers of several hosts need not agree on a clock of their own.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
