"""Exit status 0 when the server in this container answers /healthz with 200, else 1 and the reason.

It names a host of ALLOWED_HOSTS, so that a list without `localhost` does not make a healthy server look ill.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_SECONDS = 4.0


def main() -> int:
    port = int(os.environ.get("API_PORT") or 5000)
    hosts = (os.environ.get("ALLOWED_HOSTS") or "localhost").split(",")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz", headers={"Host": hosts[0].strip()})
        answer = connection.getresponse()
        body = answer.read(1000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error}")
        return 1
    finally:
        connection.close()
    print(body)
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
