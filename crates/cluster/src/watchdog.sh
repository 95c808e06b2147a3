# Ends a throw-away cluster: waits until its owner closes standard input, which the kernel does for an owner that was
# killed, then stops every server process and removes the directory.
#
# $1 the cluster's directory, $2 its data directory. A process is one of the cluster's servers if and only if it works
# in that data directory (PostgreSQL changes into it) and its program is `postgres`; nothing else is ever signalled.

trap '' HUP INT QUIT TERM
directory=$1 data=$2
cd / || exit 1

servers() {
  find /proc -maxdepth 2 -name cwd -lname "$data" 2>/dev/null | cut -d / -f 3 | while read -r pid; do
    case $(readlink "/proc/$pid/exe") in */postgres | */postgres\ *) echo "$pid" ;; esac
  done
}

# wait_gone TENTHS_OF_A_SECOND
wait_gone() {
  left=$(($1 * 2))
  while [ -n "$(servers)" ]; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || return 1
    sleep 0.05
  done
}

while read -r _; do :; done

# Immediate shutdown, which also removes shared memory.
postmaster=$(head -n 1 "$data/postmaster.pid" 2>/dev/null)
for pid in $(servers); do [ "$pid" != "$postmaster" ] || kill -QUIT "$pid" 2>/dev/null; done
if [ -z "$postmaster" ] || ! wait_gone 50; then
  for pid in $(servers); do kill -KILL "$pid" 2>/dev/null; done
  wait_gone 50
fi

# A postmaster that was killed leaves its lock file, whose line 7 ends with the id of a System V segment.
segment=$(sed -n '7s/^ *[0-9]* *\([0-9][0-9]*\) *$/\1/p' "$data/postmaster.pid" 2>/dev/null)
[ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null

# An initdb which the owner left running may still be writing; it fails soon, for lack of its directory.
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  rm -rf "$directory" 2>/dev/null
  [ -e "$directory" ] || exit 0
  sleep 0.1
done
exit 1
