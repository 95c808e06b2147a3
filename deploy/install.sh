#!/bin/sh
# Installs what this package has for the PostgreSQL of a pg_config: install.sh /path/to/pg_config [PREFIX]
# PREFIX is where ruvectorctl goes, /usr/local if not given. DESTDIR is put before every path.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
pg_config=${1:?usage: install.sh /path/to/pg_config [PREFIX]}
prefix=${2:-/usr/local}

built_for=$(cat "$here/POSTGRESQL")
major=$("$pg_config" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
[ "$major" = "$built_for" ] || {
  echo "install.sh: this package is for PostgreSQL $built_for, $pg_config is of $major" >&2
  exit 1
}

# put FROM TO MODE: by a rename, so that a running server never maps half a file.
put() {
  mkdir -p "$(dirname "${DESTDIR:-}$2")"
  install -m "$3" "$1" "${DESTDIR:-}$2.new"
  mv -f "${DESTDIR:-}$2.new" "${DESTDIR:-}$2"
  echo "installed ${DESTDIR:-}$2"
}

extension=$("$pg_config" --sharedir)/extension
put "$here/lib/ruvector.so" "$("$pg_config" --pkglibdir)/ruvector.so" 755
for file in "$here"/extension/*; do put "$file" "$extension/${file##*/}" 644; done
put "$here/bin/ruvectorctl" "$prefix/bin/ruvectorctl" 755
for page in "$here"/man/*.1; do put "$page" "$prefix/share/man/man1/${page##*/}" 644; done
put "$here/completions/ruvectorctl.bash" "$prefix/share/bash-completion/completions/ruvectorctl" 644
put "$here/completions/_ruvectorctl" "$prefix/share/zsh/site-functions/_ruvectorctl" 644
put "$here/completions/ruvectorctl.fish" "$prefix/share/fish/vendor_completions.d/ruvectorctl.fish" 644

cat <<END

Then: shared_preload_libraries = 'ruvector' in postgresql.conf (beside what is there), restart the server,
CREATE EXTENSION ruvector CASCADE in each database, and ruvectorctl doctor.
END
