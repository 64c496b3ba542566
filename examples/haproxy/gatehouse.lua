-- Asks Gatehouse whether a request may pass:
--
--   http-request lua.gatehouse HOST:PORT
--
-- The variable txn.gatehouse holds what is required beyond a live session, as a query. A request that
-- may pass has txn.gatehouse_allowed set and carries the identity headers; any other is answered here,
-- as Gatehouse says, and with 503 when Gatehouse says nothing.

local OURS = {
    "remote-user",
    "remote-groups",
    "remote-email",
    "remote-name",
    "remote-session",
    "x-gatehouse-assertion",
}

-- They speak of the client's connection, or of its body, which Gatehouse is not sent.
local NOT_ASKED = {
    ["host"] = true,
    ["content-length"] = true,
    ["transfer-encoding"] = true,
    ["expect"] = true,
    ["upgrade"] = true,
    ["connection"] = true,
    ["keep-alive"] = true,
    ["proxy-connection"] = true,
    ["te"] = true,
    ["trailer"] = true,
}

-- Milliseconds; HAProxy asks up to four times. Gatehouse answers from memory, in less than one.
local PATIENCE = 250

local function ask(txn, address)
    local headers = {}
    for name, values in pairs(txn.http:req_get_headers()) do
        if not NOT_ASKED[name] then
            headers[name] = {}
            for i = 0, #values do
                table.insert(headers[name], values[i])
            end
        end
    end
    local url = "http://" .. address .. "/authz/forward-auth"
    local required = txn:get_var("txn.gatehouse")
    if required then
        url = url .. "?" .. required
    end
    return core.httpclient():get({ url = url, headers = headers, timeout = PATIENCE })
end

local function first(values)
    return values and values[0] or ""
end

core.register_action("gatehouse", { "http-req" }, function(txn, address)
    local asked, answer = pcall(ask, txn, address)
    if asked and answer.status == 200 then
        for _, name in ipairs(OURS) do
            txn.http:req_set_header(name, first(answer.headers[name]))
        end
        local cookie = answer.headers["set-cookie"]
        if cookie then
            txn:set_var("txn.gatehouse_cookie", cookie[0])
        end
        txn:set_var("txn.gatehouse_allowed", true)
        return
    end

    local reply = txn:reply({ status = 503 })
    if asked and answer.status and answer.status >= 300 then
        reply:set_status(answer.status)
        for name, values in pairs(answer.headers) do
            if name ~= "content-length" and name ~= "transfer-encoding" and name ~= "connection" then
                for i = 0, #values do
                    reply:add_header(name, values[i])
                end
            end
        end
    end
    txn:done(reply)
end, 1)
