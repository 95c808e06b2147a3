#!/bin/sh
# Installs what this package has for the PostgreSQL of a pg_config: install.sh /path/to/pg_config [PREFIX]
# install.sh --remove … takes the same files away again. PREFIX is where the programs go, /usr/local if not given.
# DESTDIR is put before every path.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
remove=
[ "${1:-}" != --remove ] || { remove=yes && shift; }
pg_config=${1:?usage: install.sh [--remove] /path/to/pg_config [PREFIX]}
prefix=${2:-/usr/local}

built_for=$(cat "$here/POSTGRESQL")
major=$("$pg_config" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
[ "$major" = "$built_for" ] || {
  echo "install.sh: this package is for PostgreSQL $built_for, $pg_config is of $major" >&2
  exit 1
}

# put FROM TO MODE: by a rename, so that a running server never maps half a file.
put() {
  to=${DESTDIR:-}$2
  if [ -n "$remove" ]; then
    [ ! -e "$to" ] || { rm -f "$to" && echo "removed $to"; }
    return 0
  fi
  mkdir -p "$(dirname "$to")"
  install -m "$3" "$1" "$to.new"
  mv -f "$to.new" "$to"
  echo "installed $to"
}

extension=$("$pg_config" --sharedir)/extension
put "$here/lib/ruvector.so" "$("$pg_config" --pkglibdir)/ruvector.so" 755
for file in "$here"/extension/*; do put "$file" "$extension/${file##*/}" 644; done
for program in "$here"/bin/*; do put "$program" "$prefix/bin/${program##*/}" 755; done
for page in "$here"/man/*.1; do put "$page" "$prefix/share/man/man1/${page##*/}" 644; done
put "$here/completions/ruvectorctl.bash" "$prefix/share/bash-completion/completions/ruvectorctl" 644
put "$here/completions/_ruvectorctl" "$prefix/share/zsh/site-functions/_ruvectorctl" 644
put "$here/completions/ruvectorctl.fish" "$prefix/share/fish/vendor_completions.d/ruvectorctl.fish" 644

[ -z "$remove" ] || exit 0
cat <<END

Then: shared_preload_libraries = 'ruvector' in postgresql.conf (beside what is there), restart the server,
CREATE EXTENSION ruvector CASCADE in each database, and ruvectorctl doctor.
END
