#!/bin/sh
#SBATCH --job-name=s3-sync-cluster
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem-per-cpu=512M
#SBATCH --time=04:00:00
# A member of a cluster on each node, for as long as the allocation lasts (docs/cluster.md):
#     sbatch deploy/cluster.slurm.sh tls://10.0.0.1:8786
# It runs from the folder of the program, whose .env names UPLOADS_DIR, CLUSTER_TLS_CA, CLUSTER_TLS_CERT and
# CLUSTER_TLS_KEY: files that all nodes see, one certificate for all of them, readable by their owner alone.
# A member ends when its scheduler is gone, and is started again. More nodes: sbatch --nodes=32.
set -eu

scheduler=${1:?the address of the scheduler, like tls://10.0.0.1:8786}
python=${SYNC_PYTHON:-.venv/bin/python}

# shellcheck disable=SC2016 # it is the shell of each node that is to know them
exec srun --kill-on-bad-exit=0 sh -c '
    trap "exit 0" TERM INT
    while :; do
        "$0" -m syncworker cluster worker "$1" &
        wait $! || :
        sleep 1
    done
' "$python" "$scheduler"
