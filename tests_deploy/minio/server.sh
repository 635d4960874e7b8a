#!/bin/sh
# server /data --console-address :9001   (with MINIO_ROOT_USER, MINIO_ROOT_PASSWORD), as MinIO is started.
set -eu
[ "$1" = server ] && [ "$2" = /data ] && [ "$3" = --console-address ] || { echo "unknown command: $*"; exit 2; }
: "${MINIO_ROOT_USER:?}" "${MINIO_ROOT_PASSWORD:?}"
if [ ! -e /data/formatted ]; then
    juicefs --no-agent format --storage file --bucket /data/objects/ --trash-days 0 --no-update \
        badger:///data/meta standin
    touch /data/formatted
fi
exec juicefs --no-agent gateway --no-banner --multi-buckets --keep-etag --object-meta --no-usage-report \
    --backup-meta 0 --metrics 127.0.0.1:0 --cache-dir /tmp/cache --cache-size 0 --bucket /data/objects/ \
    badger:///data/meta 0.0.0.0:9000
