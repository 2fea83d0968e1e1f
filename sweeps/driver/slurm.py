"""A batch script for Slurm: a Ray cluster on the nodes of an allocation, and a sweep on it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

SIGNAL_SECONDS = 300
"""So long before its time is over Slurm tells the script, which ends the sweep in order."""
JOIN_SECONDS = 600
"""An allocation whose nodes have not all joined after so long is given up."""


@dataclass(frozen=True)
class Allocation:
    """What Slurm is asked for; empty texts leave a choice to the cluster.

    Attributes:
        setup: a line of bash that every node runs first.
        container: an image that Ray and the sweep run in, through Apptainer; "none": in none.
        requeue: whether the job goes back to the queue where its time ended before its sweep.
    """

    nodes: int
    gpus_per_node: int
    cpus_per_task: int
    time: str
    partition: str
    account: str
    job_name: str
    setup: str
    container: str
    requeue: bool


def batch_script(asked: Allocation, sweep: Sequence[str], resume: Sequence[str], status: Sequence[str]) -> str:
    """Returns the script.

    Args:
        asked: the allocation. Its texts but `setup` and `container` are words: lines for Slurm know no quotes.
        sweep: the words after `drorae` that start the sweep.
        resume: those that go on with it, which a job takes that Slurm has started again.
        status: those that succeed where the sweep was begun.
    """
    wanted = {
        "job-name": asked.job_name,
        "nodes": asked.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": asked.cpus_per_task,
        "gpus-per-node": asked.gpus_per_node or "",
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "signal": f"B:USR1@{SIGNAL_SECONDS}",
        "output": "%x-%j.log",
        "open-mode": "append",
    }
    inside = ["env"]
    if asked.container != "none":
        inside = ["apptainer", "exec", *(["--nv"] if asked.gpus_per_node else []), asked.container]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}={value}" for name, value in wanted.items() if value != ""),
        *(["#SBATCH --requeue"] if asked.requeue else []),
        "",
        "# Written by `drorae cluster slurm`; submit it with sbatch. The same script, submitted again, goes on.",
        "# shellcheck disable=SC2329 # functions that traps and nodes call",
        "# shellcheck disable=SC1003,SC2016,SC2088 # words as they were given, in quotes",
        f"cpus={asked.cpus_per_task}",
        f"gpus={asked.gpus_per_node}",
        f"join_seconds={JOIN_SECONDS}",
        f"requeue={'yes' if asked.requeue else 'no'}",
        f"setup={shlex.quote(asked.setup)}",
        f"inside=({shlex.join(inside)})",
        f"sweep_words=({shlex.join(sweep)})",
        f"resume_words=({shlex.join(resume)})",
        f"status_words=({shlex.join(status)})",
    ]
    return "\n".join(lines) + "\n" + _BODY


_BODY = r"""
set -uo pipefail

say() { printf '%s %s\n' "$(date '+%F %T')" "$*" >&2; }

# The address that other nodes reach this one at; its name may stand for the loopback.
own_address() {
  local found
  for found in $(hostname --ip-address 2> /dev/null) $(hostname -I 2> /dev/null); do
    case $found in
      127.* | 169.254.* | *:*) ;;
      *) printf '%s\n' "$found"; return 0 ;;
    esac
  done
  say "$(hostname): no address that other nodes could reach"
  return 1
}

# Modules and virtual environments read variables that are not set.
set_up() {
  local code
  set +u
  eval "$1"
  code=$?
  set -u
  [ "$code" -eq 0 ] || say "$(hostname): the line of --setup failed with status $code"
  return "$code"
}

# Runs on a node, through srun, and becomes its Ray process.
start_node() {
  local role=$1 head=$2 port=$3 cpus=$4 gpus=$5 job=$6 setup=$7 address=$2 where
  shift 7
  set_up "$setup" || exit 1
  if [ "$role" = head ]; then
    where=(--head "--port=$port" "--ray-client-server-port=$((port + 2))" --include-dashboard=false)
  else
    address=$(own_address) || exit 1
    where=("--address=$head:$port")
  fi
  # Other users, and other jobs of this one, may have a Ray of their own on this node.
  exec "$@" ray start "${where[@]}" "--node-ip-address=$address" "--num-cpus=$cpus" "--num-gpus=$gpus" \
    "--temp-dir=/tmp/drorae-ray-$job" "--dashboard-agent-listen-port=$((port + 1))" --disable-usage-stats --block
}

launch() {
  local role=$1 node=$2 step
  step=(srun --nodes=1 --ntasks=1 "--nodelist=$node" "--cpus-per-task=$cpus" --export=ALL)
  [ "$gpus" -eq 0 ] || step+=("--gpus-per-node=$gpus")
  "${step[@]}" bash -c "$(declare -f say own_address set_up start_node); start_node \"\$@\"" start_node \
    "$role" "$address" "$port" "$cpus" "$gpus" "$SLURM_JOB_ID" "$setup" "${inside[@]}" < /dev/null &
  steps+=("$!")
}

# How many nodes the head knows; 0 where it does not answer.
joined() {
  "${inside[@]}" ray status "--address=$address:$port" 2> /dev/null |
    awk '/^(Active|Idle):/ {on = 1; next} /^[^ ]/ {on = 0} on && $2 ~ /^node_/ {count += $1} END {print count + 0}'
}

await_nodes() {
  local deadline=$((SECONDS + join_seconds)) step found
  while found=$(joined); [ "${found:-0}" -lt "$1" ]; do
    for step in "${steps[@]}"; do
      kill -0 "$step" 2> /dev/null || { say "a node's Ray ended before all nodes had joined"; exit 1; }
    done
    [ "$SECONDS" -lt "$deadline" ] || { say "${found:-0} of $1 nodes joined within $join_seconds s"; exit 1; }
    # In the background: a signal is heard at once.
    sleep 1 &
    wait "$!"
  done
}

# The exit status of the sweep, whatever signals come meanwhile.
await_sweep() {
  local code=127 before
  while stirred=no; do
    before=$code
    wait "$running"
    code=$?
    # It was there already when the signal came.
    [ "$code" -ne 127 ] || code=$before
    [ "$stirred" = yes ] || return "$code"
  done
}

stop() {
  stirred=yes
  if [ -n "$running" ]; then kill -TERM "$running" 2> /dev/null; else exit "$1"; fi
}

out_of_time() {
  timed_out=yes
  say "the allocation's time is nearly over"
  stop 143
}

finish() {
  local code=$? step left
  trap '' TERM INT USR1
  # Workers before the head.
  for ((left = ${#steps[@]} - 1; left >= 0; left--)); do kill -TERM "${steps[left]}" 2> /dev/null; done
  for ((left = 30; left > 0; left--)); do
    for step in "${steps[@]}"; do kill -0 "$step" 2> /dev/null && sleep 1 && continue 2; done
    break
  done
  for step in "${steps[@]}"; do kill -KILL "$step" 2> /dev/null; done
  rm -- "$private/token" && rmdir -- "$private"
  if [ "$timed_out" = yes ] && [ "$code" -ge 128 ]; then
    if [ "$requeue" = yes ]; then
      say "back to the queue"
      scontrol requeue "$SLURM_JOB_ID"
    else
      say "the sweep is not finished; submit this script again to go on"
    fi
  fi
  exit "$code"
}

steps=() running='' stirred=no timed_out=no
unset RAY_ADDRESS RAY_AUTH_TOKEN
# Of the user alone, and below the home folder, which nodes share.
private=$(mktemp -d "$HOME/.drorae-ray-$SLURM_JOB_ID.XXXXXX") || exit 1
(umask 077 && od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n' > "$private/token") || exit 1
trap finish EXIT
trap 'stop 143' TERM
trap 'stop 130' INT
trap out_of_time USR1
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$private/token" RAY_USAGE_STATS_ENABLED=0

set_up "$setup" || exit 1
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# This script runs on the first node.
address=$(own_address) || exit 1
port=$((20000 + 3 * (SLURM_JOB_ID % 3000)))
launch head "${nodes[0]}"
await_nodes 1
for node in "${nodes[@]:1}"; do launch worker "$node"; done
await_nodes "${#nodes[@]}"
say "${#nodes[@]} nodes at $address:$port"

words=("${sweep_words[@]}")
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && "${inside[@]}" drorae "${status_words[@]}" > /dev/null 2>&1; then
  words=("${resume_words[@]}")
fi
# In the environment, not as --address: a sweep keeps its settings, and the next allocation has another address.
"${inside[@]}" env "RAY_ADDRESS=$address:$port" drorae "${words[@]}" < /dev/null &
running=$!
await_sweep
exit "$?"
"""
