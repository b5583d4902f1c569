#!/usr/bin/env bash
# A sweep on a real Slurm, of one node that this script starts and stops, against launcher=basic.
#
#     PYTHON=.venv/bin/python tests/runs/slurm.sh      # as root; Debian: apt-get install slurm-wlm munge
#
# It touches no Slurm that is there: its settings, state and sockets lie in a temporary folder.
# There is no accounting, of which submitit warns and then looks for the results themselves.
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null ||
        { echo "there is no $program: apt-get install slurm-wlm munge"; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "slurmd starts jobs as root only"; exit 1; }

python=${PYTHON:-.venv/bin/python}
folder=$(mktemp -d /tmp/pndm-slurm.XXXXXX)
export SLURM_CONF=$folder/slurm.conf OMP_NUM_THREADS=1
daemons=()
stop() {
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        kill "${daemons[i]}" 2>/dev/null && wait "${daemons[i]}" || true
    done
    rm -rf "$folder"
}
trap stop EXIT

# Munge wants every folder above its socket closed to other writers, or the sticky /tmp.
chmod 755 "$folder"
head --bytes=1024 /dev/urandom >"$folder/munge.key"
chmod 400 "$folder/munge.key"
cat >"$SLURM_CONF" <<CONF
ClusterName=pndm
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=here Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
# Slurm can do without cgroups from 23.11 on; before, their plugin is loaded, and left unused.
case $(slurmd -V) in *\ 2[0-2].* | *\ 23.0*) plugin=cgroup/v1 ;; *) plugin=disabled ;; esac
echo "CgroupPlugin=$plugin" >"$folder/cgroup.conf"
mkdir "$folder/state" "$folder/spool"

munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --seed-file="$folder/munged.seed" \
    --log-file="$folder/munged.log" 2>"$folder/munged.err" & daemons+=($!)
slurmctld -D -i 2>"$folder/slurmctld.err" & daemons+=($!)
slurmd -D 2>"$folder/slurmd.err" & daemons+=($!)
for _ in $(seq 60); do
    state=$(sinfo --noheader --format=%T 2>/dev/null || true)
    [ "$state" = idle ] && break
    sleep 1
done
[ "$state" = idle ] || { tail "$folder"/*.err; exit 1; }

sweep=(-m solver=ddim,plms steps=2,3 samples=1000 device=cpu progress=false wandb.mode=disabled)
there=(hydra.launcher.gpus_per_node=0 hydra.launcher.cpus_per_task=1 hydra.launcher.timeout_min=10)
"$python" run.py "${sweep[@]}" outputs="$folder/basic"
"$python" run.py "${sweep[@]}" outputs="$folder/slurm" launcher=slurm "${there[@]}"
echo "two tasks for each cell"
"$python" run.py "${sweep[@]}" outputs="$folder/tasks" launcher=slurm "${there[@]}" \
    hydra.launcher.tasks_per_node=2

"$python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path


def table(folder):
    found = {path: json.loads(path.read_text()) for path in folder.rglob("metrics.json")}
    keys = ("status", "nfe", "fid", "key")
    return {str(p.relative_to(folder)): [r[key] for key in keys] for p, r in found.items()}


basic, slurm, tasks = (table(Path(sys.argv[1], name)) for name in ("basic", "slurm", "tasks"))
assert len(basic) == 4 and basic == slurm == tasks, (basic, slurm, tasks)
print("the same four records from launcher=basic, launcher=slurm and two tasks for each cell")
PYTHON
