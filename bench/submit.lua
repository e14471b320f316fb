-- For wrk: every request submits one job with a bucket id of its own.
-- Arguments after `--`: the API secret.

local threads = {}

function setup(thread)
   thread:set("number", #threads + 1)
   table.insert(threads, thread)
end

function init(args)
   refused = 0
   -- Every thread its own numbers: os.time() alone is the same for all.
   math.randomseed(os.time() * 1000 + number)
   wrk.method = "POST"
   wrk.headers["Authorization"] = "Bearer " .. args[1]
   wrk.headers["Content-Type"] = "application/json"
end

local function hex(digits)
   return string.format("%0" .. digits .. "x", math.random(0, 16 ^ digits - 1))
end

function request()
   local bucket = table.concat(
      { hex(4) .. hex(4), hex(4), "4" .. hex(3), "a" .. hex(3), hex(6) .. hex(6) }, "-")
   return wrk.format(nil, nil, nil,
      '{"bucket_id": "' .. bucket .. '", "image": "psi4:1.5", "hold": true}')
end

function response(status)
   if status >= 400 then refused = refused + 1 end
end

-- One line for the program that started wrk.
function done(summary, latency)
   local total = 0
   for _, thread in ipairs(threads) do
      total = total + thread:get("refused")
   end
   io.write(string.format("RESULT %d %d %d %.0f\n",
      summary.requests, summary.duration, total, latency:percentile(99)))
end
