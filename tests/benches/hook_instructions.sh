#!/usr/bin/env bash
# Instructions that the preloaded library adds to a statement while nothing is throttled: a single-user server under
# valgrind, with and without it, the same statements more and less often. Deterministic, so it needs no repetition.
# Usage: tests/benches/hook_instructions.sh [18|15]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
bin=$(dirname "$("$here/toolchain/postgres${1:-18}" 2>/dev/null)")
command -v valgrind >/dev/null || { echo "valgrind is not there" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# PostgreSQL refuses root.
as=()
if [ "$(id -u)" = 0 ]; then
  chown nobody "$work"
  as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi

"${as[@]}" "$bin/initdb" -D "$work/data" -U postgres >/dev/null
printf 'CREATE TABLE one (id int)\nINSERT INTO one VALUES (1)\n' |
  "${as[@]}" "$bin/postgres" --single -D "$work/data" -F postgres >/dev/null

# instructions LIBRARY STATEMENTS WHAT
instructions() {
  echo "DO \$\$ BEGIN FOR i IN 1..$2 LOOP $3; END LOOP; END \$\$" |
    (cd "$work" && "${as[@]}" valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null \
      "$bin/postgres" --single -D "$work/data" -F -c shared_preload_libraries="$1" postgres 2>&1) |
    sed -n 's/.*I *refs: *//p' | tr -d ,
}

for what in "PERFORM FROM one" "UPDATE one SET id = 2 WHERE id = 3" "INSERT INTO one SELECT 1 WHERE false" \
  "INSERT INTO one VALUES (1)"; do
  per() { echo $((($(instructions "$1" 6000 "$what") - $(instructions "$1" 1000 "$what")) / 5000)); }
  without=$(per "")
  with=$(per ruvector)
  printf '%-40s %6d without, %6d with: %+d instructions a statement\n' "$what" "$without" "$with" $((with - without))
done
