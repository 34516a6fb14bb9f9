-- The twin of limit/gcra.rs and limit/window.rs: several groups of checks in one call, each taken all or none, later
-- groups seeing what earlier ones spent. Integers in, integers out.
--
-- KEYS     distinct keys of one slot
-- ARGV[1]  little-endian: u16 quotas, u16 ops; quotas as two doubles (limit, period in us) or (burst, -interval in ns);
--          ops as u8 key, u8 quota, u8 flags, u32 units; then the doubles that flags announce, in order of the ops
-- ARGV[2]  the time in us, where a test gives it
--
-- flags    1 enforced, 2 last of its group, 4 only asks, 8 refunds (+ when it was charged, us), 16 charges unasked,
--          32 leases what it can (+ how much is wanted, + a bucket's lease life in us), 64 forgets the key
--
-- returns  the time in us; then for each op that asks or takes: what is used (a window's units, a bucket's debt in ns)
--          where it was charged, else -1 - used, and for a window also its reset and wait in us; then for each lease
--          what was granted and, where anything was, for how many us; at the end the sum of all, each modulo 2^32
--
-- A key holds a byte and doubles. 1, a bucket: quota, time in us, debt in ns at that time. 2, a window: quota, time of its
-- last charge, total, oldest and newest sub-bucket, the units in the newest, and a u32 for each sub-bucket before it.
local BUCKETS = 50
local WHOLE = 4294967296
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local call = redis.call
local pack, unp, byte, sub, rep = struct.pack, struct.unpack, string.byte, string.sub, string.rep

local now = tonumber(ARGV[2])
-- Real time does not pass with a test's: its keys stay longer.
local grace = now and 3600000 or 0
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

local blob = ARGV[1]
local nq, nops, at = unp('<HH', blob)
local quotas = { unp('<' .. rep('dd', nq), blob, at) }
at = quotas[2 * nq + 1]
local ops = { unp('<' .. rep('BBBI4', nops), blob, at) }
at = ops[4 * nops + 1]
local function more()
  local value
  value, at = unp('<d', blob, at)
  return value
end

local held = call('MGET', unpack(KEYS))
local states, dirty = {}, {}
local out, n = { now }, 1

-- Buckets: `debt` is relative to now once a state is loaded.

local function bucket_at(burst, interval, share)
  return ceil(burst * interval * share / WHOLE)
end

-- Windows.

local function roll(s)
  local t = max(now, s.t)
  if s.total == 0 or s.t + s.q2 <= t then
    s.total, s.oldest, s.newest, s.last, s.body = 0, 0, 0, 0, ''
    return
  end
  local width = s.q2 / BUCKETS
  local gone = min(max(floor((t - s.q2) / width), 0), s.newest) - s.oldest
  if gone > 0 then
    local counts = { unp('<' .. rep('I4', gone), s.body) }
    for i = 1, gone do s.total = s.total - counts[i] end
    s.oldest, s.body = s.oldest + gone, sub(s.body, 4 * gone + 1)
  end
end

local function charge(s, units, t)
  t = max(t, s.t)
  local bucket = floor(t / (s.q2 / BUCKETS))
  if s.total == 0 then
    s.oldest, s.last, s.body = bucket, units, ''
  elseif bucket == s.newest then
    s.last = min(s.last + units, WHOLE - 1)
  else
    s.body = s.body .. pack('<I4', s.last) .. rep('\0\0\0\0', bucket - s.newest - 1)
    s.last = units
  end
  s.newest, s.t, s.total = bucket, t, min(s.total + units, WHOLE - 1)
end

-- How long until `units` fit, in us; 0 where they do.
local function window_wait(s, units)
  if units > s.q1 then return s.q2 end
  local excess = s.total + units - s.q1
  if excess <= 0 then return 0 end
  local freed, buckets = 0, s.newest - s.oldest
  if buckets > 0 then
    local counts = { unp('<' .. rep('I4', buckets), s.body) }
    for i = 1, buckets do
      freed = freed + counts[i]
      if freed >= excess then
        return max((s.oldest + i) * (s.q2 / BUCKETS) + s.q2 - now, 1)
      end
    end
  end
  return max(s.t + s.q2 - now, 1)
end

local function window_refund(s, units, charged)
  local bucket = floor(charged / (s.q2 / BUCKETS))
  if s.total == 0 or bucket < s.oldest or bucket > s.newest then return end
  local back
  if bucket == s.newest then
    back = min(units, s.last)
    s.last = s.last - back
  else
    local from = 4 * (bucket - s.oldest) + 1
    local count = unp('<I4', s.body, from)
    back = min(units, count)
    s.body = sub(s.body, 1, from - 1) .. pack('<I4', count - back) .. sub(s.body, from + 4)
  end
  s.total = s.total - back
end

-- A quota that changed under a key keeps the key's used share.
local function adapt(s, q1, q2)
  local share
  if s.q2 < 0 then
    share = ceil(s.debt / max(s.q1 * -s.q2, 1) * WHOLE)
  else
    roll(s)
    share = ceil(s.total * WHOLE / max(s.q1, 1))
  end
  local same = s.q2 == q2 and q2 > 0
  local was, t = s.q1, s.q2 > 0 and min(s.t, now) or now
  s.q1, s.q2 = q1, q2
  if same then
    if s.total == 0 then return end
    local buckets = s.newest - s.oldest
    local counts = { unp('<' .. rep('I4', buckets), s.body) }
    counts[buckets + 1] = s.last
    local seen, given, scaled = 0, 0, {}
    for i = 1, buckets + 1 do
      seen = seen + counts[i]
      local upto = ceil(seen * q1 / max(was, 1))
      s.last = min(upto - given, WHOLE - 1)
      scaled[i] = i <= buckets and pack('<I4', s.last) or ''
      given = upto
    end
    s.total, s.body = min(given, WHOLE - 1), table.concat(scaled)
    return
  end
  share = min(share, WHOLE)
  if q2 < 0 then
    s.debt = bucket_at(q1, -q2, share)
    return
  end
  s.t, s.total, s.oldest, s.newest, s.last, s.body = 0, 0, 0, 0, 0, ''
  charge(s, max(ceil((share * q1 - 2 * q1) / WHOLE), 0), t)
end

local function decode(v)
  local size, kind = v and #v or 0, v and byte(v)
  if kind == 1 and size == 33 then
    local b, i, t, debt = unp('<dddd', v, 2)
    return { q1 = b, q2 = i, t = t, debt = max(0, debt - (now - t) * 1000) }
  elseif kind == 2 and size >= 57 then
    local l, p, t, total, oldest, newest, last = unp('<ddddddd', v, 2)
    if size == 57 + 4 * (newest - oldest) then
      return { q1 = l, q2 = p, t = t, total = total, oldest = oldest, newest = newest, last = last, body = sub(v, 58) }
    end
  end
end

-- Written once for all keys that share it.
local written = {}
local function ms(span)
  local text = written[span]
  if not text then
    text = string.format('%d', span)
    written[span] = text
  end
  return text
end

-- Whether there was anything to store.
local function store(name, s)
  if s.q2 < 0 and s.debt > 0 then
    call('PSETEX', name, ms(ceil(s.debt / 1000000) + grace), pack('<Bdddd', 1, s.q1, s.q2, now, s.debt))
    return true
  elseif s.q2 > 0 and s.total > 0 then
    local value = pack('<Bddddddd', 2, s.q1, s.q2, s.t, s.total, s.oldest, s.newest, s.last) .. s.body
    call('PSETEX', name, ms(max(ceil((s.t + s.q2 - now) / 1000), 1) + grace), value)
    return true
  end
end

local function used_share(s)
  if s.q2 < 0 then return s.debt / max(s.q1 * -s.q2, 1) end
  roll(s)
  return s.total / max(s.q1, 1)
end

-- After how many us nothing that was used counts any more.
local function memory(q1, q2)
  return q2 < 0 and q1 * -q2 / 1000 or q2
end

-- A key carries its used share to another quota, and takes up again what it had used under that one before, if that is
-- more. What is counted for longer than under the new quota is set aside for that.
local function change(k, s, q1, q2)
  local function aside(l, p) return string.format('%s:%.17g:%.17g', KEYS[k], l, p) end
  if memory(s.q1, s.q2) > memory(q1, q2) and used_share(s) > 0 then store(aside(s.q1, s.q2), s) end
  local name = aside(q1, q2)
  local own = call('GET', name)
  if own then
    call('DEL', name)
    own = decode(own)
  end
  adapt(s, q1, q2)
  if own and own.q1 == q1 and own.q2 == q2 and used_share(own) > used_share(s) then return own end
  return s
end

-- A key that has done nothing, and what it did under this quota before.
local function forget(k, q1, q2)
  states[k] = { q1 = q1, q2 = q2, t = 0, debt = 0, total = 0, oldest = 0, newest = 0, last = 0, body = '' }
  dirty[k] = true
  call('DEL', string.format('%s:%.17g:%.17g', KEYS[k], q1, q2))
end

-- The state of a key under this quota, loaded once a call.
local function state(k, q1, q2)
  local s = states[k]
  if not s then
    -- What nobody has written, or somebody else has, is a key that has done nothing.
    s = decode(held[k])
      or { q1 = q1, q2 = q2, t = 0, debt = 0, total = 0, oldest = 0, newest = 0, last = 0, body = '' }
    states[k] = s
  end
  if s.q1 ~= q1 or s.q2 ~= q2 then
    s = change(k, s, q1, q2)
    states[k] = s
    dirty[k] = true
  end
  return s
end

local function wait_of(s, units)
  if s.q2 < 0 then return max(s.debt + (s.q1 - units) * s.q2, 0) end
  roll(s)
  return window_wait(s, units)
end

local function take(k, s, units)
  if s.q2 < 0 then s.debt = s.debt - units * s.q2 else charge(s, units, now) end
  dirty[k] = true
end

-- A lease is charged as of its end, so that whenever its units are spent they have been counted until late enough. At
-- most a quarter of what is left, so that no node holds what others need.
local function lease(k, s, want, life)
  local granted
  if s.q2 < 0 then
    local base = max(s.debt, life * 1000)
    granted = min(want, floor((base + s.q1 * s.q2) / s.q2 / 4))
    if granted >= 1 then s.debt = base - granted * s.q2 end
  else
    local width = s.q2 / BUCKETS
    local last = (floor(max(now, s.t) / width) + 1) * width - 1
    granted, life = min(want, floor((s.q1 - s.total) / 4)), last - now
    if granted >= 1 and life > 0 then charge(s, granted, last) else granted = 0 end
  end
  if granted >= 1 then dirty[k] = true else granted = 0 end
  return granted, life
end

local function report(s, charged, wait)
  n = n + 1
  local used = s.q2 < 0 and s.debt or s.total
  if charged then
    out[n] = used
    return
  end
  out[n] = -1 - used
  if s.q2 > 0 then
    out[n + 1] = s.total == 0 and 0 or max(s.t + s.q2 - now, 0)
    out[n + 2] = wait
    n = n + 2
  end
end

local i, waits = 0, {}
while i < nops do
  local first, admits = i, true
  repeat
    local o = 4 * i
    local k, q, flags, units = ops[o + 1], ops[o + 2], ops[o + 3], ops[o + 4]
    local q1, q2 = quotas[2 * q - 1], quotas[2 * q]
    if flags >= 64 then forget(k, q1, q2) end
    local s = state(k, q1, q2)
    if flags >= 64 then
      -- Nothing is left to do.
    elseif flags % 32 >= 16 then
      wait_of(s, 0)
      take(k, s, units)
    elseif flags % 16 >= 8 then
      local charged = more()
      if s.q2 < 0 then
        s.debt = max(0, s.debt - max(0, units * -s.q2 - max(0, now - charged) * 1000))
      else
        roll(s)
        window_refund(s, units, charged)
      end
      dirty[k] = true
    else
      local wait = wait_of(s, units)
      waits[i] = wait
      if wait > 0 and flags % 2 == 1 then admits = false end
    end
    i = i + 1
  until flags % 4 >= 2 or i == nops
  for j = first, i - 1 do
    local o = 4 * j
    local k, flags, units, wait = ops[o + 1], ops[o + 3], ops[o + 4], waits[j]
    if wait then
      local s = states[k]
      local charged = admits and wait == 0 and flags % 8 < 4
      if charged then take(k, s, units) end
      local granted, life
      if flags % 64 >= 32 then
        local want, span = more(), more()
        granted, life = 0, 0
        if charged then granted, life = lease(k, s, want, span) end
      end
      report(s, charged, wait)
      if granted then
        n = n + 1
        out[n] = granted
        if granted > 0 then
          n = n + 1
          out[n] = life
        end
      end
    end
  end
end

for k in pairs(dirty) do
  if not store(KEYS[k], states[k]) and held[k] then call('DEL', KEYS[k]) end
end
local sum = 0
for j = 1, n do sum = sum + out[j] % WHOLE end
out[n + 1] = sum
return out
