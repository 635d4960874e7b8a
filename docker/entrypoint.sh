#!/bin/sh
# What the container runs: the server, and at the end an orderly stop of its workers.
#
# Workers live in sessions of their own so that they outlive a server; they cannot outlive a container, whose
# end is a SIGKILL to all of it. So when the container is told to stop, or the server ends, every process in it
# gets SIGTERM: each worker finishes the operation in flight and writes `interrupted`. The next start resumes
# them (AUTO_RESUME). What is not done within the container's grace period is killed, and resumed all the same.
#
# It does not restart anything: that is the container's restart policy.
set -eu

# Inside a container the server listens on all of the container's own addresses. Who can reach them is decided
# by the address the port is published on: loopback is as good as listening on loopback, anything else wants a
# token. API_BIND is that address; without it the server itself refuses to start without a token.
case "${API_BIND:-}" in
127.* | localhost | ::1 | "[::1]")
    export API_ALLOW_UNAUTHENTICATED="${API_ALLOW_UNAUTHENTICATED:-1}"
    ;;
esac

# `kill -1` means everybody in this process's PID namespace. Only where that is the container, with the init or
# this shell as its first process, and never with the host's (`--pid=host`).
if [ "$$" != 1 ] && [ "$PPID" != 1 ]; then
    exec "$@"
fi

# To everybody but the init and this shell. Fails when nobody is left.
everybody() { kill "-$1" -1 2>/dev/null; }

trap 'everybody TERM || :' TERM INT
"$@" &
server=$!
status=0
wait "$server" || status=$?
while kill -0 "$server" 2>/dev/null; do # a trapped signal ends `wait` before the server has ended
    status=0
    wait "$server" || status=$?
done
everybody TERM || :
while everybody 0; do sleep 0.1; done
exit "$status"
