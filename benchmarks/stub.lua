-- A near-free S3 store: it reads and hashes what it is sent, and keeps nothing but sizes, ETags and counters.
-- The bucket's name says how it behaves, so that the store needs no set-up:
--   keys-N-*      lists N objects, dDDDDD/file-FFF.bin, all of one content
--   slow-R-*      takes at most R PUTs a second, in slots of 100 ms, and answers 503 SlowDown to the rest
--   far-MS-*      answers a PUT after MS
--   *-delay-MS-*  each page of its listing waits MS
--   anything else exists and is empty
-- An object PUT into a keys- bucket is listed with its new ETag, one PUT into another is listed there: those of
-- the form dDDDDD/file-FFF.bin in their order, then those of 1 MiB or more. Multipart uploads are known until they
-- are completed or aborted, and what they made can be asked for by HEAD. No signature or checksum is looked at.
-- GET and DELETE /-/counts: what was asked since the last DELETE.
local ffi = require "ffi"
ffi.cdef [[
typedef struct evp_md_ctx_st EVP_MD_CTX; typedef struct evp_md_st EVP_MD;
EVP_MD_CTX *EVP_MD_CTX_new(void); void EVP_MD_CTX_free(EVP_MD_CTX *); const EVP_MD *EVP_md5(void);
int EVP_DigestInit_ex(EVP_MD_CTX *, const EVP_MD *, void *);
int EVP_DigestUpdate(EVP_MD_CTX *, const void *, size_t);
int EVP_DigestFinal_ex(EVP_MD_CTX *, unsigned char *, unsigned int *);
]]
local C, counts, state = ffi.C, ngx.shared.counts, ngx.shared.state
local BODY = string.rep("x", 1024)
local ETAG = ngx.md5(BODY)
local XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
local PIECE, FILES_A_FOLDER = 262144, 1000
local Stub = {}

-- What was PUT, 32 dictionaries by folder: a page's thousand keys are looked up in one that the processor's cache holds.
local function kept(key) return ngx.shared["kept" .. (tonumber(key:match("^d%d%d%d(%d%d)/")) or 0) % 32] end

local function count(name, by) counts:incr(name, by or 1, 0) end

local function send(status, body, kind)
  ngx.status = status
  ngx.header["Content-Type"] = kind or "application/xml"
  ngx.header["Content-Length"] = #body
  ngx.print(body)
end

local function refuse(status, code)
  send(status, XML .. "<Error><Code>" .. code .. "</Code><Message>" .. code .. "</Message></Error>")
end

local function hex(bytes) return (bytes:gsub(".", function(c) return string.format("%02x", c:byte()) end)) end

-- The MD5 of the request's body and its size, read piece by piece: no copy on disk, little memory.
local function hash_body()
  local size = tonumber(ngx.var.http_content_length or 0)
  if size <= 65536 then
    ngx.req.read_body()
    local body = ngx.req.get_body_data() or ""
    count("READ", #body)
    return ngx.md5(body), #body
  end
  local socket = ngx.req.socket()
  local context, left, problem = C.EVP_MD_CTX_new(), size, nil
  C.EVP_DigestInit_ex(context, C.EVP_md5(), nil)
  while left > 0 and not problem do
    local piece, err = socket:receive(math.min(PIECE, left))
    if piece then
      C.EVP_DigestUpdate(context, piece, #piece)
      left = left - #piece
      count("READ", #piece)
    else
      problem = err
    end
  end
  local digest = ffi.new("unsigned char[16]")
  C.EVP_DigestFinal_ex(context, digest, nil)
  C.EVP_MD_CTX_free(context)
  if problem then return nil, 0 end
  return hex(ffi.string(digest, 16)), size
end

-- Listing -------------------------------------------------------------------------------------------------
local function key_of(i)
  return string.format("d%05d/file-%03d.bin", math.floor(i / FILES_A_FOLDER), i % FILES_A_FOLDER)
end

local function index_of(key)
  local folder, file = key:match("^d(%d%d%d%d%d)/file%-(%d%d%d)%.bin$")
  return folder and tonumber(folder) * FILES_A_FOLDER + tonumber(file)
end

-- The first index from `low` whose key fulfils `beyond`.
local function search(low, total, beyond)
  local high = total
  while low < high do
    local middle = math.floor((low + high) / 2)
    if beyond(key_of(middle)) then high = middle else low = middle + 1 end
  end
  return low
end

local BEFORE_ETAG = "</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;"
local AFTER_SIZE = "</Size><StorageClass>STANDARD</StorageClass></Contents>"

local function list(bucket, args)
  count("LIST")
  local is_synthetic = bucket:match("^keys%-(%d+)")
  local total, delay = tonumber(is_synthetic or state:get("n:" .. bucket) or 0), tonumber(bucket:match("delay%-(%d+)") or 0)
  if delay > 0 then ngx.sleep(delay / 1000) end
  local is_v2, prefix, delimiter = args["list-type"] == "2", args["prefix"] or "", args["delimiter"] or ""
  if prefix == true then prefix = "" end
  if delimiter == true then delimiter = "" end
  local most = math.min(tonumber(args["max-keys"]) or 1000, 1000)
  local after = is_v2 and args["start-after"] or args["marker"]
  local i
  if is_v2 and args["continuation-token"] then
    i = tonumber(args["continuation-token"])
  elseif after and after ~= true then
    i = search(0, total, function(key) return key > after end)
    if delimiter ~= "" and after:sub(-#delimiter) == delimiter then
      i = search(i, total, function(key) return key:sub(1, #after) > after end)
    end
  else
    i = 0
  end
  if prefix ~= "" then i = math.max(i, search(0, total, function(key) return key >= prefix end)) end
  local changed = {}
  for key, etag in (state:get("changed:" .. bucket) or ""):gmatch("([^=\n]+)=(%x+)") do changed[key] = etag end
  local out, found, last, truncated, stored_as = {}, 0, "", false, "o:" .. bucket .. "/"
  local folder, shelf
  while i < total do
    local key = key_of(i)
    if prefix ~= "" and key:sub(1, #prefix) ~= prefix then break end
    local etag, size = changed[key] or ETAG, "1024"
    if not is_synthetic then
      if key:sub(1, 6) ~= folder then folder, shelf = key:sub(1, 6), kept(key) end
      local stored = shelf:get(stored_as .. key)
      etag, size = stored and stored:sub(1, 32), stored and stored:sub(34)
    end
    if not etag then
      i = i + 1
      goto continue
    end
    if found == most then
      truncated = true
      break
    end
    found = found + 1
    local cut = delimiter ~= "" and key:find(delimiter, #prefix + 1, true)
    if cut then
      last = key:sub(1, cut + #delimiter - 1)
      out[#out + 1] = "<CommonPrefixes><Prefix>" .. last .. "</Prefix></CommonPrefixes>"
      i = search(i, total, function(k) return k:sub(1, #last) > last end)
    else
      -- A string for each object would have to be hashed, too.
      local at = #out
      out[at + 1], out[at + 2], out[at + 3] = "<Contents><Key>", key, BEFORE_ETAG
      out[at + 4], out[at + 5], out[at + 6], out[at + 7] = etag, "&quot;</ETag><Size>", size, AFTER_SIZE
      last, i = key, i + 1
    end
    ::continue::
  end
  if not truncated then
    for key in (state:get("large:" .. bucket) or ""):gmatch("[^\n]+") do
      local etag, size = (state:get("object:" .. bucket .. "/" .. key) or ""):match("(%S+) (%d+)")
      if etag and key:sub(1, #prefix) == prefix and key > (after or "") then
        out[#out + 1] = "<Contents><Key>" .. key .. "</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>" ..
          "<ETag>&quot;" .. etag .. "&quot;</ETag><Size>" .. size .. "</Size></Contents>"
        found = found + 1
      end
    end
  end
  count("KEYS", found)
  local more = ""
  if truncated then
    more = is_v2 and "<NextContinuationToken>" .. i .. "</NextContinuationToken>"
      or "<NextMarker>" .. last .. "</NextMarker>"
  end
  if is_v2 then more = more .. "<KeyCount>" .. found .. "</KeyCount>" end
  send(200, table.concat({ XML, '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>', bucket,
    "</Name><Prefix>", prefix, "</Prefix><MaxKeys>", most, "</MaxKeys><Delimiter>", delimiter, "</Delimiter>",
    args["encoding-type"] and "<EncodingType>url</EncodingType>" or "",
    "<IsTruncated>", tostring(truncated), "</IsTruncated>", more, table.concat(out), "</ListBucketResult>" }))
end

-- Objects -------------------------------------------------------------------------------------------------
local function keep_by_name(bucket, key, etag, size, mtime)
  state:set("object:" .. bucket .. "/" .. key, etag .. " " .. size .. " " .. mtime)
  local name = "large:" .. bucket
  local keys = state:get(name) or ""
  if not ("\n" .. keys):find("\n" .. key .. "\n", 1, true) then state:set(name, keys .. key .. "\n") end
end

local function put_object(bucket, key)
  local etag, size = hash_body()
  if not etag then return refuse(400, "IncompleteBody") end
  local far = bucket:match("^far%-(%d+)")
  if far then ngx.sleep(tonumber(far) / 1000) end
  local rate = bucket:match("^slow%-(%d+)")
  if rate then
    local slot = "slot:" .. bucket .. ":" .. math.floor(ngx.now() * 10)
    ngx.update_time()
    if state:incr(slot, 1, 0, 5) > tonumber(rate) / 10 then
      count("SLOWDOWN")
      return refuse(503, "SlowDown")
    end
  end
  if (ngx.var.http_content_encoding or ""):find("aws-chunked", 1, true) then return refuse(501, "NotImplemented") end
  if bucket:sub(1, 5) == "keys-" then
    local name = "changed:" .. bucket
    local others = (state:get(name) or ""):gsub("[^\n]+\n", function(line)
      if line:sub(1, #key + 1) == key .. "=" then return "" end
    end)
    state:set(name, others .. key .. "=" .. etag .. "\n")
  elseif index_of(key) then
    kept(key):set("o:" .. bucket .. "/" .. key, etag .. " " .. size)
    state:incr("n:" .. bucket, 1, 0)
  elseif size >= 1048576 then
    keep_by_name(bucket, key, etag, size, ngx.var["http_x_amz_meta_mtime"] or "")
  end
  count("PUT")
  count("BYTES", size)
  ngx.header["ETag"] = '"' .. etag .. '"'
  send(200, "")
end

local function put_part(args)
  local upload, number = args["uploadId"], tonumber(args["partNumber"])
  if not state:get("upload:" .. upload) then return refuse(404, "NoSuchUpload") end
  local etag, size = hash_body()
  if not etag then return refuse(400, "IncompleteBody") end
  count("PART")
  count("BYTES", size)
  state:set("part:" .. upload .. ":" .. number, etag .. " " .. size)
  ngx.header["ETag"] = '"' .. etag .. '"'
  send(200, "")
end

local function create_upload(bucket, key)
  ngx.req.read_body()
  count("CREATE")
  local upload = "upload-" .. state:incr("uploads", 1, 0)
  state:set("upload:" .. upload, bucket .. "/" .. key)
  state:set("mtime:" .. upload, ngx.var["http_x_amz_meta_mtime"] or "")
  send(200, XML .. "<InitiateMultipartUploadResult><Bucket>" .. bucket .. "</Bucket><Key>" .. key ..
    "</Key><UploadId>" .. upload .. "</UploadId></InitiateMultipartUploadResult>")
end

local function complete_upload(bucket, key, args)
  ngx.req.read_body()
  count("COMPLETE")
  local body = ngx.req.get_body_data() or io.open(ngx.req.get_body_file()):read("*a")
  local digests, size, upload = {}, 0, args["uploadId"]
  for part in body:gmatch("<Part>(.-)</Part>") do
    local etag = part:match("<ETag>[^%x]-(%x%x%x%x%x%x%x%x+)") or part:match("(%x+)&") or ""
    local stored = state:get("part:" .. upload .. ":" .. (part:match("<PartNumber>(%d+)") or "")) or ""
    size = size + tonumber(stored:match(" (%d+)") or 0)
    digests[#digests + 1] = etag:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)
  end
  local etag = ngx.md5(table.concat(digests)) .. "-" .. #digests
  state:delete("upload:" .. upload)
  keep_by_name(bucket, key, etag, size, state:get("mtime:" .. upload) or "")
  send(200, XML .. "<CompleteMultipartUploadResult><Bucket>" .. bucket .. "</Bucket><Key>" .. key ..
    "</Key><ETag>&quot;" .. etag .. "&quot;</ETag></CompleteMultipartUploadResult>")
end

local function list_parts(args)
  count("LISTPARTS")
  local upload, out = args["uploadId"], {}
  if not state:get("upload:" .. upload) then return refuse(404, "NoSuchUpload") end
  for number = 1, 10000 do
    local etag, size = (state:get("part:" .. upload .. ":" .. number) or ""):match("(%x+) (%d+)")
    if etag then
      out[#out + 1] = "<Part><PartNumber>" .. number .. "</PartNumber><ETag>&quot;" .. etag ..
        "&quot;</ETag><Size>" .. size .. "</Size></Part>"
    end
  end
  send(200, XML .. "<ListPartsResult><UploadId>" .. upload .. "</UploadId><IsTruncated>false</IsTruncated>" ..
    table.concat(out) .. "</ListPartsResult>")
end

local function list_uploads(bucket)
  count("LISTUPLOADS")
  local out = {}
  for i = 1, state:get("uploads") or 0 do
    local where = state:get("upload:upload-" .. i)
    if where and where:sub(1, #bucket + 1) == bucket .. "/" then
      out[#out + 1] = "<Upload><Key>" .. where:sub(#bucket + 2) .. "</Key><UploadId>upload-" .. i ..
        "</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
    end
  end
  send(200, XML .. "<ListMultipartUploadsResult><Bucket>" .. bucket .. "</Bucket><IsTruncated>false</IsTruncated>" ..
    table.concat(out) .. "</ListMultipartUploadsResult>")
end

local function head_object(bucket, key)
  count("HEAD")
  local etag, size, mtime = (state:get("object:" .. bucket .. "/" .. key) or ""):match("(%S+) (%d+) (.*)")
  if etag then
    ngx.header["ETag"] = '"' .. etag .. '"'
    ngx.header["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
    ngx.header["Content-Length"] = size
    if mtime ~= "" then ngx.header["x-amz-meta-mtime"] = mtime end
    ngx.status = 200
    return ngx.req.get_method() == "HEAD" and ngx.send_headers() or ngx.exit(200)
  end
  etag, size = (kept(key):get("o:" .. bucket .. "/" .. key) or ""):match("(%x+) (%d+)")
  if etag then
    ngx.header["ETag"] = '"' .. etag .. '"'
    ngx.header["Content-Length"] = size
    ngx.status = 200
    return ngx.send_headers()
  end
  local total = tonumber(bucket:match("^keys%-(%d+)") or 0)
  local i = search(0, total, function(k) return k >= key end)
  if i == total or key_of(i) ~= key then return refuse(404, "NoSuchKey") end
  ngx.header["ETag"] = '"' .. ETAG .. '"'
  ngx.header["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
  send(200, BODY, "application/octet-stream")
end

-- Routes --------------------------------------------------------------------------------------------------
local function show_counts(method)
  if method == "DELETE" then
    counts:flush_all()
    return send(200, "{}", "application/json")
  end
  local out = {}
  for _, name in ipairs(counts:get_keys(0)) do out[#out + 1] = '"' .. name .. '":' .. counts:get(name) end
  send(200, "{" .. table.concat(out, ",") .. "}", "application/json")
end

local function bucket_request(method, bucket, args)
  if method == "GET" then
    if args["uploads"] then return list_uploads(bucket) end
    if args["location"] then
      count("OTHER")
      return send(200, XML .. '<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>')
    end
    if args["versioning"] then
      count("OTHER")
      return send(200, XML .. '<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>')
    end
    return list(bucket, args)
  end
  ngx.req.read_body()
  if method == "POST" and args["delete"] then
    count("DELETE")
    local out = {}
    for key in (ngx.req.get_body_data() or ""):gmatch("<Key>(.-)</Key>") do
      kept(key):delete("o:" .. bucket .. "/" .. key)
      out[#out + 1] = "<Deleted><Key>" .. key .. "</Key></Deleted>"
    end
    return send(200, XML .. "<DeleteResult>" .. table.concat(out) .. "</DeleteResult>")
  end
  count(method == "HEAD" and "HEADBUCKET" or "OTHER")
  send(method == "DELETE" and 204 or 200, "")
end

function Stub.handle()
  local method, uri = ngx.req.get_method(), ngx.var.uri
  if uri == "/-/counts" then return show_counts(method) end
  local args = ngx.var.args and ngx.req.get_uri_args() or {}
  local bucket, key = uri:match("^/([^/]+)/?(.*)$")
  if not bucket then
    count("OTHER")
    return send(200, XML .. "<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>")
  end
  if key == "" then return bucket_request(method, bucket, args) end
  if method == "PUT" then
    if args["partNumber"] then return put_part(args) end
    return put_object(bucket, key)
  elseif method == "POST" and args["uploads"] then
    return create_upload(bucket, key)
  elseif method == "POST" and args["uploadId"] then
    return complete_upload(bucket, key, args)
  elseif method == "GET" and args["uploadId"] then
    return list_parts(args)
  elseif method == "DELETE" then
    count("DELETE")
    if args["uploadId"] then state:delete("upload:" .. args["uploadId"]) else kept(key):delete("o:" .. bucket .. "/" .. key) end
    return send(204, "")
  end
  return head_object(bucket, key)
end

return Stub
