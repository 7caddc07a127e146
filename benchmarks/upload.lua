-- wrk sends one prepared request again and again: a POST whose body is as long as the download (10 MiB).
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"
wrk.body = string.rep("\0", 160 * 64 * 1024)
