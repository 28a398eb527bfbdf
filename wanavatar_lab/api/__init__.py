"""The service: the requests, runs and queue of this package for scripts and front ends, over HTTP.

    wanavatar-lab serve --profile pocket      or: make api

options    what `wanavatar-lab serve` sets
server     the process: uvicorn with limits on headers and times
app        the application, put together of the routers below
guard      which requests are answered at all: host, origin, token
body       bodies of requests, limited in size and time
places     which file a path in a request means, and the names of results
fields     how an endpoint names the fields of a request; its schema
tasks      submit, watch and cancel runs; limits per client
processes  a process beside the service that looks into files and submits runs
generate   /api/generate…, /api/status, /api/cancel, /api/events
uploads    /api/upload…, /api/uploads…
outputs    /api/outputs, /api/videos, and the files themselves
facts      /api/config, /api/health, /api/t2i-status, /api/lora-adapters
tools      /api/extract-audio, /api/extract-frame, /api/separate-vocals
videos     /v1/videos…
page       / and /docs
"""
